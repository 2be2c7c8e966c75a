"""One head at a time, mapped over the others by vmap; weights by logsumexp; blocks by themselves, merged in a tree."""

from functools import partial
from math import sqrt

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


def head(q, k, v, mask):
    """(T, D), (S, D), (S, E), bool (T, S) -> (T, E)."""
    scores = jnp.inner(q, k) / sqrt(q.shape[1])
    seen = mask.any(1)
    safe = jnp.where(seen[:, None], mask, True)
    total = logsumexp(jnp.where(safe, scores, -jnp.inf), axis=1)
    weights = jnp.where(mask, jnp.exp(jnp.where(safe, scores - total[:, None], -jnp.inf)), 0.0)
    return jnp.dot(weights, v)


def attention(q, k, v, *, mask=None):
    (B, H, T, _), S = q.shape, k.shape[2]
    mask = jnp.ones((), bool) if mask is None else mask
    return jax.vmap(jax.vmap(head))(q, k, v, jnp.broadcast_to(mask, (B, H, T, S)))


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    mask = jnp.triu(jnp.ones((S, T), bool), T - S).T
    return jax.vmap(jax.vmap(head, (0, 0, 0, None)), (0, 0, 0, None))(q, k, v, mask)


@partial(jax.jit, static_argnames=("n_heads", "n_kv_heads", "causal"))
def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    K = n_heads if n_kv_heads is None else n_kv_heads
    if n_heads % K:
        raise ValueError(f"{n_heads} heads over {K}")
    if w_q.shape[1] % n_heads or w_k.shape[1] % K or w_v.shape[1] % K or w_o.shape[0] % n_heads:
        raise ValueError("widths")
    T = x.shape[1]
    mask = jnp.tril(jnp.ones((T, T), bool)) if causal else jnp.ones((T, T), bool)
    parts = [jnp.split(w, n, axis=1) for w, n in ((w_q, n_heads), (w_k, K), (w_v, K))]
    outs = jnp.split(w_o, n_heads, axis=0)

    def one(x):
        keys, values = ([x @ w for w in part] for part in parts[1:])
        total = 0
        for h in range(n_heads):
            kv = h * K // n_heads
            total = total + head(x @ parts[0][h], keys[kv], values[kv], mask) @ outs[h]
        return total

    return jax.vmap(one)(x)


def blockwise_attention(q, k, v, *, block_size, causal=False):
    T, S = q.shape[2], k.shape[2]
    if block_size < 1:
        raise ValueError("block_size must be positive")
    if causal and T > S:
        raise ValueError("more queries than keys")

    @jax.checkpoint
    def partial_result(q, k, v, seen):
        scores = jnp.where(seen, jnp.einsum("bhtd,bhsd->bhts", q, k) / sqrt(q.shape[3]), -jnp.inf)
        top = jax.lax.stop_gradient(scores.max(3))
        weights = jnp.exp(scores - jnp.where(jnp.isneginf(top), 0, top)[..., None])
        return top, weights.sum(3), jnp.einsum("bhts,bhse->bhte", weights, v)

    def merge(a, b):
        top = jnp.maximum(a[0], b[0])
        safe = jnp.where(jnp.isneginf(top), 0, top)
        left, right = jnp.exp(a[0] - safe), jnp.exp(b[0] - safe)
        return top, a[1] * left + b[1] * right, a[2] * left[..., None] + b[2] * right[..., None]

    done = []
    for start in range(0, S, block_size):
        now = slice(start, min(start + block_size, S))
        at = jnp.arange(now.start, now.stop)
        seen = at <= jnp.arange(S - T, S)[:, None] if causal else jnp.full((T, len(at)), True)
        done.append(partial_result(q, k[:, :, now], v[:, :, now], seen))
    while len(done) > 1:
        pairs = [merge(*done[i : i + 2]) for i in range(0, len(done) - 1, 2)]
        done = pairs + done[2 * len(pairs) :]
    _, total, out = done[0]
    return out / total[..., None]
