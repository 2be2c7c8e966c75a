"""LoRA as pure functions: a linear layer with an adapter, its merge, adapters for a pytree, a batch of many adapters.

Choices. The base weight is (O, I) as in PyTorch. Freezing needs no code: what is not differentiated is frozen, and
`jax.grad` over the adapters alone gives just their gradients.

The follow-up questions are answered in the PyTorch solution.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp


def init_lora(key: jax.Array, in_features: int, out_features: int, rank: int) -> tuple[jax.Array, jax.Array]:
    """a (R, I), random, and b (O, R), zero (Hu et al. 2021, section 4.1). Raises ValueError if rank < 1."""
    if rank < 1:
        raise ValueError(f"rank is {rank}; it must be at least 1")
    bound = in_features**-0.5
    a = jax.random.uniform(key, (rank, in_features), minval=-bound, maxval=bound)
    return a, jnp.zeros((out_features, rank), a.dtype)


def lora_linear(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None, a: jax.Array, b: jax.Array, *, alpha: float
) -> jax.Array:
    """x W^T + bias + (alpha / R) x A^T B^T (Hu et al. 2021, equation 3).

    x (..., I), weight (O, I), bias (O,) or None, a (R, I), b (O, R), one floating dtype. Returns (..., O).
    """
    rank = a.shape[0]
    out = x @ weight.mT + (alpha / rank) * (x @ a.mT @ b.mT)
    return out if bias is None else out + bias


def merge(weight: jax.Array, a: jax.Array, b: jax.Array, *, alpha: float) -> jax.Array:
    """W + (alpha / R) B A: weight (O, I), a (R, I), b (O, R) -> (O, I)."""
    return weight + (alpha / a.shape[0]) * (b @ a)


def add_lora(key: jax.Array, params: Any, targets: Collection[str], *, rank: int) -> dict[str, Any]:
    """Adapters (a, b) for every 2-D leaf (O, I) of a pytree whose last path component is in targets, by its path.

    Each gets a key of its own. Raises ValueError if nothing matches.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    chosen = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves if leaf.ndim == 2 and _last(path) in targets]
    if not chosen:
        raise ValueError(f"no 2-D leaf is named one of {sorted(targets)}")
    keys = jax.random.split(key, len(chosen))
    return {
        path: init_lora(k, leaf.shape[1], leaf.shape[0], rank) for k, (path, leaf) in zip(keys, chosen, strict=True)
    }


def batched_lora(
    x: jax.Array, weight: jax.Array, a: jax.Array, b: jax.Array, adapter_ids: jax.Array, *, scaling: jax.Array
) -> jax.Array:
    """x W^T + scaling[n] x A_n^T B_n^T, each row of the batch with its own adapter n (Chen et al. 2023, Punica).

    x (B, T, I), weight (O, I), a (N, R, I), b (N, O, R), scaling (N,), one floating dtype. adapter_ids (B,) int, -1: no
    adapter. Returns (B, T, O). The number of operations does not depend on B.
    """
    index = jnp.maximum(adapter_ids, 0)
    update = x @ a[index].mT @ b[index].mT * scaling[index][:, None, None]  # (B, T, O)
    return x @ weight.mT + jnp.where((adapter_ids < 0)[:, None, None], 0.0, update)


def _last(path: tuple[Any, ...]) -> str:
    """The name of the last step to a leaf: a key, an attribute or an index."""
    step = path[-1]
    return str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step))))
