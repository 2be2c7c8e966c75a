"""exp2 in place of exp, scores with the keys before the queries, and a running result that is kept normalised."""

import numpy as np

LOG2E = 1.4426950408889634


def _scores(q, k):
    """(B, H, S, T), in units of log 2."""
    factor = np.asarray(LOG2E / q.shape[3] ** 0.5, dtype=q.dtype)
    return np.matmul(k, (q * factor).transpose(0, 1, 3, 2))


def _softmax2(scores, mask=None):
    """Over the axis of keys, the third; a column without a key is zero."""
    if mask is None:
        mask = np.True_
    mask = np.broadcast_to(mask, scores.shape)
    if scores.shape[2] == 0:
        return scores
    lowest = np.finfo(scores.dtype).min
    top = np.where(mask, scores, lowest).max(axis=2, keepdims=True)
    weights = np.exp2(np.minimum(scores - top, 0)) * mask
    return weights / np.maximum(weights.sum(axis=2, keepdims=True), np.finfo(scores.dtype).tiny)


def _turned(mask, q, k):
    if mask is None:
        return None
    return np.swapaxes(np.broadcast_to(mask, (*q.shape[:3], k.shape[2])), 2, 3)


def attention(q, k, v, *, mask=None):
    weights = _softmax2(_scores(q, k), _turned(mask, q, k))
    return np.einsum("bhst,bhse->bhte", weights, v)


def attention_backward(grad_out, q, k, v, *, mask=None):
    weights = _softmax2(_scores(q, k), _turned(mask, q, k))
    out = np.einsum("bhst,bhse->bhte", weights, v)
    dv = weights @ grad_out
    dp = v @ grad_out.swapaxes(2, 3)
    dp -= (grad_out * out).sum(3)[:, :, None, :]
    dp *= weights
    dp *= q.shape[3] ** -0.5
    return dp.swapaxes(2, 3) @ k, dp @ q, dv


def causal_attention(q, k, v):
    n_q, n_k = q.shape[2], k.shape[2]
    if n_q > n_k:
        raise ValueError(f"T = {n_q} > S = {n_k}")
    return attention(q, k, v, mask=~np.triu(np.ones((n_q, n_k), bool), 1 + n_k - n_q))


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    kv = n_kv_heads if n_kv_heads is not None else n_heads
    group, rest = divmod(n_heads, kv)
    if rest:
        raise ValueError("n_heads is not a multiple of n_kv_heads")
    try:
        wq = w_q.reshape(len(w_q), kv, group, -1)
        wk, wv = (w.reshape(len(w), kv, -1) for w in (w_k, w_v))
        wo = w_o.reshape(kv, group, -1, w_o.shape[1])
    except ValueError as error:
        raise ValueError("a width that the heads do not divide") from error
    q = np.einsum("btc,ckgd->bgktd", x, wq)
    k, v = np.einsum("btc,ckd->bktd", x, wk), np.einsum("btc,cke->bkte", x, wv)
    run = causal_attention if causal else attention
    heads = [run(q[:, g], k, v) for g in range(group)]
    return np.einsum("gbkte,kgec->btc", np.stack(heads), wo)


def blockwise_attention(q, k, v, *, block_size, causal=False):
    n_q, n_k = q.shape[2], k.shape[2]
    if block_size <= 0:
        raise ValueError(f"block_size={block_size}")
    if causal and n_q > n_k:
        raise ValueError(f"T = {n_q} > S = {n_k}")
    ends = np.arange(n_k - n_q, n_k) if causal else np.full(n_q, n_k)
    out = np.zeros(q.shape[:3] + v.shape[3:], q.dtype)
    lse = np.full(q.shape[:3], -np.inf, q.dtype)
    for first in range(0, n_k, block_size):
        kb, vb = k[:, :, first : first + block_size], v[:, :, first : first + block_size]
        late = (first + np.arange(kb.shape[2]))[:, None] > ends
        scores = _scores(q, kb)
        scores[..., late] = -np.inf
        here = np.logaddexp2.reduce(scores, axis=2)
        both = np.logaddexp2(lse, here)
        share = np.exp2(scores - both[:, :, None])
        out *= np.exp2(lse - both)[..., None]
        out += np.einsum("bhst,bhse->bhte", share, vb)
        lse = both
    return out
