"""JAX: eager arrays, and the same call under jit, under vmap and on each device there is."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graders import cost
from graders.backends import Backend, Global, same_shape
from graders.catalogue import ROOT

jax.config.update("jax_compilation_cache_dir", str(ROOT / ".katas" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", True)
EAGER = "eager"
# What an array's value deciding in Python, or NumPy on a traced array, raises.
CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_numpy_dtype_promotion")


class JaxBackend(Backend):
    name = "jax"
    array_name = "jax.Array"
    dtypes = ("float32", "float64", "bfloat16")
    value_dtypes = ("float32",)  # each further one is a further program to compile
    direct = EAGER
    examples = 8

    def __init__(self) -> None:
        self.whole = True  # whether a call is compiled as a whole
        self.programs: dict[Any, Callable[..., Any]] = {}

    def real_devices(self) -> tuple[str, ...]:
        return ("cuda",) if jax.default_backend() == "gpu" else ()

    def places(self) -> tuple[str, ...]:
        return ("jit", "vmap", *self.real_devices())

    def scope(self, arrays: Sequence[np.ndarray], place: str) -> contextlib.AbstractContextManager[Any]:
        """64-bit mode for float64 input alone, so that jnp's defaults are the person's own elsewhere."""
        stack = contextlib.ExitStack()
        if any(array.dtype == np.float64 for array in arrays):
            stack.enter_context(jax.enable_x64(True))
        stack.enter_context(jax.default_device(_device(place)))
        return stack

    def to(self, array: np.ndarray, place: str) -> Any:
        return jax.device_put(jnp.asarray(array), _device(place))

    def is_array(self, value: Any) -> bool:
        return isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer)

    def device(self, array: Any) -> str:
        platform: str = next(iter(array.devices())).platform
        return "cuda" if platform == "gpu" else platform

    def device_of(self, place: str) -> Any:
        return _device(place)

    def device_name(self, place: str) -> str:
        return "cuda" if place == "cuda" else "cpu"

    def dtype_named(self, name: str) -> Any:
        return jnp.dtype(name)

    def compile(self, function: Callable[..., Any], static: Mapping[str, Any], place: str) -> Callable[..., Any]:
        bound = functools.partial(function, **static)
        return jax.jit(bound) if place == "jit" else bound

    @contextlib.contextmanager
    def many(self) -> Iterator[None]:
        """Operation by operation: what was compiled for one attempt serves the next, which a whole program does not."""
        before, self.whole = self.whole, False
        try:
            yield
        finally:
            self.whole = before

    def shares_storage(self, a: Any, b: Any) -> bool:
        return a is b

    def run(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], place: str) -> Any:
        """Compiled as a whole, ten times as fast as operation by operation; eagerly where it does not trace."""
        if place == EAGER or (place == "cpu" and not self.whole):
            return function(*args, **options)
        arrays, compiled = self._compiled(function, options, place)
        try:
            return compiled(tuple(args), arrays)
        except CONCRETE:
            if place != "cpu":
                raise
            return function(*args, **options)

    def trace(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> None:
        try:
            jax.make_jaxpr(functools.partial(function, **options))(*args)
        except CONCRETE:
            function(*args, **options)

    def vjp(
        self, function: Callable[..., Any], args: Sequence[Any], wrt: Sequence[int], upstream: Any
    ) -> tuple[Any, list[Any]]:
        def both(args: tuple[Any, ...], upstream: Any) -> tuple[Any, Any]:
            def of(*chosen: Any) -> Any:
                full = list(args)
                for position, value in zip(wrt, chosen, strict=True):
                    full[position] = value
                return function(*full)

            out, pullback = jax.vjp(of, *(args[i] for i in wrt))
            same_shape(out, upstream)
            return out, pullback(upstream)

        if not self.whole:
            out, grads = both(tuple(args), upstream)
            return out, list(grads)
        try:
            out, grads = jax.jit(both)(tuple(args), upstream)
        except CONCRETE:
            out, grads = both(tuple(args), upstream)
        return out, list(grads)

    def _compiled(
        self, function: Callable[..., Any], options: Mapping[str, Any], place: str
    ) -> tuple[dict[str, Any], Callable[..., Any]]:
        """The call with its arrays as arguments and the rest fixed; the same object for the same call."""
        arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array)}
        static = {name: value for name, value in options.items() if name not in arrays}
        key = (function, tuple(static.items()), place)
        if key not in self.programs:

            def call(args: tuple[Any, ...], arrays: dict[str, Any]) -> Any:
                return function(*args, **arrays, **static)

            def twice(args: tuple[Any, ...], arrays: dict[str, Any]) -> Any:
                stacked = jax.tree.map(lambda x: jnp.stack([x, x]), (args, arrays))
                return jax.vmap(call)(*stacked)[1]

            self.programs[key] = jax.jit(twice if place == "vmap" else call)
        return arrays, self.programs[key]

    def cost(self, function: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> cost.Cost:
        return cost.measure_jax(lambda *xs: function(xs), *arrays)

    def globals(self) -> tuple[Global, ...]:
        flags = [
            Global(flag, functools.partial(getattr, jax.config, flag), functools.partial(jax.config.update, flag))
            for flag in FLAGS
        ]
        return (*flags, *super().globals())


def _device(place: str) -> Any:
    return jax.devices("gpu" if place == "cuda" else "cpu")[0]


BACKEND = JaxBackend()
