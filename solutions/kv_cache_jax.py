"""A key/value cache as a pytree: allocated once, updated functionally, and attention that reads it, traced once.

Axes: B batch, H query heads, K key/value heads, G = H / K, T new tokens, L the cache's slots, D head width, C model
width.

Choices. The length is an array, so that one program serves every step; therefore attention runs over all L slots and
masks those that are not filled yet. It has JAX's own integer type, as the other indices of a slice have. Under
`jax.jit(..., donate_argnames="cache")` the update happens in place.

The follow-up questions are answered in the PyTorch solution.
"""

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
    empty = jnp.zeros((batch, n_kv_heads, max_len, head_dim), dtype)
    return Cache(empty, empty, jnp.zeros((), int))


def update_cache(cache: Cache, k: jax.Array, v: jax.Array) -> Cache:
    """The cache with k and v, each (B, K, T, D) and of its dtype, appended; they must fit."""
    start = (0, 0, cache.length, 0)
    keys = jax.lax.dynamic_update_slice(cache.keys, k, start)
    values = jax.lax.dynamic_update_slice(cache.values, v, start)
    return Cache(keys, values, cache.length + k.shape[2])


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
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    batch, queries, _ = x.shape
    before = cache.length
    cache = update_cache(cache, _split(x @ w_k, n_kv_heads), _split(x @ w_v, n_kv_heads))
    k, v = cache.keys[:, :, None], cache.values[:, :, None]  # (B, K, 1, L, D)
    q = _split(x @ w_q, n_heads).reshape(batch, n_kv_heads, -1, queries, k.shape[-1])  # (B, K, G, T, D)
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, K, G, T, L)
    i = jnp.arange(queries)[:, None]
    j = jnp.arange(k.shape[-2])[None, :]
    scores = jnp.where(j <= i + before, scores, -jnp.inf)
    heads = (jax.nn.softmax(scores, axis=-1) @ v).reshape(batch, n_heads, queries, -1)  # (B, H, T, D)
    return jnp.swapaxes(heads, 1, 2).reshape(batch, queries, -1) @ w_o, cache


def _split(x: jax.Array, heads: int) -> jax.Array:
    """(B, T, heads * D) -> (B, heads, T, D)."""
    return jnp.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)
