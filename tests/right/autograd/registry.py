"""Primitives in a table with their vector-Jacobian products, as a functional library has them; full-batch Adam."""

import math
from collections import defaultdict
from operator import itemgetter

import numpy as np

RULES = {
    # name: (forward, one function of (g, out, inputs, options) for each input)
    "add": (lambda x, y: x + y, (lambda g, o, x, y: g, lambda g, o, x, y: g)),
    "sub": (lambda x, y: x - y, (lambda g, o, x, y: g, lambda g, o, x, y: -g)),
    "mul": (lambda x, y: x * y, (lambda g, o, x, y: g * y, lambda g, o, x, y: x * g)),
    "div": (lambda x, y: x / y, (lambda g, o, x, y: g / y, lambda g, o, x, y: -(g * x) / (y * y))),
    "neg": (lambda x: -x, (lambda g, o, x: -g,)),
    "pow": (lambda x, n: x**n, (lambda g, o, x, n: g * (n * x ** (n - 1)) if n != 0 else 0 * g,)),
    "exp": (np.exp, (lambda g, o, x: g * o,)),
    "log": (np.log, (lambda g, o, x: g / x,)),
    "tanh": (np.tanh, (lambda g, o, x: g * (1 - o) * (1 + o),)),
    "relu": (lambda x: np.where(x > 0, x, 0.0), (lambda g, o, x: np.where(x > 0, g, 0.0),)),
    "matmul": (
        np.matmul,
        (lambda g, o, x, y: g @ np.moveaxis(y, -2, -1), lambda g, o, x, y: np.moveaxis(x, -2, -1) @ g),
    ),
    "reshape": (lambda x, shape: x.reshape(shape), (lambda g, o, x, shape: g.reshape(x.shape),)),
    "transpose": (np.transpose, (lambda g, o, x, axes: np.transpose(g, np.argsort([a % x.ndim for a in axes])),)),
    "take": (lambda x, index: x[index], (lambda g, o, x, index: scatter(g, x, index),)),
    "sum": (
        lambda x, axis, keep: np.sum(x, axis=axis, keepdims=keep),
        (lambda g, o, x, axis, keep: np.broadcast_to(regrown(g, x, axis), x.shape),),
    ),
    "max": (
        lambda x, axis, keep: np.max(x, axis=axis, keepdims=keep),
        (lambda g, o, x, axis, keep: regrown(g, x, axis) * winners(x, axis),),
    ),
}


def regrown(g, x, axis):
    return g.reshape(np.sum(x, axis=axis, keepdims=True).shape)


def winners(x, axis):
    best = x >= x.max(axis=axis, keepdims=True)
    return best / best.sum(axis=axis, keepdims=True, dtype=float)


def scatter(g, x, index):
    out = np.zeros(x.shape)
    np.add.at(out, index, g)
    return out


def fold(g, shape):
    """Sums what broadcasting copied."""
    g = np.asarray(g, dtype=float)
    if g.shape == shape:
        return g
    padded = (1,) * (g.ndim - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(padded) if n == 1)
    return g.sum(axis=axes).reshape(shape)


class Expr:
    """What Value and Tensor have in common: a primitive's name, inputs and options."""

    def _call(self, name, *inputs, **options):
        inputs = [x if isinstance(x, type(self)) else type(self)(x) for x in inputs]
        forward, _ = RULES[name]
        out = type(self)(forward(*(x.data for x in inputs), *options.values()))
        out.made = (name, inputs, tuple(options.values()))
        out.needs = any(x.needs for x in inputs)
        return out

    def __add__(self, other):
        return self._call("add", self, other)

    def __radd__(self, other):
        return self._call("add", other, self)

    def __sub__(self, other):
        return self._call("sub", self, other)

    def __rsub__(self, other):
        return self._call("sub", other, self)

    def __mul__(self, other):
        return self._call("mul", self, other)

    def __rmul__(self, other):
        return self._call("mul", other, self)

    def __truediv__(self, other):
        return self._call("div", self, other)

    def __rtruediv__(self, other):
        return self._call("div", other, self)

    def __neg__(self):
        return self._call("neg", self)

    def __pow__(self, n):
        return self._call("pow", self, n=n)

    def exp(self):
        return self._call("exp", self)

    def log(self):
        return self._call("log", self)

    def tanh(self):
        return self._call("tanh", self)

    def relu(self):
        return self._call("relu", self)

    def _postorder(self):
        """Inputs before what is made of them; two stacks, no recursion."""
        order, state, todo = [], {}, [self]
        while todo:
            node = todo[-1]
            if id(node) not in state:
                state[id(node)] = "open"
                todo.extend(x for x in node.made[1] if x.needs and id(x) not in state)
            else:
                todo.pop()
                if state[id(node)] == "open":
                    state[id(node)] = "done"
                    order.append(node)
        return order

    def _gradients(self, start):
        """(node, its gradient), from the root down."""
        sums = defaultdict(list)
        sums[id(self)].append(start)
        for node in reversed(self._postorder()):
            parts = sums.pop(id(node))
            g = parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
            yield node, g
            name, inputs, options = node.made
            for x, rule in zip(inputs, RULES[name][1] if inputs else (), strict=True):
                if x.needs:
                    sums[id(x)].append(fold(rule(g, node.data, *(y.data for y in inputs), *options), np.shape(x.data)))


class Value(Expr):
    def __init__(self, data):
        self.data, self.grad, self.made, self.needs = float(data), 0.0, ("", (), ()), True

    def backward(self):
        for node, g in self._gradients(1.0):
            node.grad += float(g)

    def zero_grad(self):
        for node in self._postorder():
            node.grad = 0.0


class Tensor(Expr):
    def __init__(self, data, requires_grad=False):
        self.data = np.asarray(data, dtype=np.float64)
        self.grad, self.made, self.needs = None, ("", (), ()), requires_grad

    @property
    def requires_grad(self):
        return self.needs

    def __matmul__(self, other):
        if min(self.data.ndim, other.data.ndim) < 2:
            raise TypeError("@ takes matrices, and batches of them")
        return self._call("matmul", self, other)

    def __getitem__(self, index):
        return self._call("take", self, index=index)

    def reshape(self, *shape):
        return self._call("reshape", self, shape=shape[0] if shape and isinstance(shape[0], tuple) else shape)

    def transpose(self, *axes):
        if axes and isinstance(axes[0], tuple | list):
            (axes,) = axes
        return self._call("transpose", self, axes=axes or tuple(range(self.data.ndim))[::-1])

    def sum(self, axis=None, keepdims=False):
        return self._call("sum", self, axis=axis, keep=keepdims)

    def mean(self, axis=None, keepdims=False):
        total = self.sum(axis, keepdims)
        return total / (self.data.size / total.data.size)

    def max(self, axis=None, keepdims=False):
        return self._call("max", self, axis=axis, keep=keepdims)

    def backward(self, grad=None):
        if grad is None:
            if self.data.ndim:
                raise RuntimeError("not a scalar: give a gradient")
            grad = 1.0
        if not self.needs:
            return
        for node, g in self._gradients(np.array(grad, dtype=np.float64)):
            if not node.made[0]:
                node.grad = np.array(g) if node.grad is None else node.grad + g


def cross_entropy(logits, targets):
    top = logits.max(axis=1, keepdims=True)  # the gradient through it cancels
    log_sum = (logits - top).exp().sum(axis=1).log() + top.reshape(len(targets))
    return (log_sum - logits[np.arange(len(targets)), targets]).mean()


def fit(x, y, *, n_classes, seed):
    rng = np.random.default_rng([seed, 7])
    shift, scale = x.mean(axis=0), x.std() + 1e-9
    width = 60
    net = {
        "w": rng.standard_normal((x.shape[1], width)) / math.sqrt(x.shape[1]),
        "b": np.zeros(width),
        "v": rng.standard_normal((width, n_classes)) / math.sqrt(width),
        "c": np.zeros((1, n_classes)),
    }
    first = {name: np.zeros_like(p) for name, p in net.items()}
    second = {name: np.zeros_like(p) for name, p in net.items()}

    def scores(batch, p):
        return (Tensor((batch - shift) / scale) @ p["w"] + p["b"]).relu() @ p["v"] + p["c"]

    for t in range(1, 251):
        leaves = {name: Tensor(p, requires_grad=True) for name, p in net.items()}
        cross_entropy(scores(x, leaves), y).backward()
        for name, leaf in leaves.items():
            first[name] = 0.9 * first[name] + 0.1 * leaf.grad
            second[name] = 0.99 * second[name] + 0.01 * leaf.grad**2
            step = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.99**t)) + 1e-8)
            net[name] = net[name] - 0.01 * step
    final = {name: Tensor(p) for name, p in net.items()}
    return lambda batch: np.array([max(enumerate(row), key=itemgetter(1))[0] for row in scores(batch, final).data], int)
