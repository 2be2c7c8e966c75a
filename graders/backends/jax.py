"""JAX: eager arrays, and the same call under jit, under vmap and on each device there is."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graders import cost
from graders.backends import Backend, Global
from graders.catalogue import ROOT

jax.config.update("jax_compilation_cache_dir", str(ROOT / ".katas" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_default_matmul_precision", "highest")
FLAGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_debug_nans", "jax_numpy_dtype_promotion")


class JaxBackend(Backend):
    name = "jax"
    array_name = "jax.Array"
    dtypes = ("float32", "float64", "bfloat16")

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

    def shares_storage(self, a: Any, b: Any) -> bool:
        return a is b

    def run(self, function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], place: str) -> Any:
        arrays = {name: value for name, value in options.items() if isinstance(value, jax.Array)}
        static = {name: value for name, value in options.items() if name not in arrays}
        if place == "jit":
            return jax.jit(lambda args, arrays: function(*args, **arrays, **static))(tuple(args), arrays)
        if place == "vmap":
            twice = jax.tree.map(lambda x: jnp.stack([x, x]), (tuple(args), arrays))
            return jax.vmap(lambda args, arrays: function(*args, **arrays, **static))(*twice)[0]
        return function(*args, **options)

    def vjp(
        self, function: Callable[..., Any], args: Sequence[Any], wrt: Sequence[int], upstream: Any
    ) -> tuple[Any, list[Any]]:
        def of(*chosen: Any) -> Any:
            full = list(args)
            for position, value in zip(wrt, chosen, strict=True):
                full[position] = value
            return function(*full)

        out, pullback = jax.vjp(of, *(args[i] for i in wrt))
        return out, list(pullback(upstream))

    def cost(self, function: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> cost.Cost:
        return cost.measure_jax(lambda *xs: function(xs), *arrays)

    def globals(self) -> tuple[Global, ...]:
        flags = [
            Global(flag, lambda flag=flag: getattr(jax.config, flag), lambda v, flag=flag: jax.config.update(flag, v))  # type: ignore[misc]
            for flag in FLAGS
        ]
        return (*flags, *super().globals())


def _device(place: str) -> Any:
    return jax.devices("gpu" if place == "cuda" else "cpu")[0]


BACKEND = JaxBackend()
