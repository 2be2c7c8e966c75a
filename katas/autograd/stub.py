"""Reverse-mode differentiation: scalars in plain Python, arrays in NumPy, and a network trained with it."""

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
        raise NotImplementedError("autograd")

    def __add__(self, other: "Value | float") -> "Value":
        """self + other."""
        raise NotImplementedError("autograd")

    def __sub__(self, other: "Value | float") -> "Value":
        """self - other."""
        raise NotImplementedError("autograd")

    def __mul__(self, other: "Value | float") -> "Value":
        """self * other."""
        raise NotImplementedError("autograd")

    def __truediv__(self, other: "Value | float") -> "Value":
        """self / other."""
        raise NotImplementedError("autograd")

    def __neg__(self) -> "Value":
        """-self."""
        raise NotImplementedError("autograd")

    def __pow__(self, n: float) -> "Value":
        """self ** n for a plain number n."""
        raise NotImplementedError("autograd")

    def exp(self) -> "Value":
        """e to the power of self."""
        raise NotImplementedError("autograd")

    def log(self) -> "Value":
        """The natural logarithm; self must be positive."""
        raise NotImplementedError("autograd")

    def tanh(self) -> "Value":
        """The hyperbolic tangent."""
        raise NotImplementedError("autograd")

    def relu(self) -> "Value":
        """max(self, 0); the derivative at 0 is taken to be 0."""
        raise NotImplementedError("autograd")

    def backward(self) -> None:
        """Adds d self / d node to the grad of every node below, in time linear in the graph."""
        raise NotImplementedError("autograd")

    def zero_grad(self) -> None:
        """Sets the grad of self and of every node below to 0.0."""
        raise NotImplementedError("autograd")


class Tensor:
    """An array that remembers what it was made of; the operations are NumPy's, broadcasting included.

    data: float64. requires_grad: whether `backward` is to leave a gradient here; what is made of such a tensor has it
    too. `.grad` is None, or an array of the shape of `.data`. In + - * / the other operand may be a plain number, on
    either side.
    """

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        raise NotImplementedError("autograd")

    def __add__(self, other: "Tensor | float") -> "Tensor":
        """self + other."""
        raise NotImplementedError("autograd")

    def __sub__(self, other: "Tensor | float") -> "Tensor":
        """self - other."""
        raise NotImplementedError("autograd")

    def __mul__(self, other: "Tensor | float") -> "Tensor":
        """self * other."""
        raise NotImplementedError("autograd")

    def __truediv__(self, other: "Tensor | float") -> "Tensor":
        """self / other."""
        raise NotImplementedError("autograd")

    def __neg__(self) -> "Tensor":
        """-self."""
        raise NotImplementedError("autograd")

    def __pow__(self, n: float) -> "Tensor":
        """self ** n for a plain number n."""
        raise NotImplementedError("autograd")

    def __matmul__(self, other: "Tensor") -> "Tensor":
        """self @ other, batched as in NumPy: (..., n, k) @ (..., k, m); a vector is a row on the left, a column on the
        right, and its axis is dropped."""
        raise NotImplementedError("autograd")

    def __getitem__(self, index: Any) -> "Tensor":
        """self[index], with basic and integer-array indices; what is taken several times gets the sum."""
        raise NotImplementedError("autograd")

    def exp(self) -> "Tensor":
        """e to the power of each entry."""
        raise NotImplementedError("autograd")

    def log(self) -> "Tensor":
        """The natural logarithm of each entry."""
        raise NotImplementedError("autograd")

    def tanh(self) -> "Tensor":
        """The hyperbolic tangent of each entry."""
        raise NotImplementedError("autograd")

    def relu(self) -> "Tensor":
        """max(entry, 0); the derivative at 0 is taken to be 0."""
        raise NotImplementedError("autograd")

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The sum over the axes: an int, a tuple of them, or None for all."""
        raise NotImplementedError("autograd")

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The mean over the axes."""
        raise NotImplementedError("autograd")

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """The largest entry over the axes; entries that tie for it share the gradient equally."""
        raise NotImplementedError("autograd")

    def reshape(self, *shape: Any) -> "Tensor":
        """The entries in row-major order in another shape, given as numbers or as one tuple."""
        raise NotImplementedError("autograd")

    def transpose(self, *axes: Any) -> "Tensor":
        """The axes in another order, given as numbers or as one tuple; reversed if none is given."""
        raise NotImplementedError("autograd")

    def backward(self, grad: np.ndarray | None = None) -> None:
        """Adds the gradient of sum(grad * self) to the grad of every leaf below that requires one.

        grad: of the shape of self; 1 if it is left out, which only a scalar allows. Raises RuntimeError if self is not
        a scalar and grad is None.
        """
        raise NotImplementedError("autograd")


def cross_entropy(logits: Tensor, targets: np.ndarray) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats, by log-sum-exp: finite for any finite logits.

    logits (N, C). targets (N,) int, the right class of each row. Returns a scalar.
    """
    raise NotImplementedError("autograd")


def fit(x: np.ndarray, y: np.ndarray, *, n_classes: int, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Trains a multilayer perceptron with one hidden layer by SGD with momentum; returns `predict`.

    x (N, D) floating. y (N,) int classes, 0 to n_classes - 1. seed: of the initial weights and the order of rows.
    predict(x (M, D)) gives the likeliest class of each row, (M,) int.
    """
    raise NotImplementedError("autograd")
