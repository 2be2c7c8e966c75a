"""JAX: eager arrays, and the same call under jit, under vmap and on each device there is."""

import contextlib
import functools
import importlib.metadata
import os
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
# XLA's former code generator for fused loops and one module for LLVM: compiled three to four times as fast. A flag that
# XLA does not know ends the process, so they are set for the version that was tried alone. The person's own come last.
EMITTERS = "xla_cpu_use_fusion_emitters"
if QUICK := importlib.metadata.version("jaxlib").startswith("0.10."):
    flags = f"--{EMITTERS}=false", "--xla_cpu_parallel_codegen_split_count=1", os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
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
    patience = 4.0  # every program is compiled first

    def __init__(self) -> None:
        self.whole = True  # whether a call is compiled as a whole
        self.programs: dict[Any, Callable[..., Any]] = {}
        self.options: dict[str, bool] | None = None

    def _jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = jax.jit(function, compiler_options=self.options)
        return compiled

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
        return jax.device_put(array, _device(place))

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
        return self._jit(bound) if place == "jit" else bound

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
        call, arrays, fixed = _of_arrays(function, args, options)

        def twice(arrays: dict[str, Any]) -> Any:
            stacked = jax.tree.map(lambda x: jnp.stack([x, x]), arrays)
            return jax.tree.map(lambda x: x[1], jax.vmap(call)(stacked))

        mapped = place == "vmap"
        compiled = self._program((function, repr(fixed), tuple(arrays), mapped), twice if mapped else call)
        try:
            return compiled(arrays)
        except CONCRETE:
            if place != "cpu":
                raise
            return function(*args, **options)

    def sweep(
        self, function: Callable[..., Any], calls: Sequence[Sequence[Any]], options: Mapping[str, Any], place: str
    ) -> Any:
        """One program for all of them, where the function can be mapped; else call by call."""
        if not self.whole or place != "cpu":
            return super().sweep(function, calls, options, place)
        stacked = [jax.device_put(np.stack(column), _device(place)) for column in zip(*calls, strict=True)]
        call, arrays, _ = _of_arrays(function, stacked, options)
        axes = {name: 0 if name.isdigit() else None for name in arrays}
        try:
            together = self._jit(jax.vmap(call, in_axes=(axes,)))(arrays)
        except Exception:
            together = None
        return together if self.is_array(together) else super().sweep(function, calls, options, place)

    def outline(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> Any:
        call, arrays, _ = _of_arrays(function, args, options)

        def new(arrays: dict[str, Any]) -> Any:
            out = call(arrays)
            given = list(arrays.values())
            if not all(isinstance(x, jax.Array) and all(x is not y for y in given) for x in jax.tree.leaves(out)):
                raise TypeError("under jit it would become a new array, made by a call it is none")
            return out

        return jax.eval_shape(new, arrays)

    def trace(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> None:
        call, arrays, _ = _of_arrays(function, args, options)
        try:
            jax.make_jaxpr(call)(arrays)
        except CONCRETE:
            function(*args, **options)

    def vjp(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        wrt: Sequence[int],
        upstream: Any,
        options: Mapping[str, Any],
    ) -> tuple[Any, list[Any]]:
        call, arrays, fixed = _of_arrays(function, args, options)
        leaves = [str(i) for i in wrt]

        def both(arrays: dict[str, Any], upstream: Any) -> tuple[Any, Any]:
            out, pullback = jax.vjp(lambda chosen: call({**arrays, **chosen}), {key: arrays[key] for key in leaves})
            same_shape(out, upstream)
            return out, pullback(upstream)[0]

        compiled = self._program((function, repr(fixed), tuple(arrays), *leaves), both) if self.whole else both
        try:
            out, grads = compiled(arrays, upstream)
        except CONCRETE:
            out, grads = both(arrays, upstream)
        return out, [grads[key] for key in leaves]

    def _program(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function under `jit`, the same object for the same key."""
        if key not in self.programs:
            self.programs[key] = self._jit(function)
        return self.programs[key]

    def cost(self, function: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> cost.Cost:
        return cost.measure_jax(lambda *xs: function(xs), *arrays)

    def finish(self, value: Any, place: str) -> None:  # noqa: ARG002
        jax.block_until_ready(value)

    def for_speed(self) -> None:
        jax.config.update("jax_disable_most_optimizations", False)
        self.options = {EMITTERS: True} if QUICK else None
        self.programs.clear()

    def globals(self) -> tuple[Global, ...]:
        flags = [
            Global(flag, functools.partial(getattr, jax.config, flag), functools.partial(jax.config.update, flag))
            for flag in FLAGS
        ]
        return (*flags, *super().globals())


def _of_arrays(
    function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
) -> tuple[Callable[[dict[str, Any]], Any], dict[str, Any], dict[str, Any]]:
    """The call as a function of its arrays alone; these, by position or name; and the rest, which stays what it is."""
    given = {**{str(i): x for i, x in enumerate(args)}, **options}
    arrays = {key: x for key, x in given.items() if isinstance(x, jax.Array)}

    def call(arrays: dict[str, Any]) -> Any:
        positional = [arrays.get(str(i), x) for i, x in enumerate(args)]
        return function(*positional, **{name: arrays.get(name, x) for name, x in options.items()})

    return call, arrays, {key: x for key, x in given.items() if key not in arrays}


def _device(place: str) -> Any:
    return jax.devices("gpu" if place == "cuda" else "cpu")[0]


BACKEND = JaxBackend()
