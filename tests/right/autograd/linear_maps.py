"""Every operation is a sparse matrix of slopes (rows, columns, values) on flat entries; backward is one bincount."""

import math

import numpy as np


class Value:
    """Derivatives by an explicit agenda in the order of birth."""

    born = 0

    def __init__(self, data):
        self.data, self.grad, self.slopes = data, 0.0, {}
        Value.born += 1
        self.birth = Value.born

    def _make(self, data, *slopes):
        out = Value(data)
        for parent, slope in slopes:
            out.slopes[parent] = out.slopes.get(parent, 0.0) + slope
        return out

    def _of(self, x):
        return (x, x.data) if isinstance(x, Value) else (None, x)

    def _binary(self, data, first, other, second):
        return self._make(data, (self, first), *([(other, second)] if other is not None else []))

    def __add__(self, x):
        other, b = self._of(x)
        return self._binary(self.data + b, 1.0, other, 1.0)

    def __sub__(self, x):
        other, b = self._of(x)
        return self._binary(self.data - b, 1.0, other, -1.0)

    def __mul__(self, x):
        other, b = self._of(x)
        return self._binary(self.data * b, b, other, self.data)

    def __truediv__(self, x):
        other, b = self._of(x)
        return self._binary(self.data / b, 1 / b, other, -self.data / (b * b))

    def __radd__(self, x):
        return self._make(x + self.data, (self, 1.0))

    def __rsub__(self, x):
        return self._make(x - self.data, (self, -1.0))

    def __rmul__(self, x):
        return self._make(x * self.data, (self, x))

    def __rtruediv__(self, x):
        return self._make(x / self.data, (self, -x / self.data / self.data))

    def __neg__(self):
        return self._make(-self.data, (self, -1.0))

    def __pow__(self, n):
        slope = 0.0 if n == 0 else n * math.pow(self.data, n - 1)
        return self._make(math.pow(self.data, n), (self, slope))

    def exp(self):
        return self._make(math.exp(self.data), (self, math.exp(self.data)))

    def log(self):
        return self._make(math.log(self.data), (self, math.pow(self.data, -1)))

    def tanh(self):
        t = math.tanh(self.data)
        return self._make(t, (self, (1 + t) * (1 - t)))

    def relu(self):
        return self._make(self.data if self.data > 0 else 0.0, (self, int(self.data > 0)))

    def _below(self):
        found, stack = {self}, [self]
        while stack:
            new = stack.pop().slopes.keys() - found
            found |= new
            stack.extend(new)
        return sorted(found, key=lambda node: -node.birth)

    def backward(self):
        total = {self: 1.0}
        for node in self._below():
            flow = total[node]
            node.grad += flow
            for parent, slope in node.slopes.items():
                total[parent] = total.get(parent, 0.0) + slope * flow

    def zero_grad(self):
        for node in self._below():
            node.grad = 0.0


def numbered(shape):
    return np.arange(math.prod(shape)).reshape(shape)


class Tensor:
    def __init__(self, data, requires_grad=False):
        self.data = np.array(data, np.float64)
        self.requires_grad = requires_grad
        self.grad = None
        self.maps = []

    def _from(self, data, *maps):
        """maps: (parent, rows, columns, values): d out[row] / d parent[column] = value, summed over repeats."""
        out = Tensor(data)
        for parent, *entries in maps:
            if parent.requires_grad:
                out.requires_grad = True
                out.maps.append((parent, *(np.ravel(a) for a in np.broadcast_arrays(*entries))))
        return out

    def _both(self, x, f, slopes):
        other = x if isinstance(x, Tensor) else Tensor(x)
        a, b = self.data, other.data
        out = f(a, b)
        rows = numbered(out.shape)
        first, second = (np.broadcast_to(numbered(t.shape), out.shape) for t in (a, b))
        by_a, by_b = (np.broadcast_to(s, out.shape) for s in slopes(a, b))
        return self._from(out, (self, rows, first, by_a), (other, rows, second, by_b))

    def _one(self, out, slope):
        place = numbered(out.shape)
        return self._from(out, (self, place, place, slope))

    def _moved(self, places):
        places = np.asarray(places)
        return self._from(self.data.ravel()[places], (self, numbered(places.shape), places, 1.0))

    def __add__(self, x):
        return self._both(x, np.add, lambda a, b: (1.0, 1.0))

    def __sub__(self, x):
        return self._both(x, np.subtract, lambda a, b: (1.0, -1.0))

    def __mul__(self, x):
        return self._both(x, np.multiply, lambda a, b: (b, a))

    def __truediv__(self, x):
        return self._both(x, np.divide, lambda a, b: (1 / b, -a / b**2))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, x):
        return self._both(x, lambda a, b: b - a, lambda a, b: (-1.0, 1.0))

    def __rtruediv__(self, x):
        return self._both(x, lambda a, b: b / a, lambda a, b: (-b / a**2, 1 / a))

    def __neg__(self):
        return self._one(-self.data, -1.0)

    def __pow__(self, n):
        return self._one(self.data**n, n * self.data ** (n - 1) if n != 0 else 0.0)

    def exp(self):
        return self._one(np.exp(self.data), np.exp(self.data))

    def log(self):
        return self._one(np.log(self.data), np.reciprocal(self.data))

    def tanh(self):
        t = np.tanh(self.data)
        return self._one(t, 1 - t * t)

    def relu(self):
        return self._one(np.fmax(self.data, 0), self.data > 0)

    def __matmul__(self, other):
        a, b = self.data, other.data
        out = a @ b
        if min(a.ndim, b.ndim) < 2:
            raise ValueError("a vector is no matrix")
        lead = out.shape[:-2]
        left = np.broadcast_to(numbered(a.shape), lead + a.shape[-2:])[..., :, :, None]  # (..., n, k, 1)
        right = np.broadcast_to(numbered(b.shape), lead + b.shape[-2:])[..., None, :, :]  # (..., 1, k, m)
        rows = numbered(out.shape)[..., :, None, :]  # (..., n, 1, m)
        return self._from(out, (self, rows, left, b.ravel()[right]), (other, rows, right, a.ravel()[left]))

    def _folded(self, axis, keepdims):
        """For each entry the place of its sum."""
        kept = np.sum(np.empty(self.data.shape), axis=axis, keepdims=True).shape
        return np.broadcast_to(numbered(kept), self.data.shape)

    def sum(self, axis=None, keepdims=False):
        out = self.data.sum(axis=axis, keepdims=keepdims)
        return self._from(out, (self, self._folded(axis, keepdims), numbered(self.data.shape), 1.0))

    def mean(self, axis=None, keepdims=False):
        out = self.data.mean(axis=axis, keepdims=keepdims)
        share = out.size / self.data.size
        return self._from(out, (self, self._folded(axis, keepdims), numbered(self.data.shape), share))

    def max(self, axis=None, keepdims=False):
        out = self.data.max(axis=axis, keepdims=True)
        tied = self.data == out
        place = self._folded(axis, keepdims)
        share = 1 / tied.sum(axis=axis, keepdims=True)
        return self._from(
            self.data.max(axis=axis, keepdims=keepdims),
            (self, place[tied], np.flatnonzero(tied), np.broadcast_to(share, tied.shape)[tied]),
        )

    def reshape(self, *shape):
        return self._moved(numbered(self.data.shape).reshape(*shape))

    def transpose(self, *axes):
        return self._moved(numbered(self.data.shape).transpose(*axes))

    def __getitem__(self, index):
        return self._moved(numbered(self.data.shape)[index])

    def backward(self, grad=None):
        if grad is None and self.data.shape != ():
            raise RuntimeError("backward needs grad: this is no scalar")
        seen, order, stack = set(), [], [(self, False)]
        while stack:
            node, left = stack.pop()
            if left:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((parent, False) for parent, *_ in node.maps)
        total = {id(node): np.zeros(node.data.size) for node in order}
        total[id(self)] += 1.0 if grad is None else np.ravel(grad)
        for node in reversed(order):
            for parent, rows, columns, values in node.maps:
                flow = np.bincount(columns, values * total[id(node)][rows], parent.data.size)
                total[id(parent)] += flow
            if node.requires_grad and not node.maps:
                flow = total[id(node)].reshape(node.data.shape)
                node.grad = flow if node.grad is None else node.grad + flow


def cross_entropy(logits, targets):
    n = len(targets)
    x = logits.data
    top = x.max(axis=1)
    share = np.exp(x - top[:, None])
    log_sum = np.log(share.sum(axis=1))
    slope = share / share.sum(axis=1, keepdims=True)
    slope[np.arange(n), targets] -= 1
    loss = np.mean(log_sum + (top - x[np.arange(n), targets]))
    return logits._from(loss, (logits, 0, numbered(x.shape), slope / n))


def fit(x, y, *, n_classes, seed):
    rng = np.random.default_rng(seed)
    scale = np.sqrt(np.mean(np.square(x))) + 1e-12
    first = Tensor(rng.normal(0, np.sqrt(2 / x.shape[1]), (x.shape[1], 32)), requires_grad=True)
    second = Tensor(rng.normal(0, np.sqrt(2 / 32), (32, n_classes)), requires_grad=True)
    bias = Tensor(np.zeros(32), requires_grad=True)
    parameters = (first, second, bias)
    speed = [np.zeros_like(p.data) for p in parameters]

    def scores(rows):
        return (Tensor(rows / scale) @ first + bias).relu() @ second

    for _ in range(15):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 32):
            rows = order[start : start + 32]
            cross_entropy(scores(x[rows]), y[rows]).backward()
            for p, v in zip(parameters, speed, strict=True):
                v *= 0.9
                v -= 0.05 * p.grad
                p.data += v
                p.grad = None
    return lambda rows: scores(rows).data.argmax(axis=1)
