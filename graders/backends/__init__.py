"""One adapter a framework: arrays to and from NumPy, gradients, places to run, global state.

A place is where a call runs: a device ("cpu", "cuda", "stand-in") or, in JAX, a transformation of the call
("jit", "vmap"). A framework is imported only when an attempt in it is graded.
"""

import contextlib
import functools
import importlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graders import cost
from graders.errors import Mismatch


@dataclass(frozen=True)
class Global:
    """A piece of global state that an attempt must leave as it found it."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], None]
    random: bool = False

    def same(self, before: Any, after: Any) -> bool:
        return bool(np.all(before == after)) if isinstance(before, np.ndarray) else bool(before == after)


class Backend:
    """NumPy's adapter, and what the others inherit."""

    name = "numpy"
    array_name = "np.ndarray"
    dtypes: tuple[str, ...] = ("float32", "float64")  # what the dtype check covers
    value_dtypes: tuple[str, ...] = ("float64", "float32")  # what every values check covers
    direct: str = "cpu"  # the place where a call is made as the person would make it
    examples: int = 20  # drawn for a property
    patience: float = 1.0  # times a check's limit that it may take

    def places(self) -> tuple[str, ...]:
        """Where a call can run beside the CPU, real or simulated."""
        return ()

    def real_devices(self) -> tuple[str, ...]:
        return ()

    def scope(self, arrays: Sequence[np.ndarray], place: str) -> contextlib.AbstractContextManager[Any]:  # noqa: ARG002
        """What must be active while the attempt runs on these arrays."""
        return contextlib.nullcontext()

    def to(self, array: np.ndarray, place: str) -> Any:  # noqa: ARG002
        """The framework's array, with the layout of the NumPy array where the framework has layouts."""
        return array

    def back(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def is_array(self, value: Any) -> bool:
        return type(value) is np.ndarray or isinstance(value, np.generic)

    def version(self, array: Any) -> int:  # noqa: ARG002
        """A count of in-place updates, where the framework keeps one."""
        return 0

    def device(self, array: Any) -> str:  # noqa: ARG002
        return "cpu"

    def device_of(self, place: str) -> Any:
        """The framework's own device of a place."""
        return place

    def device_name(self, place: str) -> str:  # noqa: ARG002
        """What `device` says of an array in a place."""
        return "cpu"

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def dtype_named(self, name: str) -> Any:
        """The framework's own dtype of that name."""
        return np.dtype(name)

    def shares_storage(self, a: Any, b: Any) -> bool:
        return np.shares_memory(a, b)

    def run(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], place: str) -> Any:  # noqa: ARG002
        return function(*args, **options)

    def outline(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """The result with the shape and dtype of each array in its place; None where only a call can tell."""
        return None

    def sweep(
        self, function: Callable[..., Any], calls: Sequence[Sequence[Any]], options: Mapping[str, Any], place: str
    ) -> Any:
        """The results of many calls alike on NumPy arrays: a list, or stacked in one array."""
        return [self.run(function, [self.to(x, place) for x in args], options, place) for args in calls]

    def compile(self, function: Callable[..., Any], static: Mapping[str, Any], place: str) -> Callable[..., Any]:  # noqa: ARG002
        """The function with some options fixed, compiled where the framework does that in this place."""
        return functools.partial(function, **static)

    @contextlib.contextmanager
    def many(self) -> Iterator[None]:
        """While several attempts run in this process: whatever makes the next one cheaper."""
        yield

    def trace(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Takes the person's code through one call; the result does not matter."""
        function(*args, **options)

    def vjp(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        wrt: Sequence[int],
        upstream: Any,
        options: Mapping[str, Any],
    ) -> tuple[Any, list[Any]]:
        """The function's result and, for each argument in wrt, upstream^T times the Jacobian; None where it is cut."""
        raise NotImplementedError(f"{self.name} has no automatic differentiation")

    def cost(self, function: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> cost.Cost:
        """What function(arrays) costs, counted."""
        return cost.measure_numpy(lambda: function(arrays))

    def finish(self, value: Any, place: str) -> None:
        """Waits until what was asked for is computed, where a call returns before that."""

    def for_speed(self) -> None:
        """From here on programs are compiled to run fast, where they otherwise are to be compiled fast."""

    def warm(self) -> None:
        """Imports what a grading would otherwise import late."""

    def globals(self) -> tuple[Global, ...]:
        return (
            Global("NumPy's error state", np.geterr, lambda state: np.seterr(**state) and None),
            Global("NumPy's global RNG", _numpy_rng, _set_numpy_rng, random=True),
            Global("Python's random", random.getstate, random.setstate, random=True),
        )


def same_shape(out: Any, upstream: Any) -> None:
    """An upstream gradient that would broadcast hides a result of the wrong shape."""
    if tuple(out.shape) != tuple(upstream.shape):
        raise Mismatch(f"out has shape {tuple(out.shape)}, expected {tuple(upstream.shape)}")


def _numpy_rng() -> tuple[Any, ...]:
    state: Any = np.random.get_state(legacy=True)
    _, keys, *rest = state
    return (keys.tobytes(), *rest)


def _set_numpy_rng(state: tuple[Any, ...]) -> None:
    np.random.set_state(("MT19937", np.frombuffer(state[0], dtype=np.uint32), *state[1:]))


def load(framework: str) -> Backend:
    """The adapter of a framework; imports the framework."""
    if framework == "numpy":
        return Backend()
    module = importlib.import_module(f"graders.backends.{framework}")
    backend: Backend = module.BACKEND
    return backend
