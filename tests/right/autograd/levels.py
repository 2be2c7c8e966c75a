"""Each result knows its height above the leaves; backward empties buckets from the highest down. RMSprop."""

from functools import reduce
from math import cosh, exp, isfinite, log, prod, tanh
from operator import add

import numpy as np


def by_height(root):
    """Buckets of nodes, those of the same height together, the root's first."""
    buckets = [[] for _ in range(root.height + 1)]
    found = {id(root)}
    stack = [root]
    while stack:
        node = stack.pop()
        buckets[node.height].append(node)
        for parent, *_ in node.edges:
            if id(parent) not in found:
                found.add(id(parent))
                stack.append(parent)
    return reversed(buckets)


class Value:
    __slots__ = ("data", "edges", "flow", "grad", "height")

    def __init__(self, data, *edges):
        self.data, self.grad, self.edges, self.flow = data, 0.0, edges, 0.0
        self.height = 1 + max((parent.height for parent, _ in edges), default=-1)

    def __add__(self, other):
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, 1.0), (other, 1.0))
        return Value(self.data + other, (self, 1.0))

    def __neg__(self):
        return Value(-self.data, (self, -1.0))

    def __sub__(self, other):
        if isinstance(other, Value):
            return Value(self.data - other.data, (self, 1.0), (other, -1.0))
        return Value(self.data - other, (self, 1.0))

    def __rsub__(self, other):
        return Value(other - self.data, (self, -1.0))

    def __mul__(self, other):
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other.data), (other, self.data))
        return Value(self.data * other, (self, float(other)))

    def reciprocal(self):
        inverse = 1 / self.data
        return Value(inverse, (self, -inverse * inverse))

    def __truediv__(self, other):
        return self * (other.reciprocal() if isinstance(other, Value) else 1 / other)

    def __rtruediv__(self, other):
        return self.reciprocal() * other

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, n):
        match n:
            case 0:
                return Value(1.0, (self, 0.0))
            case 1:
                return Value(self.data, (self, 1.0))
            case 2:
                return Value(self.data * self.data, (self, 2 * self.data))
            case _:
                return Value(self.data**n, (self, n * self.data ** (n - 1)))

    def exp(self):
        e = exp(self.data)
        return Value(e, (self, e))

    def log(self):
        return Value(log(self.data), (self, 1 / self.data))

    def tanh(self):
        return Value(tanh(self.data), (self, cosh(min(abs(self.data), 400.0)) ** -2.0))

    def relu(self):
        return Value(max(0.0, self.data), (self, 1.0 if self.data > 0 else 0.0))

    def backward(self):
        self.flow = 1.0
        for bucket in by_height(self):
            for node in bucket:
                node.grad += node.flow
                for parent, slope in node.edges:
                    parent.flow += node.flow * slope
                node.flow = 0.0

    def zero_grad(self):
        for bucket in by_height(self):
            for node in bucket:
                node.grad = 0.0


class Tensor:
    """Edges are (parent, pull), to those parents that need a gradient alone."""

    __array_ufunc__ = None

    def __init__(self, data, requires_grad=False, edges=()):
        self.data = np.array(data, dtype=np.double)
        self.edges = [(parent, pull) for parent, pull in edges if parent.requires_grad]
        self.requires_grad = bool(requires_grad or self.edges)
        self.height = 1 + max((parent.height for parent, _ in self.edges), default=-1)
        self.grad = None

    def __add__(self, other):
        other = tensor(other)
        return Tensor(self.data + other.data, edges=((self, cut(self)), (other, cut(other))))

    def __neg__(self):
        return Tensor(-self.data, edges=((self, np.negative),))

    def __mul__(self, other):
        other = tensor(other)
        left, right = cut(self), cut(other)
        return Tensor(
            self.data * other.data,
            edges=((self, lambda g: left(g * other.data)), (other, lambda g: right(g * self.data))),
        )

    def __sub__(self, other):
        return self + -tensor(other)

    def __rsub__(self, other):
        return -self + other

    def __truediv__(self, other):
        return self * tensor(other).reciprocal()

    def __rtruediv__(self, other):
        return self.reciprocal() * other

    __radd__, __rmul__ = __add__, __mul__

    def reciprocal(self):
        return self._each(lambda x: 1 / x, lambda x, y: -y * y)

    def __pow__(self, n):
        return self._each(lambda x: x**n, lambda x, y: n * x ** (n - 1) if n else np.zeros_like(x))

    def exp(self):
        return self._each(np.exp, lambda x, y: y)

    def log(self):
        return self._each(np.log, lambda x, y: 1 / x)

    def tanh(self):
        return self._each(np.tanh, lambda x, y: 1 - y**2)

    def relu(self):
        return self._each(lambda x: np.clip(x, 0, None), lambda x, y: (y > 0) * 1.0)

    def _each(self, f, slope):
        out = f(self.data)
        d = slope(self.data, out)
        return Tensor(out, edges=((self, lambda g: g * d),))

    def __matmul__(self, other):
        """Vectors too, as matrices of one row or one column."""
        if self.data.ndim == 1 and other.data.ndim == 1:
            return (self * other).sum()
        if self.data.ndim == 1:
            return (self.reshape(1, -1) @ other)[..., 0, :]
        if other.data.ndim == 1:
            return (self @ other.reshape(-1, 1))[..., 0]
        a, b = self.data, other.data
        left, right = cut(self), cut(other)
        return Tensor(
            np.matmul(a, b),
            edges=(
                (self, lambda g: left(np.matmul(g, b.swapaxes(-2, -1)))),
                (other, lambda g: right(np.matmul(a.swapaxes(-2, -1), g))),
            ),
        )

    def _axes(self, axis):
        if axis is None:
            return tuple(range(self.data.ndim))
        return tuple(i % self.data.ndim for i in (axis if isinstance(axis, tuple) else (axis,)))

    def sum(self, axis=None, keepdims=False):
        axes = self._axes(axis)
        shape = self.data.shape

        def pull(g):
            return np.expand_dims(g, axes) * np.ones(shape) if not keepdims else g * np.ones(shape)

        return Tensor(self.data.sum(axes, keepdims=keepdims), edges=((self, pull),))

    def mean(self, axis=None, keepdims=False):
        return self.sum(axis, keepdims) / prod(self.data.shape[i] for i in self._axes(axis))

    def max(self, axis=None, keepdims=False):
        axes = self._axes(axis)
        out = self.data.max(axes, keepdims=True)
        equal = self.data == out

        def pull(g):
            g = g if keepdims else np.expand_dims(g, axes)
            return equal * (g / equal.sum(axes, keepdims=True))

        return Tensor(out if keepdims else out.squeeze(axes), edges=((self, pull),))

    def reshape(self, *shape):
        return Tensor(self.data.reshape(*shape), edges=((self, lambda g: g.reshape(self.data.shape)),))

    def transpose(self, *axes):
        if len(axes) == 1 and not isinstance(axes[0], int):
            (axes,) = axes
        steps = [i % self.data.ndim for i in axes or range(self.data.ndim)[::-1]]

        def pull(g):
            return np.moveaxis(g, range(len(steps)), steps)

        return Tensor(np.moveaxis(self.data, steps, range(len(steps))), edges=((self, pull),))

    def __getitem__(self, index):
        places = np.arange(self.data.size).reshape(self.data.shape)[index]

        def pull(g):
            return np.bincount(np.ravel(places), np.ravel(g), self.data.size).reshape(self.data.shape)

        return Tensor(self.data[index], edges=((self, pull),))

    def backward(self, grad=None):
        if grad is None and self.data.ndim > 0:
            raise RuntimeError("only a scalar has a backward() without grad")
        parts = {id(self): [np.asarray(1.0 if grad is None else grad, np.double)]}
        for bucket in by_height(self):
            for node in bucket:
                g = reduce(add, parts.pop(id(node)))
                for parent, pull in node.edges:
                    parts.setdefault(id(parent), []).append(pull(g))
                if node.requires_grad and not node.edges:
                    if node.grad is None:
                        node.grad = np.zeros(node.data.shape)
                    node.grad += g


def tensor(x):
    return x if isinstance(x, Tensor) else Tensor(x)


def cut(t):
    """The sum over what was broadcast from this shape, by one call of einsum."""
    shape = t.data.shape

    def pull(g):
        front = g.ndim - len(shape)
        kept = [front + i for i, n in enumerate(shape) if n == g.shape[front + i]]
        return np.einsum(g, list(range(g.ndim)), kept).reshape(shape)

    return pull


def cross_entropy(logits, targets):
    rows = range(len(targets))
    own = logits[list(rows), targets]
    gaps = logits - own.reshape(len(targets), 1)  # 0 at the target
    top = np.max(gaps.data, 1, keepdims=True)
    return ((gaps - top).exp().sum(1).log() + top[:, 0]).mean()


def fit(x, y, *, n_classes, seed):
    rng = np.random.Generator(np.random.PCG64(seed))
    unit = np.abs(x).max() or 1.0
    glorot = [(6 / (i + o)) ** 0.5 * rng.uniform(-1, 1, (i, o)) for i, o in ((x.shape[1], 64), (64, n_classes))]
    p = [Tensor(a, True) for a in (glorot[0], np.zeros(64), glorot[1], np.zeros(n_classes))]
    mean_square = [0.0] * 4

    def net(rows):
        return (Tensor(rows) * (1 / unit) @ p[0] + p[1]).tanh() @ p[2] + p[3]

    for i in range(700):
        batch = rng.choice(len(x), size=min(128, len(x)), replace=False)
        loss = cross_entropy(net(x[batch]), y[batch])
        assert isfinite(loss.data)
        loss.backward()
        for k in range(4):
            mean_square[k] = 0.95 * mean_square[k] + 0.05 * p[k].grad ** 2
            p[k].data -= (0.01 if i < 500 else 0.002) * p[k].grad / (np.sqrt(mean_square[k]) + 1e-6)
            p[k].grad = None

    def predict(rows):
        return np.argmax(net(rows).data, axis=-1)

    return predict
