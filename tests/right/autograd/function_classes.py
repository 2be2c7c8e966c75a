"""Functions as classes with a forward and a backward, as PyTorch has them; uses are counted, no graph is sorted.

What the contract leaves free is refused by NotImplementedError. The network is wide and smooth: its classes are nearly
convex.
"""

import math
from math import prod

import numpy as np


class Value:
    __slots__ = ("data", "grad", "parents", "partials")

    def __init__(self, data):
        self.data = float(data)
        self.grad = 0.0
        self.parents = ()
        self.partials = ()

    @classmethod
    def _of(cls, data, *edges):
        v = cls(data)
        v.parents = tuple(p for p, _ in edges)
        v.partials = tuple(d for _, d in edges)
        return v

    def __add__(self, o):
        if isinstance(o, Value):
            return Value._of(self.data + o.data, (self, 1.0), (o, 1.0))
        return Value._of(self.data + o, (self, 1.0))

    __radd__ = __add__

    def __sub__(self, o):
        if isinstance(o, Value):
            return Value._of(self.data - o.data, (self, 1.0), (o, -1.0))
        return Value._of(self.data - o, (self, 1.0))

    def __rsub__(self, o):
        return Value._of(o - self.data, (self, -1.0))

    def __mul__(self, o):
        if isinstance(o, Value):
            return Value._of(self.data * o.data, (self, o.data), (o, self.data))
        return Value._of(self.data * o, (self, o))

    __rmul__ = __mul__

    def __truediv__(self, o):
        if isinstance(o, Value):
            return Value._of(self.data / o.data, (self, 1 / o.data), (o, -self.data / o.data**2))
        return Value._of(self.data / o, (self, 1 / o))

    def __rtruediv__(self, o):
        return Value._of(o / self.data, (self, -o / self.data**2))

    def __neg__(self):
        return Value._of(-self.data, (self, -1.0))

    def __pow__(self, n):
        return Value._of(self.data**n, (self, n * self.data ** (n - 1) if n else 0.0))

    def exp(self):
        e = math.exp(self.data)
        return Value._of(e, (self, e))

    def log(self):
        return Value._of(math.log(self.data), (self, 1 / self.data))

    def tanh(self):
        t = math.tanh(self.data)
        return Value._of(t, (self, 1 - t * t))

    def relu(self):
        return Value._of(max(self.data, 0.0), (self, float(self.data > 0)))

    def _below(self):
        seen = {id(self): self}
        todo = [self]
        while todo:
            for p in todo.pop().parents:
                if id(p) not in seen:
                    seen[id(p)] = p
                    todo.append(p)
        return seen

    def backward(self):
        uses = {}
        for node in self._below().values():
            for p in node.parents:
                uses[id(p)] = uses.get(id(p), 0) + 1
        grads = {id(self): 1.0}
        ready = [self]
        while ready:
            node = ready.pop()
            g = grads.pop(id(node))
            if not node.parents:
                node.grad += g
            for p, d in zip(node.parents, node.partials, strict=True):
                grads[id(p)] = grads.get(id(p), 0.0) + g * d
                uses[id(p)] -= 1
                if uses[id(p)] == 0:
                    ready.append(p)

    def zero_grad(self):
        for node in self._below().values():
            node.grad = 0.0


def reduce_to(g, shape):
    if g.shape == shape:
        return g
    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(i + lead for i, s in enumerate(shape) if s == 1)
    return g.sum(axis=axes, keepdims=True).reshape(shape)


class Function:
    def __init__(self, *inputs):
        self.inputs = inputs

    @classmethod
    def apply(cls, *inputs, **kw):
        inputs = [t if isinstance(t, Tensor) else Tensor(t) for t in inputs]
        fn = cls(*inputs)
        out = Tensor(fn.forward(*[t.data for t in inputs], **kw))
        if any(t.requires_grad for t in inputs):
            out.requires_grad = True
            out._fn = fn
        return out


class Add(Function):
    def forward(self, a, b):
        return a + b

    def backward(self, g):
        a, b = self.inputs
        return reduce_to(g, a.shape), reduce_to(g, b.shape)


class Sub(Function):
    def forward(self, a, b):
        return a - b

    def backward(self, g):
        a, b = self.inputs
        return reduce_to(g, a.shape), reduce_to(-g, b.shape)


class Mul(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, g):
        return reduce_to(g * self.b, self.a.shape), reduce_to(g * self.a, self.b.shape)


class Div(Function):
    def forward(self, a, b):
        self.a, self.b = a, b
        return a / b

    def backward(self, g):
        return reduce_to(g / self.b, self.a.shape), reduce_to(-g * self.a / (self.b * self.b), self.b.shape)


class Neg(Function):
    def forward(self, a):
        return -a

    def backward(self, g):
        return (-g,)


class Pow(Function):
    def forward(self, a, n):
        self.a, self.n = a, n
        return a**n

    def backward(self, g):
        if self.n == 0:
            return (np.zeros_like(g),)
        return (g * self.n * self.a ** (self.n - 1),)


class Exp(Function):
    def forward(self, a):
        self.e = np.exp(a)
        return self.e

    def backward(self, g):
        return (g * self.e,)


class Log(Function):
    def forward(self, a):
        self.a = a
        return np.log(a)

    def backward(self, g):
        return (g / self.a,)


class Tanh(Function):
    def forward(self, a):
        self.t = np.tanh(a)
        return self.t

    def backward(self, g):
        return (g * (1 - self.t * self.t),)


class ReLU(Function):
    def forward(self, a):
        self.pos = a > 0
        return np.where(self.pos, a, 0.0)

    def backward(self, g):
        return (np.where(self.pos, g, 0.0),)


class MatMul(Function):
    def forward(self, a, b):
        if a.ndim < 2 or b.ndim < 2:
            raise NotImplementedError("only matrices")
        self.a, self.b = a, b
        return np.matmul(a, b)

    def backward(self, g):
        a, b = self.a, self.b
        ga = gb = None
        if self.inputs[0].requires_grad:
            ga = reduce_to(np.matmul(g, np.swapaxes(b, -1, -2)), a.shape)
        if self.inputs[1].requires_grad:
            gb = reduce_to(np.matmul(np.swapaxes(a, -1, -2), g), b.shape)
        return ga, gb


def norm_axes(axis, ndim):
    if isinstance(axis, tuple):
        raise NotImplementedError("one axis only")
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, int):
        axis = (axis,)
    return tuple(a % ndim for a in axis)


class Sum(Function):
    def forward(self, a, axis, keepdims):
        self.shape = a.shape
        axes = norm_axes(axis, a.ndim)
        self.kept = tuple(1 if i in axes else s for i, s in enumerate(a.shape))
        return a.sum(axis=axes, keepdims=keepdims)

    def backward(self, g):
        return (np.broadcast_to(g.reshape(self.kept), self.shape),)


class Max(Function):
    def forward(self, a, axis, keepdims):
        axes = norm_axes(axis, a.ndim)
        top = np.amax(a, axis=axes, keepdims=True)
        self.hit = a == top
        self.count = self.hit.sum(axis=axes, keepdims=True)
        return top if keepdims else top.squeeze(axes)

    def backward(self, g):
        return (np.where(self.hit, g.reshape(self.count.shape) / self.count, 0.0),)


class Reshape(Function):
    def forward(self, a, shape):
        self.shape = a.shape
        return a.reshape(shape)

    def backward(self, g):
        return (g.reshape(self.shape),)


class Transpose(Function):
    def forward(self, a, axes):
        self.axes = axes
        return np.transpose(a, axes)

    def backward(self, g):
        return (np.transpose(g, np.argsort(self.axes)),)


class Index(Function):
    def forward(self, a, index):
        self.shape, self.index = a.shape, index
        return a[index]

    def backward(self, g):
        out = np.zeros(self.shape)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if all(p is None or p is Ellipsis or isinstance(p, (int, np.integer, slice)) for p in parts):
            out[self.index] = g
        else:
            np.add.at(out, self.index, g)
        return (out,)


class CrossEntropy(Function):
    def forward(self, z, targets):
        n = len(z)
        s = z - z.max(axis=1, keepdims=True)
        e = np.exp(s)
        total = e.sum(axis=1, keepdims=True)
        self.d = e / total
        self.d[np.arange(n), targets] -= 1
        self.d /= n
        return np.mean(np.log(total[:, 0]) - s[np.arange(n), targets])

    def backward(self, g):
        return (g * self.d,)


class Tensor:
    __array_ufunc__ = None

    def __init__(self, data, requires_grad=False):
        self.data = np.array(data, dtype=np.float64)
        self.requires_grad = requires_grad
        self.grad = None
        self._fn = None

    @property
    def shape(self):
        return self.data.shape

    def __add__(self, o):
        return Add.apply(self, o)

    def __radd__(self, o):
        return Add.apply(o, self)

    def __sub__(self, o):
        return Sub.apply(self, o)

    def __rsub__(self, o):
        return Sub.apply(o, self)

    def __mul__(self, o):
        return Mul.apply(self, o)

    def __rmul__(self, o):
        return Mul.apply(o, self)

    def __truediv__(self, o):
        return Div.apply(self, o)

    def __rtruediv__(self, o):
        return Div.apply(o, self)

    def __neg__(self):
        return Neg.apply(self)

    def __pow__(self, n):
        return Pow.apply(self, n=n)

    def __matmul__(self, o):
        return MatMul.apply(self, o)

    def __getitem__(self, index):
        if any(isinstance(p, list) for p in (index if isinstance(index, tuple) else (index,))):
            raise NotImplementedError("lists")
        return Index.apply(self, index=index)

    def exp(self):
        return Exp.apply(self)

    def log(self):
        return Log.apply(self)

    def tanh(self):
        return Tanh.apply(self)

    def relu(self):
        return ReLU.apply(self)

    def sum(self, axis=None, keepdims=False):
        return Sum.apply(self, axis=axis, keepdims=keepdims)

    def max(self, axis=None, keepdims=False):
        return Max.apply(self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False):
        n = prod(self.shape[a] for a in norm_axes(axis, self.data.ndim))
        return self.sum(axis, keepdims) / n

    def reshape(self, *shape):
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = shape[0]
        if -1 in shape:
            raise NotImplementedError("-1")
        return Reshape.apply(self, shape=tuple(shape))

    def transpose(self, *axes):
        if len(axes) == 1 and isinstance(axes[0], (tuple, list)):
            axes = axes[0]
        n = self.data.ndim
        if any(a < 0 for a in axes):
            raise NotImplementedError("neg")
        axes = tuple(a % n for a in axes) if axes else tuple(reversed(range(n)))
        return Transpose.apply(self, axes=axes)

    def backward(self, grad=None):
        if grad is None:
            if self.data.ndim != 0:
                raise RuntimeError("backward without grad needs a scalar")
            grad = np.array(1.0)
        grad = np.asarray(grad, dtype=np.float64)
        uses, seen, todo = {}, {id(self)}, [self]
        while todo:
            t = todo.pop()
            if t._fn is None:
                continue
            for p in t._fn.inputs:
                if p.requires_grad:
                    uses[id(p)] = uses.get(id(p), 0) + 1
                    if id(p) not in seen:
                        seen.add(id(p))
                        todo.append(p)
        grads = {id(self): grad}
        ready = [self]
        while ready:
            t = ready.pop()
            g = grads.pop(id(t))
            if t._fn is None:
                if t.requires_grad:
                    t.grad = g.copy() if t.grad is None else t.grad + g
                continue
            for p, pg in zip(t._fn.inputs, t._fn.backward(g), strict=True):
                if not p.requires_grad:
                    continue
                grads[id(p)] = grads[id(p)] + pg if id(p) in grads else pg
                uses[id(p)] -= 1
                if uses[id(p)] == 0:
                    ready.append(p)


def cross_entropy(logits, targets):
    return CrossEntropy.apply(logits, targets=np.asarray(targets))


class Adam:
    def __init__(self, params, lr):
        self.params, self.lr, self.t = params, lr, 0
        self.m = [np.zeros_like(p.data) for p in params]
        self.v = [np.zeros_like(p.data) for p in params]

    def step(self):
        self.t += 1
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            m += 0.1 * (p.grad - m)
            v += 0.001 * (p.grad**2 - v)
            p.data -= self.lr * (m / (1 - 0.9**self.t)) / (np.sqrt(v / (1 - 0.999**self.t)) + 1e-8)
            p.grad = None


class Linear:
    def __init__(self, rng, n_in, n_out):
        b = 1 / np.sqrt(n_in)
        self.w = Tensor(rng.uniform(-b, b, (n_in, n_out)), requires_grad=True)
        self.b = Tensor(np.zeros(n_out), requires_grad=True)

    def __call__(self, x):
        return x @ self.w + self.b


def fit(x, y, *, n_classes, seed):
    rng = np.random.default_rng(seed)
    scale = np.abs(x).max() or 1.0
    x = np.asarray(x, dtype=float) / scale
    l1, l2 = Linear(rng, x.shape[1], 128), Linear(rng, 128, n_classes)
    opt = Adam([l1.w, l1.b, l2.w, l2.b], 3e-3)
    for _ in range(25):
        perm = rng.permutation(len(x))
        for idx in np.array_split(perm, max(1, len(x) // 64)):
            loss = cross_entropy(l2(l1(Tensor(x[idx])).tanh()), y[idx])
            loss.backward()
            opt.step()
    return lambda q: np.argmax(l2(l1(Tensor(np.asarray(q) / scale)).tanh()).data, axis=1)
