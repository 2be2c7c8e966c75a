"""Closures that push gradients back."""

import math

import numpy as np


class Value:
    __slots__ = ("_backward", "_prev", "data", "grad")

    def __init__(self, data, _prev=()):
        self.data = data
        self.grad = 0.0
        self._prev = _prev
        self._backward = lambda: None

    def _new(self, data, prev, fn):
        out = Value(data, prev)
        out._backward = fn
        return out

    def __add__(self, o):
        o = o if isinstance(o, Value) else Value(o)
        out = Value(self.data + o.data, (self, o))

        def bw():
            self.grad += out.grad
            o.grad += out.grad

        out._backward = bw
        return out

    def __mul__(self, o):
        o = o if isinstance(o, Value) else Value(o)
        out = Value(self.data * o.data, (self, o))

        def bw():
            self.grad += o.data * out.grad
            o.grad += self.data * out.grad

        out._backward = bw
        return out

    def __pow__(self, n):
        out = Value(self.data**n, (self,))

        def bw():
            if n != 0:
                self.grad += n * self.data ** (n - 1) * out.grad

        out._backward = bw
        return out

    def __neg__(self):
        return self * -1

    def __radd__(self, o):
        return self + o

    def __sub__(self, o):
        return self + -o

    def __rsub__(self, o):
        return -self + o

    def __rmul__(self, o):
        return self * o

    def __truediv__(self, o):
        return self * o ** (-1)

    def __rtruediv__(self, o):
        return o * self ** (-1)

    def exp(self):
        out = Value(math.exp(self.data), (self,))

        def bw():
            self.grad += out.data * out.grad

        out._backward = bw
        return out

    def log(self):
        out = Value(math.log(self.data), (self,))

        def bw():
            self.grad += out.grad / self.data

        out._backward = bw
        return out

    def tanh(self):
        x = self.data
        t = (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1)
        out = Value(t, (self,))

        def bw():
            self.grad += (1 - t**2) * out.grad

        out._backward = bw
        return out

    def relu(self):
        out = Value(0 if self.data < 0 else self.data, (self,))

        def bw():
            self.grad += (out.data >= 0 and self.data >= 0) * out.grad

        out._backward = bw
        return out

    def _topo(self):
        topo, visited, stack = ([], set(), [(self, iter(self._prev))])
        visited.add(id(self))
        while stack:
            v, it = stack[-1]
            for c in it:
                if id(c) not in visited:
                    visited.add(id(c))
                    stack.append((c, iter(c._prev)))
                    break
            else:
                topo.append(v)
                stack.pop()
        return topo

    def backward(self):
        topo = self._topo()
        old = [v.grad for v in topo]
        for v in topo:
            v.grad = 0.0
        self.grad = 1.0
        for v in reversed(topo):
            v._backward()
        for v, o in zip(topo, old, strict=False):
            v.grad += o

    def zero_grad(self):
        for v in self._topo():
            v.grad = 0.0


def unb(g, shape):
    while g.ndim > len(shape):
        g = g.sum(0)
    for i, n in enumerate(shape):
        if n == 1:
            g = g.sum(i, keepdims=True)
    return g


class Tensor:
    __array_priority__ = 100

    def __init__(self, data, requires_grad=False, _prev=()):
        self.data = np.array(data, dtype=np.float64)
        self.requires_grad = requires_grad or any(p.requires_grad for p in _prev)
        self.grad = np.zeros_like(self.data) if requires_grad else None
        self._prev = _prev
        self._g = None
        self._backward = lambda: None

    def _acc(self, g):
        if self.requires_grad:
            g = unb(np.asarray(g), self.data.shape)
            self._g = g.copy() if self._g is None else self._g + g

    @staticmethod
    def _t(o):
        return o if isinstance(o, Tensor) else Tensor(o)

    def __add__(self, o):
        o = self._t(o)
        out = Tensor(self.data + o.data, _prev=(self, o))

        def bw():
            self._acc(out._g)
            o._acc(out._g)

        out._backward = bw
        return out

    def __mul__(self, o):
        o = self._t(o)
        out = Tensor(self.data * o.data, _prev=(self, o))

        def bw():
            self._acc(out._g * o.data)
            o._acc(out._g * self.data)

        out._backward = bw
        return out

    def __pow__(self, n):
        out = Tensor(self.data**n, _prev=(self,))

        def bw():
            self._acc(out._g * (n * self.data ** (n - 1) if n != 0 else 0.0))

        out._backward = bw
        return out

    def __neg__(self):
        return self * -1.0

    def __sub__(self, o):
        return self + -self._t(o)

    def __truediv__(self, o):
        return self * self._t(o) ** (-1.0)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, o):
        return self._t(o) - self

    def __rtruediv__(self, o):
        return self._t(o) / self

    def __matmul__(self, o):
        if self.data.ndim < 2 or o.data.ndim < 2:
            raise ValueError("matrices only")
        out = Tensor(self.data @ o.data, _prev=(self, o))

        def bw():
            self._acc(out._g @ o.data.swapaxes(-1, -2))
            o._acc(self.data.swapaxes(-1, -2) @ out._g)

        out._backward = bw
        return out

    def _un(self, data, d):
        out = Tensor(data, _prev=(self,))

        def bw():
            self._acc(out._g * d)

        out._backward = bw
        return out

    def exp(self):
        e = np.exp(self.data)
        return self._un(e, e)

    def log(self):
        return self._un(np.log(self.data), 1 / self.data)

    def tanh(self):
        t = np.tanh(self.data)
        return self._un(t, 1 - t * t)

    def relu(self):
        m = self.data >= 0
        return self._un(self.data * m, m)

    def sum(self, axis=None, keepdims=False):
        if isinstance(axis, tuple):
            raise TypeError("one axis at a time")
        out = Tensor(self.data.sum(axis=axis, keepdims=keepdims), _prev=(self,))

        def bw():
            g = out._g
            if axis is not None and (not keepdims):
                g = np.expand_dims(g, axis)
            self._acc(np.ones_like(self.data) * g)

        out._backward = bw
        return out

    def mean(self, axis=None, keepdims=False):
        n = self.data.size if axis is None else self.data.shape[axis]
        return self.sum(axis, keepdims) / n

    def max(self, axis=None, keepdims=False):
        m = self.data.max(axis=axis, keepdims=True)
        mask = self.data == m
        cnt = mask.sum(axis=axis, keepdims=True)
        out = Tensor(self.data.max(axis=axis, keepdims=keepdims), _prev=(self,))

        def bw():
            g = out._g
            if not keepdims:
                g = g.reshape(m.shape)
            self._acc(mask * g / cnt)

        out._backward = bw
        return out

    def reshape(self, shape):
        out = Tensor(self.data.reshape(shape), _prev=(self,))

        def bw():
            self._acc(out._g.reshape(self.data.shape))

        out._backward = bw
        return out

    def transpose(self, axes=None):
        out = Tensor(self.data.transpose(axes), _prev=(self,))

        def bw():
            self._acc(out._g.transpose(None if axes is None else np.argsort(np.mod(axes, self.data.ndim))))

        out._backward = bw
        return out

    def __getitem__(self, idx):
        out = Tensor(self.data[idx], _prev=(self,))

        def bw():
            z = np.zeros_like(self.data)
            np.add.at(z, idx, out._g)
            self._acc(z)

        out._backward = bw
        return out

    def backward(self, grad=None):
        if grad is None:
            if self.data.size != 1:
                raise RuntimeError("scalar only")
            grad = np.ones_like(self.data)
        topo = Value._topo(self)
        for t in topo:
            t._g = None
        self._g = np.array(grad, dtype=float)
        for t in reversed(topo):
            if t._g is not None:
                t._backward()
        for t in topo:
            if t.requires_grad and (not t._prev) and (t._g is not None):
                t.grad += t._g


def cross_entropy(logits, targets):
    m = logits.max(axis=1, keepdims=True)
    z = logits - m
    logp = z - z.exp().sum(axis=1, keepdims=True).log()
    return -logp[np.arange(len(targets)), targets].mean()


def fit(x, y, *, n_classes, seed):
    np.random.seed(seed)
    mu, sd = (x.mean(0), x.std(0) + 1.0)
    W1 = Tensor(np.random.randn(x.shape[1], 100) * 0.1, True)
    b1 = Tensor(np.zeros(100), True)
    W2 = Tensor(np.random.randn(100, n_classes) * 0.1, True)
    b2 = Tensor(np.zeros(n_classes), True)
    ps = [W1, b1, W2, b2]
    ms = [np.zeros_like(p.data) for p in ps]
    vs = [np.zeros_like(p.data) for p in ps]

    def fwd(b):
        return (Tensor((b - mu) / sd) @ W1 + b1).tanh() @ W2 + b2

    t = 0
    for _epoch in range(25):
        idx = np.random.permutation(len(x))
        for i in range(0, len(x), 32):
            j = idx[i : i + 32]
            t += 1
            for p in ps:
                p.grad = np.zeros_like(p.data)
            cross_entropy(fwd(x[j]), y[j]).backward()
            for k, p in enumerate(ps):
                ms[k] = 0.9 * ms[k] + 0.1 * p.grad
                vs[k] = 0.999 * vs[k] + 0.001 * p.grad**2
                p.data -= 0.003 * (ms[k] / (1 - 0.9**t)) / (np.sqrt(vs[k] / (1 - 0.999**t)) + 1e-08)
    return lambda b: fwd(b).data
