"""Attention from its parts: masked, causal, multi-head with grouped keys and values, and blockwise.

Axes: B batch, H query heads, K key/value heads, T queries, S keys, D key width, E value width, C model width.

Choices. A row that may attend to nothing has no softmax; here it gives zeros. Filling its logits with a large
negative number would give the mean of v, filling them with -inf gives 0/0. So the row's maximum is replaced by
zero before it is subtracted and its sum by one before it divides: both are finite everywhere, so the gradient is
too. Nothing looks at a value to decide what to run, so the code is the same on any device.

Follow-up questions

Why divide by sqrt(D)? With independent unit-variance entries q . k has variance D. Undivided, the softmax
saturates as D grows and its gradient vanishes. Vaswani et al. 2017, footnote 4.

What do grouped key/value heads save? Not the scores, whose cost depends on H, but the cache and its traffic: both
shrink by H / K. Decoding is bound by reading the cache, so it speeds up by nearly that much.

How does the running softmax stay exact? exp(s - m_old) exp(m_old - m_new) = exp(s - m_new): multiplying what was
accumulated by exp(m_old - m_new) is changing the reference point, not an approximation.

What does blockwise attention save in training? The forward holds no (T, S) array, but automatic differentiation
keeps each block's weights. FlashAttention recomputes them in the backward from the row maxima and sums, which
trades arithmetic for memory. Here `torch.utils.checkpoint` on each block would do the same.

When may a causal blockwise loop stop early? A block of keys that begins after the last key a block of queries may
see contributes nothing. With queries in blocks as well, about half of the products are never made.
"""

import math

import torch


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1), over the keys that the mask allows.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E), one floating dtype. mask: bool, broadcastable to (B, H, T, S),
    True where a query may attend. Returns (B, H, T, E) in the dtype of q. A row that may attend to nothing gives
    zeros and passes zero gradient. Finite for logits of 1e4.
    """
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return _softmax(scores) @ v


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention in which query i sees the keys j <= i + S - T: the last query is aligned with the last key.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). Returns (B, H, T, E). Raises ValueError if T > S.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    if queries > keys:
        raise ValueError(f"more queries ({queries}) than keys ({keys}): the first would see none")
    return attention(q, k, v, mask=_causal(queries, 0, keys, keys - queries, q.device))


def multi_head_attention(
    x: torch.Tensor,
    w_q: torch.Tensor,
    w_k: torch.Tensor,
    w_v: torch.Tensor,
    w_o: torch.Tensor,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> torch.Tensor:
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
    k = k.repeat_interleave(group, dim=1)  # (B, H, T, D)
    v = v.repeat_interleave(group, dim=1)  # (B, H, T, E)
    if q.shape[-1] != k.shape[-1] or w_o.shape[0] != n_heads * v.shape[-1]:
        raise ValueError("the weights' widths do not agree with the numbers of heads")
    heads = causal_attention(q, k, v) if causal else attention(q, k, v)
    return heads.transpose(1, 2).flatten(2) @ w_o  # (B, T, C)


def blockwise_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, block_size: int, causal: bool = False
) -> torch.Tensor:
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
    peak = q.new_full((*q.shape[:-1], 1), -math.inf)  # (B, H, T, 1)
    total = torch.zeros_like(peak)
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]))  # (B, H, T, E)
    for start in range(0, keys, block_size):
        stop = min(start + block_size, keys)
        scores = q @ k[..., start:stop, :].mT  # (B, H, T, block)
        if causal:
            scores = scores.masked_fill(~_causal(queries, start, stop, keys - queries, q.device), -math.inf)
        new_peak = torch.maximum(peak, scores.detach().amax(-1, keepdim=True))
        reference = _finite(new_peak)
        weights = (scores - reference).exp()
        rescale = (peak - reference).exp()
        total = total * rescale + weights.sum(-1, keepdim=True)
        out = out * rescale + weights @ v[..., start:stop, :]
        peak = new_peak
    return out / total.masked_fill(total == 0, 1.0)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Softmax over the last axis; a row of -inf gives zeros."""
    if scores.shape[-1] == 0:
        return scores
    weights = (scores - _finite(scores.detach().amax(-1, keepdim=True))).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def _finite(peak: torch.Tensor) -> torch.Tensor:
    return peak.masked_fill(peak == -math.inf, 0.0)


def _causal(queries: int, start: int, stop: int, offset: int, device: torch.device) -> torch.Tensor:
    """Whether query i may see key j, for the keys from start to stop; (T, stop - start)."""
    i = torch.arange(queries, device=device)[:, None]
    j = torch.arange(start, stop, device=device)[None, :]
    return j <= i + offset


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, heads * width) -> (B, heads, T, width)."""
    if x.shape[-1] % heads:
        raise ValueError(f"a width of {x.shape[-1]} does not divide over {heads} heads")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
