"""The stand-in accelerator: CPU numerics in a tensor that reports another device.

Code that makes a mask without `device=` fails on it as it would on CUDA. It shows device discipline, nothing
about real kernels.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from graders.errors import KataError

aten = torch.ops.aten
DEVICE = torch.device("meta")
CPU_INDEX = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
CROSS_DEVICE = {aten.copy_.default, aten._to_copy.default}
LITERALS = {torch.tensor, torch.as_tensor, torch.asarray}
INDEXED = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
Operator = Any


class StandIn(torch.Tensor):
    """A CPU tensor that says it is elsewhere."""

    inner: torch.Tensor
    __slots__ = ("inner",)

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "StandIn":
        wrapper: StandIn = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        wrapper.inner = inner
        return wrapper

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"stand-in {self.inner.detach()!r}"

    @property
    def data(self) -> torch.Tensor:
        """Without history, of the same numbers; assigned, those of another tensor."""
        plain: torch.Tensor = torch.Tensor.data.__get__(self)
        return plain

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        if not isinstance(other, StandIn):
            raise RuntimeError(f"incompatible tensor type: a tensor on the stand-in was given data on {other.device}")
        torch.Tensor.data.__set__(self, other)
        self.inner = other.inner

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return unwrap(self).numpy()
        raise TypeError("can't convert a stand-in tensor to numpy. Use Tensor.cpu() to copy it to host memory first.")

    def __array__(self, dtype: Any = None) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        return unwrap(self).tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Operator, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


def wrap(tensor: torch.Tensor) -> StandIn:
    """A CPU tensor moved to the stand-in."""
    return StandIn(tensor.detach())


def unwrap(tensor: torch.Tensor) -> torch.Tensor:
    """The real data, without history."""
    plain = tensor.detach()
    return plain.inner if isinstance(plain, StandIn) else plain


class _Operators(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler at the first operation, which takes a second

    def __torch_dispatch__(self, function: Operator, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(function, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """What PyTorch builds from Python numbers below the dispatcher is built on the CPU first, then moved."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in INDEXED and isinstance(args[0], StandIn):
            args = (args[0], _index(args[1]), *args[2:])
        asked = kwargs.get("device")
        if function is torch.Tensor.new_tensor and isinstance(args[0], StandIn):
            like, *args = args
            function, asked = torch.tensor, like.device if asked is None else asked
            kwargs = {"dtype": like.dtype, **kwargs}
        if function in LITERALS and asked is not None and torch.device(asked) == DEVICE:
            wants_grad = kwargs.pop("requires_grad", False)
            made = function(*args, **{**kwargs, "device": "cpu"})
            return (made if isinstance(made, StandIn) else StandIn(made)).requires_grad_(wants_grad)
        return function(*args, **kwargs)


def _index(index: Any) -> Any:
    """Lists of numbers in an index as CPU tensors, which may index on any device; a list of lists is a tuple."""
    if isinstance(index, range) or (isinstance(index, list) and all(isinstance(part, int) for part in index)):
        return torch.tensor(list(index), dtype=None if index else torch.int64)
    return tuple(_index(part) for part in index) if isinstance(index, tuple | list) else index


class _Generator(torch.Generator):
    """A generator of the stand-in draws on the CPU."""

    def __new__(cls, device: Any = "cpu") -> "_Generator":
        asked = torch.device(device)
        made: _Generator = super().__new__(cls, "cpu" if asked == DEVICE else asked)
        made.asked = asked
        return made

    @property
    def device(self) -> torch.device:
        return self.asked


class Simulate(contextlib.ExitStack):
    """While active, factories with device=DEVICE give stand-ins and `.to(DEVICE)` moves."""

    def __enter__(self) -> "Simulate":
        super().__enter__()
        self.enter_context(_Literals())
        self.enter_context(_Operators())
        self.callback(setattr, torch, "Generator", torch.Generator)
        torch.Generator = _Generator
        return self


def dispatch(function: Operator, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operator on the real data and says where the result is.

    Outside of inference mode: a wrapper made within it cannot stand for a view of a tensor that was made before.
    """
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return dispatch(function, args, kwargs)
    tensors = _tensors([*args, *kwargs.values()])
    if any(t.device == DEVICE and not isinstance(t, StandIn) for t in tensors):
        raise KataError(
            f"graders/standin.py: {function} was given a tensor whose numbers the stand-in did not see made"
        )
    here = [t for t in tensors if isinstance(t, StandIn)]
    asked = kwargs.get("device")
    target = torch.device(asked) if asked is not None else None
    if not here and target != DEVICE:
        return function(*args, **kwargs)
    if here and function not in CROSS_DEVICE:
        _refuse_mixture(function, args, kwargs, tensors)
    plain_kwargs = {name: _unwrap(value) for name, value in kwargs.items()}
    if target is not None and target == DEVICE:
        plain_kwargs["device"] = torch.device("cpu")
    result = function(*_unwrap(args), **plain_kwargs)
    leaves = target is not None and target != DEVICE
    if function is aten.copy_.default and not isinstance(args[0], StandIn):
        return args[0]
    if leaves:
        return result
    wrapped = _wrap(result)
    return return_and_correct_aliasing(function, args, kwargs, wrapped) if here and _aliases(function) else wrapped


_ALIASING: dict[Any, bool] = {}


def _aliases(function: Operator) -> bool:
    if function not in _ALIASING:
        schema = function._schema
        _ALIASING[function] = any(x.alias_info is not None for x in (*schema.arguments, *schema.returns))
    return _ALIASING[function]


def _refuse_mixture(function: Operator, args: Any, kwargs: dict[str, Any], tensors: list[torch.Tensor]) -> None:
    """As CUDA does: CPU tensors of no dimension may mix, CPU indices may index, nothing else."""
    if all(isinstance(t, StandIn) or t.dim() == 0 for t in tensors):
        return
    if function in CPU_INDEX:
        tensors = _tensors([args[0], *args[2:], *kwargs.values()])
    if any(not isinstance(t, StandIn) and t.dim() > 0 for t in tensors):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, stand-in and cpu! "
            f"(when calling {function.overloadpacket})"
        )


def _tensors(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _map(change: Callable[[torch.Tensor], Any], value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(change, item) for item in value) if not hasattr(value, "_fields") else value
    return value


def _unwrap(value: Any) -> Any:
    return _map(lambda t: t.inner if isinstance(t, StandIn) else t, value)


def _wrap(value: Any) -> Any:
    return _map(lambda t: t if isinstance(t, StandIn) else StandIn(t), value)
