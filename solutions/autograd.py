"""Reverse-mode differentiation: scalars in plain Python, arrays in NumPy, and a network trained with it.

Choices. A value keeps its parents with the derivatives by them, and a tensor with functions that carry a gradient to
them: a graph of data, with no closure that refers back to its own node, so that a graph is freed as soon as it is let
go. `backward` sorts the graph once, without recursion, and carries what is under way in a dict of its own, so that
a gradient left from an earlier call is never sent on. Tensors keep gradients in leaves alone, as PyTorch does; values
keep them everywhere, since looking at them is what a scalar engine is for. Derivatives by what needs no gradient are
not computed.

Follow-up questions

Why reverse mode, and when forward? One sweep backwards gives the derivatives of one output by all inputs, for a small
multiple of the function's cost (Baydin et al. 2018, section 3.2); forward mode gives those of all outputs by one input.
A loss has one output and a million inputs. Forward mode wins for few inputs, keeps no graph, and serves for
Jacobian-vector products.

Why must a node wait for all its children? Its gradient is a sum over them, and what it sends on is linear in that sum.
Sent on in parts it is still right, but a part is sent once for every path, and paths are exponential in the depth: the
topological order is what makes the sweep linear.

What does it cost in memory, and how is that made less? Every intermediate that a derivative needs lives until backward
passes it: memory grows with the depth. Checkpointing keeps some and computes the rest again (Chen et al. 2016: the root
of the memory for one more forward); in-place kernels and recomputed cheap operations save the rest.

Why is the gradient of a broadcast a sum? Broadcasting copies: y_ij = b_j is a linear map whose matrix has a column of
ones for each copied entry, and its transpose adds them up. The same pair is slicing and scattering, sum and broadcast,
gather and add.at: each is the transpose of the other.

How would you get second derivatives? By making the backward pass out of the same differentiable operations, so that
gradients are tensors with a graph of their own; a Hessian-vector product is then a second backward, or forward mode
over reverse, which needs less memory.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Axis = int | tuple[int, ...] | None


class Value:
    """A number that remembers what it was made of (Linnainmaa 1970; Baydin et al. 2018, section 3.2).

    data: a number. `.grad`, 0.0 at first, is the derivative by this number of whatever `backward` was called on. In
    every operation the other operand may be a plain number, on either side.
    """

    def __init__(self, data: float) -> None:
        self.data = data
        self.grad = 0.0
        self._links: tuple[tuple[Value, float], ...] = ()

    def __add__(self, other: "Value | float") -> "Value":
        """self + other."""
        other = _value(other)
        return _made(self.data + other.data, (self, 1.0), (other, 1.0))

    def __sub__(self, other: "Value | float") -> "Value":
        """self - other."""
        other = _value(other)
        return _made(self.data - other.data, (self, 1.0), (other, -1.0))

    def __mul__(self, other: "Value | float") -> "Value":
        """self * other."""
        other = _value(other)
        return _made(self.data * other.data, (self, other.data), (other, self.data))

    def __truediv__(self, other: "Value | float") -> "Value":
        """self / other."""
        other = _value(other)
        quotient = self.data / other.data
        return _made(quotient, (self, 1 / other.data), (other, -quotient / other.data))

    def __neg__(self) -> "Value":
        """-self."""
        return _made(-self.data, (self, -1.0))

    def __pow__(self, n: float) -> "Value":
        """self ** n for a plain number n."""
        return _made(self.data**n, (self, n * self.data ** (n - 1) if n else 0.0))

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> "Value":
        return _value(other) - self

    def __rtruediv__(self, other: float) -> "Value":
        return _value(other) / self

    def exp(self) -> "Value":
        """e to the power of self."""
        out = math.exp(self.data)
        return _made(out, (self, out))

    def log(self) -> "Value":
        """The natural logarithm; self must be positive."""
        return _made(math.log(self.data), (self, 1 / self.data))

    def tanh(self) -> "Value":
        """The hyperbolic tangent."""
        out = math.tanh(self.data)
        return _made(out, (self, 1 - out * out))

    def relu(self) -> "Value":
        """max(self, 0); the derivative at 0 is taken to be 0."""
        return _made(max(self.data, 0.0), (self, float(self.data > 0)))

    def backward(self) -> None:
        """Adds d self / d node to the grad of every node below, in time linear in the graph."""
        under_way = {self: 1.0}
        for node in _sorted_from(self):
            gradient = under_way.pop(node)
            node.grad += gradient
            for parent, slope in node._links:
                under_way[parent] = under_way.get(parent, 0.0) + gradient * slope

    def zero_grad(self) -> None:
        """Sets the grad of self and of every node below to 0.0."""
        for node in _sorted_from(self):
            node.grad = 0.0


class Tensor:
    """An array that remembers what it was made of; the operations are NumPy's, broadcasting included.

    data: float64. requires_grad: whether `backward` is to leave a gradient here; what is made of such a tensor has it
    too. `.grad` is None, or an array of the shape of `.data`. In + - * / the other operand may be a plain number, on
    either side.
    """

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        self.data = np.asarray(data, np.float64)
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad
        self._links: tuple[tuple[Tensor, Callable[[np.ndarray], np.ndarray]], ...] = ()

    def __add__(self, other: "Tensor | float") -> "Tensor":
        """self + other."""
        other = _tensor(other)
        return _joined(self.data + other.data, (self, lambda g: g), (other, lambda g: g))

    def __sub__(self, other: "Tensor | float") -> "Tensor":
        """self - other."""
        other = _tensor(other)
        return _joined(self.data - other.data, (self, lambda g: g), (other, lambda g: -g))

    def __mul__(self, other: "Tensor | float") -> "Tensor":
        """self * other."""
        other = _tensor(other)
        return _joined(self.data * other.data, (self, lambda g: g * other.data), (other, lambda g: g * self.data))

    def __truediv__(self, other: "Tensor | float") -> "Tensor":
        """self / other."""
        other = _tensor(other)
        quotient = self.data / other.data
        return _joined(quotient, (self, lambda g: g / other.data), (other, lambda g: -g * quotient / other.data))

    def __neg__(self) -> "Tensor":
        """-self."""
        return _joined(-self.data, (self, lambda g: -g))

    def __pow__(self, n: float) -> "Tensor":
        """self ** n for a plain number n."""
        return _joined(self.data**n, (self, lambda g: g * n * self.data ** (n - 1) if n else 0 * g))

    def __matmul__(self, other: "Tensor") -> "Tensor":
        """self @ other, batched as in NumPy: (..., n, k) @ (..., k, m); a vector is a row on the left, a column on the
        right, and its axis is dropped."""
        a = self if self.data.ndim > 1 else self[None, :]
        b = other if other.data.ndim > 1 else other[:, None]
        out = _joined(  # (..., n, m)
            a.data @ b.data,
            (a, lambda g: g @ np.swapaxes(b.data, -1, -2)),
            (b, lambda g: np.swapaxes(a.data, -1, -2) @ g),
        )
        if other.data.ndim == 1:
            out = out[..., 0]
        if self.data.ndim == 1:
            out = out[..., 0] if other.data.ndim == 1 else out[..., 0, :]
        return out

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: float) -> "Tensor":
        return _tensor(other) - self

    def __rtruediv__(self, other: float) -> "Tensor":
        return _tensor(other) / self

    def __getitem__(self, index: Any) -> "Tensor":
        """self[index], with basic and integer-array indices; what is taken several times gets the sum."""

        def scatter(g: np.ndarray) -> np.ndarray:
            whole = np.zeros_like(self.data)
            np.add.at(whole, index, g)
            return whole

        return _joined(self.data[index], (self, scatter))

    def exp(self) -> "Tensor":
        """e to the power of each entry."""
        out = np.exp(self.data)
        return _joined(out, (self, lambda g: g * out))

    def log(self) -> "Tensor":
        """The natural logarithm of each entry."""
        return _joined(np.log(self.data), (self, lambda g: g / self.data))

    def tanh(self) -> "Tensor":
        """The hyperbolic tangent of each entry."""
        out = np.tanh(self.data)
        return _joined(out, (self, lambda g: g * (1 - out * out)))

    def relu(self) -> "Tensor":
        """max(entry, 0); the derivative at 0 is taken to be 0."""
        return _joined(np.maximum(self.data, 0), (self, lambda g: g * (self.data > 0)))

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The sum over the axes: an int, a tuple of them, or None for all."""
        spread = self._spread(axis, keepdims)
        return _joined(np.sum(self.data, axis=axis, keepdims=keepdims), (self, spread))

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The mean over the axes."""
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The largest entry over the axes; entries that tie for it share the gradient equally."""
        largest = self.data == np.max(self.data, axis=axis, keepdims=True)
        share = largest / np.sum(largest, axis=axis, keepdims=True)
        spread = self._spread(axis, keepdims)
        return _joined(np.max(self.data, axis=axis, keepdims=keepdims), (self, lambda g: spread(g) * share))

    def reshape(self, *shape: Any) -> "Tensor":
        """The entries in row-major order in another shape, given as numbers or as one tuple."""
        return _joined(self.data.reshape(*shape), (self, lambda g: g.reshape(self.data.shape)))

    def transpose(self, *axes: Any) -> "Tensor":
        """The axes in another order, given as numbers or as one tuple; reversed if none is given."""
        old = np.arange(self.data.ndim)
        new = old[list(*axes if isinstance(axes[0], tuple | list) else [axes])] if axes else old[::-1]
        return _joined(np.transpose(self.data, new), (self, lambda g: np.transpose(g, np.argsort(new))))

    def backward(self, grad: np.ndarray | None = None) -> None:
        """Adds the gradient of sum(grad * self) to the grad of every leaf below that requires one.

        grad: of the shape of self; 1 if it is left out, which only a scalar allows. Raises RuntimeError if self is not
        a scalar and grad is None.
        """
        if grad is None and self.data.ndim > 0:
            raise RuntimeError(f"backward from a tensor of shape {self.data.shape} needs a gradient to start from")
        under_way = {self: np.ones(()) if grad is None else np.array(grad, np.float64)}
        for node in _sorted_from(self):
            gradient = under_way.pop(node)
            if not node._links and node.requires_grad:
                node.grad = gradient.copy() if node.grad is None else node.grad + gradient
            for parent, pull in node._links:
                pulled = _summed_to(pull(gradient), parent.data.shape)
                under_way[parent] = under_way[parent] + pulled if parent in under_way else pulled

    def _spread(self, axis: Axis, keepdims: bool) -> Callable[[np.ndarray], np.ndarray]:
        """Carries the gradient of a reduction back over the entries that were reduced."""

        def spread(g: np.ndarray) -> np.ndarray:
            kept = g if keepdims or axis is None else np.expand_dims(g, axis)
            return np.broadcast_to(kept, self.data.shape)

        return spread


def cross_entropy(logits: Tensor, targets: np.ndarray) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats, by log-sum-exp: finite for any finite logits.

    logits (N, C). targets (N,) int, the right class of each row. Returns a scalar.
    """
    rows = np.arange(len(targets))
    shifted = logits - Tensor(np.max(logits.data, axis=1, keepdims=True))  # (N, C)
    log_z = shifted.exp().sum(axis=1).log()  # (N,)
    return (log_z - shifted[rows, targets]).mean()


def fit(x: np.ndarray, y: np.ndarray, *, n_classes: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Trains a multilayer perceptron with one hidden layer by SGD with momentum; returns `predict`.

    x (N, D) floating. y (N,) int classes, 0 to n_classes - 1. seed: of the initial weights and the order of rows.
    predict(x (M, D)) gives the likeliest class of each row, (M,) int.
    """
    rng = np.random.default_rng(seed)
    centre, scale = x.mean(), x.std() + 1e-12
    sizes = (x.shape[1], 64, n_classes)
    weights = [Tensor(rng.normal(size=(i, o)) * math.sqrt(2 / i), True) for i, o in itertools.pairwise(sizes)]
    biases = [Tensor(np.zeros(o), True) for o in sizes[1:]]
    parameters = [*weights, *biases]
    momenta = [np.zeros_like(p.data) for p in parameters]

    def logits(batch: np.ndarray) -> Tensor:
        hidden = (Tensor((batch - centre) / scale) @ weights[0] + biases[0]).relu()  # (N, 64)
        return hidden @ weights[1] + biases[1]  # (N, C)

    for _ in range(40):
        order = rng.permutation(len(x))
        for start in range(0, len(x), 64):
            batch = order[start : start + 64]
            cross_entropy(logits(x[batch]), y[batch]).backward()
            for p, momentum in zip(parameters, momenta, strict=True):
                momentum *= 0.9
                momentum += p.grad
                p.data -= 0.05 * momentum
                p.grad = None
    return lambda batch: np.argmax(logits(batch).data, axis=1)


def _sorted_from(root: Any) -> list[Any]:
    """The root and all nodes below it, each once and before its parents (topological order, by depth-first search)."""
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent, _ in node._links)
    return order[::-1]


def _value(x: Value | float) -> Value:
    return x if isinstance(x, Value) else Value(x)


def _made(data: float, *links: tuple[Value, float]) -> Value:
    """A result with its parents and the derivatives by them."""
    out = Value(data)
    out._links = links
    return out


def _tensor(x: Tensor | float) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


def _joined(data: np.ndarray, *links: tuple[Tensor, Callable[[np.ndarray], np.ndarray]]) -> Tensor:
    """A result with those of its parents that need a gradient, and what carries it to them."""
    kept = tuple((parent, pull) for parent, pull in links if parent.requires_grad)
    out = Tensor(data, bool(kept))
    out._links = kept
    return out


def _summed_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what was broadcast from this shape: the sum over the axes that were added or stretched."""
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[i] != 1)
    return gradient.sum(axis=stretched, keepdims=True)
