"""The softmax in log-space, a scatter that drops what is outside, vmap over heads, the length as an array of one."""

import jax
import jax.numpy as jnp
from jax.nn import logsumexp


def init_cache(batch, n_kv_heads, max_len, head_dim, dtype):
    slots = jnp.zeros((n_kv_heads, max_len, batch, 2 * head_dim), dtype)
    return [slots, jnp.zeros((1,), jnp.int32)]


def update_cache(cache, k, v):
    slots, length = cache
    new = jnp.transpose(jnp.concatenate((k, v), axis=3), (1, 2, 0, 3))
    where = length + jnp.arange(new.shape[1], dtype=length.dtype)
    return [slots.at[:, where].set(new, mode="drop"), (length + new.shape[1]).astype(length.dtype)]


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    C, D = x.shape[2], w_q.shape[1] // n_heads
    k, v = (jnp.einsum("btc,ckd->bktd", x, w.reshape(C, n_kv_heads, D)) for w in (w_k, w_v))
    position = cache[1] + jnp.arange(x.shape[1])
    cache = update_cache(cache, k, v)
    slots = cache[0]
    hidden = jnp.arange(slots.shape[1]) > position[:, None]  # (T, L)

    def head(w, group):  # w (C, D)
        keys, values = jnp.split(slots[group], 2, axis=-1)  # (L, B, D)
        logits = jnp.einsum("btc,cd,lbd->btl", x, w, keys) / jnp.sqrt(D).astype(x.dtype)
        logits = jnp.where(hidden, -jnp.inf, logits)
        return jnp.einsum("btl,lbd->btd", jnp.exp(logits - logsumexp(logits, axis=-1, keepdims=True)), values)

    groups = jnp.arange(n_heads) // (n_heads // n_kv_heads)
    heads = jax.vmap(head)(jnp.moveaxis(w_q.reshape(C, n_heads, D), 1, 0), groups)  # (H, B, T, D)
    return jnp.einsum("hbtd,hdc->btc", heads, w_o.reshape(n_heads, D, C)), cache
