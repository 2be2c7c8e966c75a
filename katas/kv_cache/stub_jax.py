"""A key/value cache as a pytree: allocated once, updated functionally, and attention that reads it, traced once."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """Keys and values (B, K, L, D), and the number of tokens in them."""

    keys: jax.Array
    values: jax.Array
    length: jax.Array


def init_cache(batch: int, n_kv_heads: int, max_len: int, head_dim: int, dtype: jnp.dtype) -> Cache:
    """An empty cache with room for max_len tokens (Pope et al. 2022, section 2.1)."""
    raise NotImplementedError("kv_cache")


def update_cache(cache: Cache, k: jax.Array, v: jax.Array) -> Cache:
    """The cache with k and v, each (B, K, T, D) and of its dtype, appended; they must fit."""
    raise NotImplementedError("kv_cache")


def cached_attention(
    x: jax.Array,
    w_q: jax.Array,
    w_k: jax.Array,
    w_v: jax.Array,
    w_o: jax.Array,
    cache: Cache,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
) -> tuple[jax.Array, Cache]:
    """Causal attention of the new tokens to all tokens so far, with grouped heads (Ainslie et al. 2023, section 2.2).

    x (B, T, C): the new tokens alone; w_q (C, H*D), w_k and w_v (C, K*D), w_o (H*D, C), of the cache's dtype. n_heads
    is H, n_kv_heads is K (None: H). Returns (out, cache): out (B, T, C), the last T positions of causal attention over
    all tokens, and the cache with the new ones.
    """
    raise NotImplementedError("kv_cache")
