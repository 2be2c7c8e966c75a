"""A dict with a 32-bit length, literal zeros in the slice: the commonest way."""

import jax
import jax.numpy as jnp


def init_cache(batch, n_kv_heads, max_len, head_dim, dtype):
    return {
        "k": jnp.zeros((batch, n_kv_heads, max_len, head_dim), dtype),
        "v": jnp.zeros((batch, n_kv_heads, max_len, head_dim), dtype),
        "length": jnp.array(0, jnp.int32),
    }


def update_cache(cache, k, v):
    n = cache["length"]
    return {
        "k": jax.lax.dynamic_update_slice(cache["k"], k.astype(cache["k"].dtype), (0, 0, n, 0)),
        "v": jax.lax.dynamic_update_slice(cache["v"], v.astype(cache["v"].dtype), (0, 0, n, 0)),
        "length": n + k.shape[2],
    }


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    kv = n_kv_heads or n_heads
    B, T, _C = x.shape
    D = w_q.shape[1] // n_heads
    q = (x @ w_q).reshape(B, T, n_heads, D).transpose(0, 2, 1, 3)
    k = (x @ w_k).reshape(B, T, kv, D).transpose(0, 2, 1, 3)
    v = (x @ w_v).reshape(B, T, kv, D).transpose(0, 2, 1, 3)
    old = cache["length"]
    cache = update_cache(cache, k, v)
    K = jnp.repeat(cache["k"], n_heads // kv, axis=1)
    V = jnp.repeat(cache["v"], n_heads // kv, axis=1)
    s = jnp.einsum("bhtd,bhsd->bhts", q, K) / jnp.sqrt(D)
    m = jnp.arange(K.shape[2])[None, :] <= (old + jnp.arange(T))[:, None]
    s = jnp.where(m[None, None], s, jnp.finfo(s.dtype).min)
    p = jax.nn.softmax(s.astype(jnp.float32), -1).astype(x.dtype)
    o = jnp.einsum("bhts,bhsd->bthd", p, V).reshape(B, T, -1)
    return ((o @ w_o).astype(x.dtype), cache)
