"""LoRA as pure functions: a linear layer with an adapter, its merge, adapters for a pytree, a batch of many adapters."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp


def init_lora(key: jax.Array, in_features: int, out_features: int, rank: int) -> tuple[jax.Array, jax.Array]:
    """a (R, I), random, and b (O, R), zero (Hu et al. 2021, section 4.1). Raises ValueError if rank < 1."""
    raise NotImplementedError("lora")


def lora_linear(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None, a: jax.Array, b: jax.Array, *, alpha: float
) -> jax.Array:
    """x W^T + bias + (alpha / R) x A^T B^T (Hu et al. 2021, equation 3).

    x (..., I), weight (O, I), bias (O,) or None, a (R, I), b (O, R), one floating dtype. Returns (..., O).
    """
    raise NotImplementedError("lora")


def merge(weight: jax.Array, a: jax.Array, b: jax.Array, *, alpha: float) -> jax.Array:
    """W + (alpha / R) B A: weight (O, I), a (R, I), b (O, R) -> (O, I)."""
    raise NotImplementedError("lora")


def add_lora(key: jax.Array, params: Any, targets: Collection[str], *, rank: int) -> dict[str, Any]:
    """Adapters (a, b) for every 2-D leaf (O, I) of a pytree whose last path component is in targets, by its path.

    Each gets a key of its own. Raises ValueError if nothing matches.
    """
    raise NotImplementedError("lora")


def batched_lora(
    x: jax.Array, weight: jax.Array, a: jax.Array, b: jax.Array, adapter_ids: jax.Array, *, scaling: jax.Array
) -> jax.Array:
    """x W^T + scaling[n] x A_n^T B_n^T, each row of the batch with its own adapter n (Chen et al. 2023, Punica).

    x (B, T, I), weight (O, I), a (N, R, I), b (N, O, R), scaling (N,), one floating dtype. adapter_ids (B,) int, -1: no
    adapter. Returns (B, T, O). The number of operations does not depend on B.
    """
    raise NotImplementedError("lora")
