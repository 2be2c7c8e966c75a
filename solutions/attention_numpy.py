"""Attention from its parts, in NumPy: masked, with its backward, causal, multi-head and blockwise.

Axes: B batch, H query heads, K key/value heads, T queries, S keys, D key width, E value width, C model width.

Choices. Scalars are Python floats, which do not widen float32 arrays (`np.sqrt(D)` is a float64 scalar and does).
A row that may attend to nothing gets zeros: its maximum is replaced by zero and its sum by one before they are used.
The backward keeps nothing from the forward; it makes the weights again, as FlashAttention does.

Follow-up questions: the answers stand in `attention.py`. One more for NumPy.

Why is the softmax's backward p * (dp - sum(p * dp))? The Jacobian of a row is diag(p) - p p^T. It is symmetric, and
applying it to dp gives p * dp - p (p . dp). The (S, S) matrix is never made.
"""

import math

import numpy as np


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, mask: np.ndarray | None = None) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1), over the keys that the mask allows.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E), one floating dtype. mask: bool, broadcastable to (B, H, T, S),
    True where a query may attend. Returns (B, H, T, E) in the dtype of q. A row that may attend to nothing gives
    zeros. Finite for logits of 1e4.
    """
    return _weights(q, k, mask) @ v


def attention_backward(
    grad_out: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of sum(grad_out * attention(q, k, v, mask=mask)): (dq, dk, dv), each shaped like its input.

    grad_out (B, H, T, E), the rest as in `attention`. A row that may attend to nothing passes zero gradient.
    """
    weights = _weights(q, k, mask)  # (B, H, T, S)
    grad_weights = grad_out @ np.swapaxes(v, -1, -2)
    shared = (weights * grad_weights).sum(-1, keepdims=True)
    grad_scores = weights * (grad_weights - shared) / math.sqrt(q.shape[-1])
    dq = grad_scores @ k
    dk = np.swapaxes(grad_scores, -1, -2) @ q
    dv = np.swapaxes(weights, -1, -2) @ grad_out
    return dq, dk, dv


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention in which query i sees the keys j <= i + S - T: the last query is aligned with the last key.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). Returns (B, H, T, E). Raises ValueError if T > S.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries > keys:
        raise ValueError(f"more queries ({queries}) than keys ({keys}): the first would see none")
    return attention(q, k, v, mask=_causal(queries, 0, keys, keys - queries))


def multi_head_attention(
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> np.ndarray:
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
    k = np.repeat(k, group, axis=1)  # (B, H, T, D)
    v = np.repeat(v, group, axis=1)  # (B, H, T, E)
    if q.shape[-1] != k.shape[-1] or w_o.shape[0] != n_heads * v.shape[-1]:
        raise ValueError("the weights' widths do not agree with the numbers of heads")
    heads = causal_attention(q, k, v) if causal else attention(q, k, v)
    return np.swapaxes(heads, 1, 2).reshape(*x.shape[:2], -1) @ w_o  # (B, T, C)


def blockwise_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, block_size: int, causal: bool = False
) -> np.ndarray:
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
    peak = np.full((*q.shape[:-1], 1), -np.inf, q.dtype)  # (B, H, T, 1)
    total = np.zeros_like(peak)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype)  # (B, H, T, E)
    for start in range(0, keys, block_size):
        stop = min(start + block_size, keys)
        scores = q @ np.swapaxes(k[..., start:stop, :], -1, -2)  # (B, H, T, block)
        if causal:
            scores = np.where(_causal(queries, start, stop, keys - queries), scores, -np.inf)
        new_peak = np.maximum(peak, scores.max(-1, keepdims=True))
        reference = _finite(new_peak)
        weights = np.exp(scores - reference)
        rescale = np.exp(peak - reference)
        total = total * rescale + weights.sum(-1, keepdims=True)
        out = out * rescale + weights @ v[..., start:stop, :]
        peak = new_peak
    return out / np.where(total == 0, 1, total)


def _weights(q: np.ndarray, k: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The softmax of the scores over the keys; a row that sees none gives zeros; (B, H, T, S)."""
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    peak = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - _finite(peak))
    total = weights.sum(-1, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def _finite(peak: np.ndarray) -> np.ndarray:
    return np.where(peak == -np.inf, 0, peak)


def _causal(queries: int, start: int, stop: int, offset: int) -> np.ndarray:
    """Whether query i may see key j, for the keys from start to stop; (T, stop - start)."""
    i = np.arange(queries)[:, None]
    j = np.arange(start, stop)[None, :]
    return j <= i + offset


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, heads * width) -> (B, heads, T, width)."""
    if x.shape[-1] % heads:
        raise ValueError(f"a width of {x.shape[-1]} does not divide over {heads} heads")
    return np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)
