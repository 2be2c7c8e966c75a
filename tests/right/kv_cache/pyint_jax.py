"""A tuple whose length begins as a Python int."""

import jax
import jax.numpy as jnp


def init_cache(batch, n_kv_heads, max_len, head_dim, dtype):
    z = jnp.zeros((batch, max_len, n_kv_heads, head_dim), dtype)
    return (z, z, 0)


def update_cache(cache, k, v):
    K, V, n = cache
    T = k.shape[2]

    def up(b, x):
        return jax.lax.dynamic_update_slice_in_dim(b, x.swapaxes(1, 2), n, axis=1)

    return (up(K, k), up(V, v), n + T)


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    kv = n_kv_heads or n_heads
    B, T, _ = x.shape
    n = cache[2]

    def sp(w, h):
        return (x @ w).reshape(B, T, h, -1).swapaxes(1, 2)

    cache = update_cache(cache, sp(w_k, kv), sp(w_v, kv))
    q = sp(w_q, n_heads).reshape(B, kv, n_heads // kv, T, -1)
    s = jnp.einsum("bkgtd,bskd->bkgts", q, cache[0]) / q.shape[-1] ** 0.5
    s = jnp.where(jnp.arange(s.shape[-1]) <= jnp.arange(T)[:, None] + n, s, -1e30)
    o = jnp.einsum("bkgts,bskd->btkgd", jax.nn.softmax(s), cache[1]).reshape(B, T, -1)
    return (o @ w_o, cache)
