"""A registered dataclass of slots and which are filled, vmap over positions, jit inside."""

import dataclasses
import functools

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class C:
    data: jax.Array
    filled: jax.Array


def init_cache(batch, n_kv_heads, max_len, head_dim, dtype):
    return C(jnp.zeros((max_len, 2, batch, n_kv_heads, head_dim), dtype), jnp.zeros((max_len,), bool))


@jax.jit
def update_cache(cache, k, v):
    n = cache.filled.sum()
    new = jax.lax.stop_gradient(jnp.moveaxis(jnp.stack([k, v]), 3, 0))
    at = n + jnp.arange(k.shape[2])
    return C(cache.data.at[at].set(new), cache.filled.at[at].set(True))


@functools.partial(jax.jit, static_argnames=("n_heads", "n_kv_heads"))
def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    kv = n_heads if n_kv_heads is None else n_kv_heads
    B, T, _ = x.shape

    def split(y, h):
        return y.reshape(B, T, h, -1).swapaxes(1, 2)

    n = cache.filled.sum()
    cache = update_cache(cache, split(x @ w_k, kv), split(x @ w_v, kv))
    q = split(x @ w_q, n_heads).reshape(B, kv, n_heads // kv, T, -1)
    keys, values = (cache.data[:, 0], cache.data[:, 1])

    def one(qt, t):
        s = jnp.einsum("bkgd,lbkd->bkgl", qt, keys) * qt.shape[-1] ** (-0.5)
        s = jnp.where(jnp.arange(keys.shape[0]) <= n + t, s, -jnp.inf)
        p = jnp.exp(s - s.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        return jnp.einsum("bkgl,lbkd->bkgd", p, values)

    o = jax.vmap(one, in_axes=(3, 0), out_axes=1)(q, jnp.arange(T)).reshape(B, T, -1)
    return (o @ w_o, cache)
