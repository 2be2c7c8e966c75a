"""Named axes, and one call with the kernel that answers it."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes  # noqa: F401 - gives NumPy the name "bfloat16"
import numpy as np

Kernel = Callable[..., Any]


class Dims:
    """Sizes of named axes, all different, so that no swap hides: `Dims(B=2, T=4)["B T"]` is (2, 4)."""

    def __init__(self, **sizes: int) -> None:
        if len(set(sizes.values())) < len(sizes):
            raise ValueError(f"axes of equal size hide a swap: {sizes}")
        self.sizes = sizes

    def __getitem__(self, axes: str) -> tuple[int, ...]:
        return tuple(int(np.prod([self.sizes[part] for part in axis.split("*")])) for axis in axes.split())

    def normal(self, rng: np.random.Generator, axes: str) -> np.ndarray:
        return rng.normal(size=self[axes])

    def complaint(self, got: tuple[int, ...], axes: str) -> str:
        """Why a shape is wrong, with the swap that explains it if one does."""
        names, expected = axes.split(), self[axes]
        said = f"has shape {got}, expected ({' '.join(names)}) = {expected}"
        if sorted(got) == sorted(expected):
            for i, j in itertools.combinations(range(len(expected)), 2):
                swapped = list(expected)
                swapped[i], swapped[j] = swapped[j], swapped[i]
                if tuple(swapped) == got:
                    return f"{said}: {names[i]} and {names[j]} are swapped?"
            return f"{said}: are the axes permuted?"
        return said


@dataclass(frozen=True)
class Case:
    """One call of the person's function `name`, the kernel that answers it, and the kernel of its gradient.

    `backward(upstream, *args, **options)` gives a gradient for each float argument. `near(index)` says what is
    special about an entry of the result ("row 3 is fully masked"), for the report.
    """

    name: str
    args: tuple[np.ndarray, ...]
    kernel: Kernel
    backward: Kernel | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    near: Callable[[tuple[int, ...]], str] | None = None

    def cast(self, dtype: str) -> "Case":
        return replace(self, args=tuple(_cast(x, dtype) for x in self.args))

    def exact(self) -> np.ndarray:
        """The kernel in float64, on the inputs as they are in the working dtype."""
        out: np.ndarray = self.kernel(*self.cast("float64").args, **self.options)
        return out

    def rough(self) -> np.ndarray:
        """The kernel in the working dtype: how far a right formula may be off."""
        return np.asarray(self.kernel(*self.args, **self.options)).astype(self.dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.args[0].dtype

    def wrt(self) -> list[int]:
        return [i for i, x in enumerate(self.args) if is_float(x)]

    def gradients(self, upstream: np.ndarray) -> list[np.ndarray]:
        if self.backward is None:
            raise ValueError(f"{self.name}: the case has no backward kernel")
        found = self.backward(upstream, *self.args, **self.options)
        return [np.asarray(x) for x in (found if isinstance(found, tuple) else (found,))]


def is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" or x.dtype == np.dtype("bfloat16")


def _cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """In the layout it has: a transposed or strided array stays so."""
    if not is_float(x) or x.dtype == np.dtype(dtype):
        return x
    base = x.base if isinstance(x.base, np.ndarray) and is_float(x.base) else None
    if base is None or not base.size or x.strides == np.ascontiguousarray(x).strides:
        return x.astype(dtype)
    item = np.dtype(dtype).itemsize
    offset = (x.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // x.itemsize
    return np.lib.stride_tricks.as_strided(
        base.astype(dtype).reshape(-1)[offset:], x.shape, [s // x.itemsize * item for s in x.strides]
    )
