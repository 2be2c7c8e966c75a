"""Cost, counted and not timed: floating-point operations, largest intermediate, bytes held, operations."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What one call cost.

    flops: 2 for each multiply-add of a matrix product. largest: elements of the largest intermediate.
    peak: bytes held at the most beyond the inputs. ops: operations dispatched that compute something.
    In NumPy, which shows its allocations alone, flops and ops are 0 and largest is peak over 8.
    """

    flops: int = 0
    largest: int = 0
    peak: int = 0
    ops: int = 0


def measure_numpy(call: Callable[[], object]) -> Cost:
    """By tracemalloc, which NumPy tells of each buffer."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    held = max(peak - before, 0)
    return Cost(largest=held // 8, peak=held)


def measure_torch(call: Callable[[], object]) -> Cost:
    """By a dispatch mode; only a tensor with storage of its own counts, a view or an in-place result does not."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    flops = ops = largest = held = peak = 0
    known: set[int] = set()

    def release(key: int, size: int) -> None:
        nonlocal held
        known.discard(key)
        held -= size

    class Meter(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # or torch imports its compiler at the first operation, which takes a second

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal flops, ops, largest, held, peak
            given = {t.untyped_storage()._cdata for t in _tensors(torch.Tensor, [*args, *(kwargs or {}).values()])}
            out = function(*args, **(kwargs or {}))
            computed = False
            for tensor in _tensors(torch.Tensor, [out]):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                computed |= key not in given or function._schema.is_mutable
                if key in given or key in known:
                    continue
                known.add(key)
                held += size
                peak = max(peak, held)
                largest = max(largest, size // max(tensor.element_size(), 1))
                weakref.finalize(storage, release, key, size)
            ops += computed
            flops += _product_flops(function.overloadpacket.__name__, args)
            return out

    with Meter():
        call()
    return Cost(flops, largest, peak, ops)


def _tensors(kind: type, values: Any) -> list[Any]:
    found = []
    for value in values:
        if isinstance(value, kind):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(kind, value)
    return found


def _product_flops(name: str, args: Any) -> int:
    """2 m n k of a matrix product; 0 of everything else."""
    if name in ("mm", "bmm", "mv", "dot"):
        a, b = args[:2]
    elif name in ("addmm", "baddbmm", "addmv", "addbmm"):
        a, b = args[1:3]
    else:
        return 0
    return int(2 * a.numel() * (b.shape[-1] if b.dim() >= 2 else 1))


def measure_jax(function: Callable[..., Any], *args: Any) -> Cost:
    """By tracing: each equation of the jaxpr, the bodies of loops as often as they run."""
    import jax

    closed = jax.make_jaxpr(function)(*args)
    return _walk(closed.jaxpr)


PRODUCT = "dot_general"


def _walk(jaxpr: Any) -> Cost:
    last = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in eqn.invars if hasattr(var, "count")}
    kept = set(jaxpr.outvars)
    flops = ops = largest = held = peak = 0
    for i, eqn in enumerate(jaxpr.eqns):
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        inner = [_walk(body) for value in eqn.params.values() for body in _bodies(value)]
        flops += times * sum(c.flops for c in inner) + _dot_flops(eqn)
        ops += times * sum(c.ops for c in inner) + (not inner)
        sizes = [prod(var.aval.shape) for var in eqn.outvars]
        largest = max([largest, *sizes, *(c.largest for c in inner)])
        held += sum(_bytes(var) for var in eqn.outvars)
        peak = max(peak, held + max((c.peak for c in inner), default=0))
        freed = {v for v in eqn.invars if hasattr(v, "count") and last[v] == i and v not in kept}
        made_here = {v for e in jaxpr.eqns[:i] for v in e.outvars}
        held -= sum(_bytes(v) for v in freed & made_here)
    return Cost(flops, largest, peak, ops)


def _bytes(var: Any) -> int:
    return int(prod(var.aval.shape)) * int(var.aval.dtype.itemsize)


def _bodies(value: Any) -> list[Any]:
    """The jaxprs in an equation's parameter."""
    if isinstance(value, tuple | list):
        return [body for item in value for body in _bodies(item)]
    inner = getattr(value, "jaxpr", value)
    return [inner] if hasattr(inner, "eqns") else []


def _dot_flops(eqn: Any) -> int:
    if eqn.primitive.name != PRODUCT:
        return 0
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2 * prod(eqn.outvars[0].aval.shape) * prod(left[i] for i in contracted)
