"""Named axes, and one call with the kernel that answers it."""

import ast
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes  # noqa: F401 - gives NumPy the name "bfloat16"
import numpy as np

from graders.attempt import Attempt
from graders.guards import call_text
from graders.native import is_float

Kernel = Callable[..., Any]
FINER = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)
Results = dict[str, np.ndarray]


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
    special about an entry of the result ("row 3 is fully masked"), for the report. `formulas` are other formulations
    that are as right: the budget comes from the one that rounds the most.
    """

    name: str
    args: tuple[np.ndarray, ...]
    kernel: Kernel
    backward: Kernel | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    near: Callable[[tuple[int, ...]], str] | None = None
    results: tuple[str, ...] = ("out",)
    formulas: tuple[Kernel, ...] = ()

    def cast(self, dtype: str) -> "Case":
        def one(x: Any) -> Any:
            return _cast(x, dtype) if isinstance(x, np.ndarray) else x

        options = {name: one(x) for name, x in self.options.items()}
        return replace(self, args=tuple(one(x) for x in self.args), options=options)

    def run(self, attempt: Attempt) -> Results:
        out = attempt.call(self.name, *self.args, arrays=len(self.results), **self.options)
        return self._named(out)

    def trace(self, attempt: Attempt) -> None:
        attempt.trace(self.name, self.args, self.options)

    def called(self, attempt: Attempt) -> tuple[str, str]:
        given = {**dict(zip(self.parameters(attempt), self.args, strict=False)), **self.options}
        return "called", f"{call_text(self.name, given)} on {attempt.place}"

    def parameters(self, attempt: Attempt) -> list[str]:
        """The contract's names of the positional arguments."""
        signature = attempt.signatures.get(self.name, f"{self.name}()")
        (node,) = ast.parse(f"def {signature}: pass").body
        names = [argument.arg for argument in node.args.args]  # type: ignore[attr-defined]
        return names if len(names) >= len(self.args) else [f"argument {i}" for i in range(len(self.args))]

    def exact(self) -> Results:
        """The kernel in float64, on the inputs as they are in the working dtype."""
        wide = self.cast("float64")
        return self._named(self.kernel(*wide.args, **wide.options))

    def rough(self) -> Results:
        """How far a right formula may be off: the kernel in the working dtype, or its rounding carried to float64."""
        if self.dtype == np.float64:
            return _in_float64(self.exact(), self.cast("float32"))
        tried = [self._in_working_dtype(kernel) for kernel in (self.kernel, *self.formulas)]
        if len(tried) == 1:
            return tried[0]
        exact = self.exact()
        errors = [{name: _error(found[name], exact[name]) for name in exact} for found in tried]
        return {name: tried[int(np.argmax([error[name] for error in errors]))][name] for name in exact}

    def _in_working_dtype(self, kernel: Kernel) -> Results:
        found = self._named(kernel(*self.args, **self.options))
        return {name: np.asarray(value).astype(self.dtype) for name, value in found.items()}

    def _named(self, out: Any) -> Results:
        return dict(zip(self.results, out if len(self.results) > 1 else (out,), strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        return next(x.dtype for x in self.args if isinstance(x, np.ndarray) and is_float(x))

    def scales(self) -> Mapping[str, float]:
        """The size of what cancels in a result, by name, where that counts."""
        return {}

    def wrt(self) -> list[int]:
        return [i for i, x in enumerate(self.args) if isinstance(x, np.ndarray) and is_float(x)]

    def gradients(self, upstream: np.ndarray) -> list[np.ndarray]:
        if self.backward is None:
            raise ValueError(f"{self.name}: the case has no backward kernel")
        found = self.backward(upstream, *self.args, **self.options)
        return [np.asarray(x) for x in (found if isinstance(found, tuple) else (found,))]


@dataclass(frozen=True)
class Scenario:
    """Something done with the person's own objects, and the kernel that says what must come of it.

    `play(m, **arrays)` does it, `m` being the person's module (graders.native), and gives results by name, as NumPy;
    `kernel(**arrays)` gives the same names. `arrays` are the numbers that both start from: play hands them on by
    `m.to`. It may be played again on another attempt, so it draws nothing from a generator that others share.
    draws: the person's code may use the global random number generators. sizes(**arrays): by name, the size of what
    cancels in a result, where that may be much more than the result itself.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    play: Callable[..., Mapping[str, np.ndarray]]
    kernel: Callable[..., Mapping[str, np.ndarray]]
    draws: bool = False
    dtype: str = "float64"
    near: Callable[[tuple[int, ...]], str] | None = None
    sizes: Callable[..., Mapping[str, float]] | None = None

    def cast(self, dtype: str) -> "Scenario":
        return replace(self, dtype=dtype, arrays={name: _cast(x, dtype) for name, x in self.arrays.items()})

    def run(self, attempt: Attempt) -> Results:
        found = attempt.play(self.name, lambda m: self.play(m, **self.arrays), dtype=self.dtype, draws=self.draws)
        return dict(found)

    def trace(self, attempt: Attempt) -> None:
        attempt.play(self.name, lambda m: self.play(m, **self.arrays), dtype=self.dtype, draws=self.draws, watched=True)

    def called(self, attempt: Attempt) -> tuple[str, str]:
        return "in", f"{self.name}, {self.dtype} on {attempt.place}"

    def exact(self) -> Results:
        return dict(self.kernel(**{name: _cast(x, "float64") for name, x in self.arrays.items()}))

    def rough(self) -> Results:
        if self.dtype == "float64":
            return _in_float64(self.exact(), self.cast("float32"))
        found = self.kernel(**self.arrays)
        return {name: np.asarray(x).astype(self.dtype) for name, x in found.items()}

    def scales(self) -> Mapping[str, float]:
        return self.sizes(**self.arrays) if self.sizes else {}


def _in_float64(exact: Results, narrow: Any) -> Results:
    with np.errstate(all="ignore"):
        rough, wide = narrow.rough(), narrow.exact()
    return {name: carried(right, rough[name], wide[name]) for name, right in exact.items()}


def carried(exact: np.ndarray, rough: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """What is exact in float64, moved by rough - wide, the kernel's rounding in float32, made smaller.

    In float64 the kernel is the exact answer and shows no rounding of its own.
    """
    with np.errstate(all="ignore"):
        moved = rough.astype(np.float64) - wide
    return exact + FINER * np.nan_to_num(moved, posinf=0, neginf=0)


def _error(rough: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(rough.astype(np.float64) - exact), initial=0))


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
