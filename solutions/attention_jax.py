"""Attention from its parts, in JAX: masked, causal, multi-head with grouped keys and values, and blockwise.

Axes: B batch, H query heads, K key/value heads, T queries, S keys, D key width, E value width, C model width.

Choices. As in PyTorch's solution, a row that may attend to nothing gets zeros by replacing its maximum and its sum
with finite numbers before they are used: a `where` around a NaN would hide it from the value but not from the
gradient. No Python branch looks at an array, so everything traces; the loop over blocks is unrolled, since the
number of blocks is static and the last one may be short.

Follow-up questions: the answers stand in `attention.py`. Two more for JAX.

When would `lax.scan` be better than a Python loop over the blocks? When there are many: the program stays small and
compiles once for all blocks. It needs equal blocks, so keys are padded to a multiple and the padding is masked.

What does XLA do with the (T, S) array of the plain version? It fuses the scale, the mask and the exponential into
few kernels, but the two matrix products keep the array in memory between them.
"""

import math

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1), over the keys that the mask allows.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E), one floating dtype. mask: bool, broadcastable to (B, H, T, S),
    True where a query may attend. Returns (B, H, T, E) in the dtype of q. A row that may attend to nothing gives
    zeros and passes zero gradient. Finite for logits of 1e4.
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return _softmax(scores) @ v


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention in which query i sees the keys j <= i + S - T: the last query is aligned with the last key.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). Returns (B, H, T, E). Raises ValueError if T > S.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries > keys:
        raise ValueError(f"more queries ({queries}) than keys ({keys}): the first would see none")
    return attention(q, k, v, mask=_causal(queries, 0, keys, keys - queries))


def multi_head_attention(
    x: jax.Array,
    w_q: jax.Array,
    w_k: jax.Array,
    w_v: jax.Array,
    w_o: jax.Array,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> jax.Array:
    """Concat(head_1, ..., head_H) W_O (Vaswani et al. 2017, section 3.2.2) with grouped heads (Ainslie et al. 2023).

    x (B, T, C), w_q (C, H*D), w_k (C, K*D), w_v (C, K*E), w_o (H*E, C), one floating dtype. n_heads is H, n_kv_heads
    is K (None: H). Query head h reads key/value head h // (H // K). Returns (B, T, C). Raises ValueError if H is not
    a multiple of K, or if a width is not a multiple of its number of heads.
    """
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    if n_heads < 1 or n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ValueError(f"{n_heads} query heads do not divide over {n_kv_heads} key/value heads")
    q = _split(x @ w_q, n_heads)  # (B, H, T, D)
    k = _split(x @ w_k, n_kv_heads)  # (B, K, T, D)
    v = _split(x @ w_v, n_kv_heads)  # (B, K, T, E)
    group = n_heads // n_kv_heads
    k = jnp.repeat(k, group, axis=1)  # (B, H, T, D)
    v = jnp.repeat(v, group, axis=1)  # (B, H, T, E)
    if q.shape[-1] != k.shape[-1] or w_o.shape[0] != n_heads * v.shape[-1]:
        raise ValueError("the weights' widths do not agree with the numbers of heads")
    heads = causal_attention(q, k, v) if causal else attention(q, k, v)
    return jnp.swapaxes(heads, 1, 2).reshape(*x.shape[:2], -1) @ w_o  # (B, T, C)


def blockwise_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, block_size: int, causal: bool = False
) -> jax.Array:
    """Attention, or causal attention, over blocks of keys with a running softmax (Milakov & Gimelshein 2018, alg. 3).

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). block_size: keys a block; it need not divide S. Returns
    (B, H, T, E). The largest intermediate has O(B * H * T * max(block_size, D, E)) elements. Raises ValueError if
    block_size < 1, or if causal and T > S.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; it must be at least 1")
    if causal and queries > keys:
        raise ValueError(f"more queries ({queries}) than keys ({keys}): the first would see none")
    q = q / math.sqrt(q.shape[-1])
    peak = jnp.full((*q.shape[:-1], 1), -jnp.inf, q.dtype)  # (B, H, T, 1)
    total = jnp.zeros_like(peak)
    out = jnp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)  # (B, H, T, E)
    for start in range(0, keys, block_size):
        stop = min(start + block_size, keys)
        scores = q @ k[..., start:stop, :].mT  # (B, H, T, block)
        if causal:
            scores = jnp.where(_causal(queries, start, stop, keys - queries), scores, -jnp.inf)
        block_peak = jax.lax.stop_gradient(scores).max(-1, keepdims=True)
        new_peak = jnp.maximum(peak, block_peak)
        reference = _finite(new_peak)
        weights = jnp.exp(scores - reference)
        rescale = jnp.exp(peak - reference)
        total = total * rescale + weights.sum(-1, keepdims=True)
        out = out * rescale + weights @ v[..., start:stop, :]
        peak = new_peak
    return out / jnp.where(total == 0, 1, total)


def _softmax(scores: jax.Array) -> jax.Array:
    """Softmax over the last axis; a row of -inf gives zeros."""
    peak = jax.lax.stop_gradient(scores).max(-1, keepdims=True, initial=-jnp.inf)
    weights = jnp.exp(scores - _finite(peak))
    total = weights.sum(-1, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


def _finite(peak: jax.Array) -> jax.Array:
    return jnp.where(peak == -jnp.inf, 0, peak)


def _causal(queries: int, start: int, stop: int, offset: int) -> jax.Array:
    """Whether query i may see key j, for the keys from start to stop; (T, stop - start)."""
    i = jnp.arange(queries)[:, None]
    j = jnp.arange(start, stop)[None, :]
    return j <= i + offset


def _split(x: jax.Array, heads: int) -> jax.Array:
    """(B, T, heads * width) -> (B, heads, T, width)."""
    if x.shape[-1] % heads:
        raise ValueError(f"a width of {x.shape[-1]} does not divide over {heads} heads")
    return jnp.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)
