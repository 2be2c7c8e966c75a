"""Forward-mode differentiation (dual numbers: Baydin et al. 2018, section 3.1) with a running bound on rounding.

Nothing here goes backwards, so that a mistake in reverse mode is not made twice.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Axis = int | tuple[int, ...] | None


class Dual:
    """An array, its derivatives by each of P inputs, and how far rounding may move both.

    value has any shape, the others are of it: slope (*shape, P); reach (*shape, P), the sum over all paths of the
    products of local derivatives without their signs; noise and slope_noise, the rounding of value and of slope in
    units of the machine epsilon (Wilkinson's running error analysis).
    """

    def __init__(self, value: Any, slope: Any, reach: Any, noise: Any, slope_noise: Any) -> None:
        self.value, self.slope, self.reach = value, slope, reach
        self.noise, self.slope_noise = noise, slope_noise

    def __add__(self, other: Any) -> "Dual":
        other = self._dual(other)
        value, reach = self.value + other.value, self.reach + other.reach
        noise = self.noise + other.noise + np.abs(value)
        return Dual(value, self.slope + other.slope, reach, noise, self.slope_noise + other.slope_noise + reach)

    def __mul__(self, other: Any) -> "Dual":
        other = self._dual(other)
        a, b = self.value[..., None], other.value[..., None]
        value = self.value * other.value
        reach = np.abs(a) * other.reach + np.abs(b) * self.reach
        noise = np.abs(self.value) * other.noise + np.abs(other.value) * self.noise + np.abs(value)
        slope_noise = np.abs(a) * other.slope_noise + np.abs(b) * self.slope_noise + 2 * reach
        slope_noise = slope_noise + self.noise[..., None] * other.reach + other.noise[..., None] * self.reach
        return Dual(value, a * other.slope + b * self.slope, reach, noise, slope_noise)

    def __pow__(self, n: float) -> "Dual":
        x = self.value
        first = n * x ** (n - 1) if n else 0 * x
        second = n * (n - 1) * x ** (n - 2) if n not in (0, 1) else 0 * x
        return self._through(x**n, first, second)

    def __matmul__(self, other: "Dual") -> "Dual":
        a = self.reshape(1, -1) if self.value.ndim == 1 else self
        b = other.reshape(-1, 1) if other.value.ndim == 1 else other
        left, right = a.value.shape, b.value.shape
        if left[-1] != right[-2]:
            raise ValueError(f"matrices of shapes {left} and {right} have no product")
        out = (a.reshape(*left, 1) * b.reshape(*right[:-2], 1, *right[-2:])).sum(axis=-2)
        shape = list(out.value.shape)
        if other.value.ndim == 1:
            del shape[-1]
        if self.value.ndim == 1:
            del shape[-1 if other.value.ndim == 1 else -2]
        return out.reshape(*shape)

    def __neg__(self) -> "Dual":
        return self * -1.0

    def __radd__(self, other: Any) -> "Dual":
        return self + other

    def __sub__(self, other: Any) -> "Dual":
        return self + -self._dual(other)

    def __rsub__(self, other: Any) -> "Dual":
        return -self + other

    def __rmul__(self, other: Any) -> "Dual":
        return self * other

    def __truediv__(self, other: Any) -> "Dual":
        return self * self._dual(other) ** -1

    def __rtruediv__(self, other: Any) -> "Dual":
        return self**-1 * other

    def exp(self) -> "Dual":
        return self._through(np.exp(self.value), np.exp(self.value), np.exp(self.value))

    def log(self) -> "Dual":
        return self._through(np.log(self.value), 1 / self.value, -1 / self.value**2)

    def tanh(self) -> "Dual":
        t = np.tanh(self.value)
        return self._through(t, np.cosh(np.clip(self.value, -350, 350)) ** -2.0, 1.0 + 0 * t, rounding=1.0)

    def relu(self) -> "Dual":
        return self._through(np.maximum(self.value, 0), np.heaviside(self.value, 0), 0 * self.value)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Dual":
        return self._weighed(np.ones(self.value.shape), axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Dual":
        axes = _axes(axis, self.value.ndim)
        count = np.prod([self.value.shape[i] for i in axes])
        return self._weighed(np.full(self.value.shape, 1 / count), axis, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Dual":
        """Ties share the derivative equally."""
        axes = _axes(axis, self.value.ndim)
        largest = self.value == np.max(self.value, axis=axes, keepdims=True)
        return self._weighed(largest / np.count_nonzero(largest, axis=axes, keepdims=True), axis, keepdims)

    def reshape(self, *shape: int) -> "Dual":
        return self._taken(self._positions().reshape(shape))

    def transpose(self, *axes: int) -> "Dual":
        return self._taken(np.transpose(self._positions(), axes or None))

    def __getitem__(self, index: Any) -> "Dual":
        return self._taken(self._positions()[index])

    def _dual(self, other: Any) -> "Dual":
        return other if isinstance(other, Dual) else constant(other, self.slope.shape[-1])

    def _through(self, f: Any, first: Any, second: Any, rounding: float = 0.0) -> "Dual":
        """f of each entry. rounding: that of the usual formulas of f and its derivative, where it is not relative."""
        steep, bent = np.abs(first)[..., None], np.abs(second) * self.noise
        slack = bent[..., None] + 2 * np.maximum(steep, rounding)
        noise = np.abs(first) * self.noise + 2 * np.maximum(np.abs(f), rounding)
        slope_noise = steep * self.slope_noise + slack * self.reach
        return Dual(f, first[..., None] * self.slope, steep * self.reach, noise, slope_noise)

    def _weighed(self, weights: np.ndarray, axis: Axis, keepdims: bool) -> "Dual":
        """The sum of weights * entries over the axes."""
        axes = _axes(axis, self.value.ndim)
        terms = 1 + np.prod([self.value.shape[i] for i in axes])

        def total(x: np.ndarray) -> np.ndarray:
            return np.asarray(np.sum(x * weights.reshape(weights.shape + (1,) * (x.ndim - weights.ndim)), axis=axes))

        noise = total(self.noise) + terms * total(np.abs(self.value))
        slope_noise = total(self.slope_noise) + terms * total(self.reach)
        out = Dual(total(self.value), total(self.slope), total(self.reach), noise, slope_noise)
        kept = [1 if i in axes else n for i, n in enumerate(self.value.shape)]
        return out.reshape(*kept) if keepdims else out

    def _positions(self) -> np.ndarray:
        return np.arange(self.value.size).reshape(self.value.shape)

    def _taken(self, positions: Any) -> "Dual":
        def take(x: np.ndarray) -> np.ndarray:
            return np.asarray(x.reshape(self.value.size, *x.shape[self.value.ndim :])[positions])

        parts = (self.value, self.slope, self.reach, self.noise, self.slope_noise)
        return Dual(*(take(np.asarray(part)) for part in parts))


def constant(value: Any, inputs: int) -> Dual:
    value = np.asarray(value, np.float64)
    slope = np.zeros((*value.shape, inputs))
    return Dual(value, slope, slope, np.zeros(value.shape), slope)


def seeded(arrays: Mapping[str, np.ndarray]) -> dict[str, Dual]:
    """The inputs, each entry of each with a derivative of its own."""
    total = sum(x.size for x in arrays.values())
    found, start = {}, 0
    for name, x in arrays.items():
        dual = constant(x, total)
        slope = np.eye(total)[start : start + x.size].reshape(*x.shape, total)
        found[name] = Dual(dual.value, slope, slope, dual.noise, dual.slope)
        start += x.size
    return found


def gradients(
    build: Callable[..., Dual], arrays: Mapping[str, np.ndarray], upstream: np.ndarray | float = 1.0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """build(**arrays) as "out" and the gradient of sum(upstream * out) by name; then the rounding size of each."""
    out = build(**seeded(arrays))
    shares = np.broadcast_to(upstream, out.value.shape)[..., None]
    leading = tuple(range(out.value.ndim))
    by_input = np.sum(shares * out.slope, axis=leading)
    rounding = np.sum(np.abs(shares) * (out.slope_noise + out.reach), axis=leading)
    found, sizes = {"out": out.value}, {"out": float(np.max(out.noise, initial=0))}
    start = 0
    for name, x in arrays.items():
        found[name] = by_input[start : start + x.size].reshape(x.shape)
        sizes[name] = float(np.max(rounding[start : start + x.size], initial=0))
        start += x.size
    return found, sizes


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, upstream: float = 1.0
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The mean of -log softmax(logits)[target] in nats, row by row, as "out", its gradient as "logits"; both roundings.

    A logit of size s is known to s machine epsilons, and a probability then to s + C of them, relative to itself.
    """
    losses, slopes = [], np.zeros_like(logits)
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        shifted = row - np.max(row)
        total = np.sum(np.exp(shifted))
        losses.append(np.log(total) - shifted[target])
        slopes[i] = np.exp(shifted) / total
        slopes[i, target] -= 1
    rounding = float(np.max(np.abs(logits)) + logits.shape[1])
    found = {"out": np.asarray(np.mean(losses)), "logits": upstream * slopes / len(targets)}
    return found, {"out": rounding, "logits": abs(upstream) * rounding / len(targets)}


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(i % ndim for i in (axis if isinstance(axis, tuple) else (axis,)))
