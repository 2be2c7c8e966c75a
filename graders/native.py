"""The person's own objects, for katas about objects: a cache, a module, an optimizer, a graph of values."""

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from graders.cost import Cost
from graders.errors import Mismatch
from graders.guards import kind, same_bits

if TYPE_CHECKING:
    from graders.attempt import Attempt


class Native:
    """What a scenario plays with: `m.KVCache(...)` is the person's class, `m.to(x)` an array on the device under test.

    dtype: the framework's dtype that floating arrays are given in. device: the framework's device.
    """

    def __init__(self, attempt: "Attempt", name: str, dtype: str) -> None:
        self.attempt, self.backend = attempt, attempt.backend
        self.framework, self.place = attempt.framework, attempt.place
        self.doing, self.dtype_name = name, dtype
        self.dtype = attempt.backend.dtype_named(dtype)
        self.device = attempt.backend.device_of(attempt.place)
        self.given: list[tuple[str, Any, np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.attempt.find(name)

    def step(self, doing: str) -> None:
        """Says what comes next, for the report: "update with 3 tokens after 2"."""
        self.doing = doing

    def to(self, array: np.ndarray, name: str = "") -> Any:
        """An input, floating arrays in the dtype under test; with a name it must stay as it is."""
        cast = array.astype(self.dtype_name) if is_float(array) else array.copy()
        native = self.backend.to(cast, self.place)
        if name:
            self.given.append((name, native, cast.copy()))
        return native

    def array(
        self, value: Any, what: str, *, dtype: str | None = None, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A result as NumPy: exactly the framework's array, in the dtype and on the device under test.

        dtype: another one that is expected; "any" accepts all.
        """
        if value is None:
            raise Mismatch(f"{what} is None: no return on this path?")
        if not self.backend.is_array(value):
            raise Mismatch(f"{what} is {kind(value)}, expected a {self.backend.array_name}")
        if (found := self.backend.device(value)) != self.backend.device_name(self.place):
            raise Mismatch(f"{what} is on {found}, its inputs are on {self.place}")
        expected, got = dtype or self.dtype_name, self.backend.dtype(value)
        if expected not in ("any", got):
            raise Mismatch(f"{what} has dtype {got}, expected {expected}")
        if shape is not None and tuple(value.shape) != shape:
            raise Mismatch(f"{what} has shape {tuple(value.shape)}, expected {shape}")
        return np.array(self.backend.back(value))

    def check(self, holds: Any, otherwise: str) -> None:
        """Mismatch with the sentence `otherwise` unless it holds."""
        if not holds:
            raise Mismatch(otherwise)

    def raises(self, error: type[Exception], call: Callable[[], Any], why: str) -> Exception:
        """The call raises that error; `why` says what is wrong with what it was given."""
        try:
            call()
        except error as raised:
            return raised
        except Exception as other:
            if isinstance(other, NotImplementedError) and other.args == (self.attempt.kata,):
                raise
            raise Mismatch(
                f"{why}: expected {error.__name__}, raised {type(other).__name__}: {other}", raised=other
            ) from None
        raise Mismatch(f"{why}: expected {error.__name__}, nothing was raised")

    def compiled(self, function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
        """The function with these options fixed; under JAX's `jit` where that is the place, as it is elsewhere."""
        return self.backend.compile(function, static, self.place)

    def cost(self, call: Callable[[], Any]) -> Cost:
        """What the call costs, counted."""
        return self.backend.cost(lambda _: call(), ())

    def unchanged(self) -> None:
        """The inputs that were given a name are as they were."""
        for name, native, kept in self.given:
            now = self.backend.back(native)
            if not same_bits(now, kept.astype(now.dtype)):
                raise Mismatch(f"{self.doing} changes {name} in place")


def is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def nearest(name: str, names: list[str]) -> str | None:
    """The name that was most likely meant."""
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.7)), None)
