"""JAX with jnp.where and jax.nn.softmax, a scan over padded blocks, heads by einsum."""

import jax
import jax.numpy as jnp
from jax import lax


def attention(q, k, v, *, mask=None):
    s = jnp.einsum("...td,...sd->...ts", q, k) / jnp.sqrt(jnp.asarray(q.shape[-1], q.dtype))
    if mask is None:
        return jax.nn.softmax(s, -1) @ v
    m = jnp.broadcast_to(mask, s.shape)
    alive = m.any(-1, keepdims=True)
    p = jax.nn.softmax(jnp.where(m | ~alive, s, -jnp.inf), -1)
    return jnp.where(alive, p, 0) @ v


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    return attention(q, k, v, mask=jnp.tri(T, S, S - T, dtype=bool))


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    H, K = n_heads, n_kv_heads or n_heads
    if H % K or w_q.shape[1] % H or w_k.shape[1] % K or w_v.shape[1] % K or w_o.shape[0] % H:
        raise ValueError("heads")
    C = x.shape[-1]
    q = jnp.einsum("btc,chd->bhtd", x, w_q.reshape(C, H, -1))
    k = jnp.einsum("btc,chd->bhtd", x, w_k.reshape(C, K, -1))
    v = jnp.einsum("btc,chd->bhtd", x, w_v.reshape(C, K, -1))
    k, v = (y[:, jnp.arange(H) // (H // K)] for y in (k, v))
    out = (causal_attention if causal else attention)(q, k, v)
    return jnp.einsum("bhte,hec->btc", out, w_o.reshape(H, v.shape[-1], C))


def blockwise_attention(q, k, v, *, block_size, causal=False):
    (B, H, T, D), S, E = q.shape, k.shape[2], v.shape[-1]
    if block_size < 1 or (causal and T > S):
        raise ValueError("block_size < 1 or T > S")
    n = -(-S // block_size)
    pad = n * block_size - S
    blocks = [
        jnp.moveaxis(jnp.pad(y, ((0, 0), (0, 0), (0, pad), (0, 0))).reshape(B, H, n, block_size, -1), 2, 0)
        for y in (k, v)
    ]

    def step(carry, block):
        top, total, out = carry
        kb, vb, start = block
        j = start + jnp.arange(block_size)
        seen = jnp.broadcast_to(j < S, (T, block_size))
        if causal:
            seen &= j <= jnp.arange(T)[:, None] + S - T
        s = jnp.where(seen, q @ kb.mT * D**-0.5, -jnp.inf)
        new = jnp.maximum(top, lax.stop_gradient(s.max(-1)))
        safe = jnp.where(jnp.isfinite(new), new, 0)
        p = jnp.exp(s - safe[..., None])
        shrink = jnp.exp(top - safe)
        return (new, total * shrink + p.sum(-1), out * shrink[..., None] + p @ vb), None

    start = (jnp.full((B, H, T), -jnp.inf, q.dtype), jnp.zeros((B, H, T), q.dtype), jnp.zeros((B, H, T, E), q.dtype))
    (_, total, out), _ = lax.scan(step, start, (*blocks, jnp.arange(n) * block_size))
    return out / total[..., None]
