"""PyTorch: eager tensors on the CPU, on CUDA, or on the stand-in accelerator."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from graders import cost, standin
from graders.backends import Backend, Global, same_shape

# One thread: arrays of a few hundred numbers gain nothing from more, and threads that wait for each other on a busy
# machine take many times as long. A process with one thread can be forked, too.
torch.set_num_threads(1)


class TorchBackend(Backend):
    name = "torch"
    array_name = "torch.Tensor"
    dtypes = ("float32", "float64", "bfloat16")

    def real_devices(self) -> tuple[str, ...]:
        return ("cuda",) if torch.cuda.is_available() else ()

    def places(self) -> tuple[str, ...]:
        return self.real_devices() or ("stand-in",)

    def scope(self, arrays: Sequence[np.ndarray], place: str) -> contextlib.AbstractContextManager[Any]:  # noqa: ARG002
        return standin.Simulate() if place == "stand-in" else contextlib.nullcontext()

    def to(self, array: np.ndarray, place: str) -> Any:
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        if array.dtype == ml_dtypes.bfloat16:
            tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensor = torch.from_numpy(array)
        if place == "stand-in":
            return standin.wrap(tensor)
        return tensor if place == "cpu" else tensor.to(place)

    def back(self, array: Any) -> np.ndarray:
        plain = array.detach()
        plain = standin.unwrap(plain) if isinstance(plain, standin.StandIn) else plain.cpu()
        if plain.dtype == torch.bfloat16:
            return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        result: np.ndarray = plain.resolve_conj().resolve_neg().numpy()
        return result

    def is_array(self, value: Any) -> bool:
        return type(value) in (torch.Tensor, standin.StandIn) and value.layout == torch.strided

    def version(self, array: Any) -> int:
        return int(array._version)

    def device(self, array: Any) -> str:
        return "stand-in" if isinstance(array, standin.StandIn) else str(array.device.type)

    def device_of(self, place: str) -> Any:
        return standin.DEVICE if place == "stand-in" else torch.device(place)

    def device_name(self, place: str) -> str:
        return place

    def dtype(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def dtype_named(self, name: str) -> Any:
        return getattr(torch, name)

    def shares_storage(self, a: Any, b: Any) -> bool:
        if isinstance(a, standin.StandIn) and isinstance(b, standin.StandIn):
            a, b = standin.unwrap(a), standin.unwrap(b)
        same: bool = a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        return same and a.numel() > 0

    def vjp(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        wrt: Sequence[int],
        upstream: Any,
        options: Mapping[str, Any],
    ) -> tuple[Any, list[Any]]:
        leaves = [arg.detach().requires_grad_() if i in wrt else arg for i, arg in enumerate(args)]
        out = function(*leaves, **options)
        if not self.is_array(out):
            return out, [None for _ in wrt]
        same_shape(out, upstream)
        if not out.requires_grad:
            return out, [None for _ in wrt]
        # Of a scalar: given an upstream gradient, torch.autograd.grad imports sympy first, which takes half a second.
        grads = torch.autograd.grad((out * upstream).sum(), [leaves[i] for i in wrt], allow_unused=True)
        return out, list(grads)

    def cost(self, function: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> cost.Cost:
        return cost.measure_torch(lambda: function(arrays))

    def finish(self, value: Any, place: str) -> None:  # noqa: ARG002
        if place == "cuda":
            torch.cuda.synchronize()

    def globals(self) -> tuple[Global, ...]:
        return (
            Global("torch's global RNG", lambda: torch.get_rng_state().numpy().tobytes(), _set_rng, random=True),
            Global("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
            Global("torch's default device", lambda: str(torch.get_default_device()), torch.set_default_device),
            Global("torch's grad mode", torch.is_grad_enabled, _set_grad_mode),
            *super().globals(),
        )


def _set_rng(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))


def _set_grad_mode(enabled: bool) -> None:
    torch.set_grad_enabled(enabled)


BACKEND = TorchBackend()
