"""By einsum and by logarithms: blocks are merged through their logsumexp."""

import torch


def attention(q, k, v, *, mask=None):
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) * q.size(-1) ** -0.5
    if mask is None:
        mask = torch.ones(scores.shape, dtype=torch.bool, device=q.device)
    scores = scores.where(mask, torch.tensor(float("-inf"), device=q.device, dtype=q.dtype))
    weights = torch.softmax(scores, -1)
    alive = mask.expand(scores.shape).any(-1, keepdim=True)
    return torch.einsum("bhts,bhse->bhte", torch.where(alive, weights, torch.zeros_like(weights)), v)


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    return attention(q, k, v, mask=torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T))


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    K = n_kv_heads or n_heads
    B, T, _ = x.shape
    widths = (w_q.shape[1] % n_heads, w_k.shape[1] % K, w_v.shape[1] % K, w_o.shape[0] % n_heads)
    if n_heads % K or any(widths):
        raise ValueError("heads do not divide")
    q, k, v = ((x @ w).view(B, T, n, -1).permute(0, 2, 1, 3) for w, n in ((w_q, n_heads), (w_k, K), (w_v, K)))
    group = n_heads // K
    k, v = (y[:, :, None].expand(-1, -1, group, -1, -1).reshape(B, n_heads, T, -1) for y in (k, v))
    out = (causal_attention if causal else attention)(q, k, v)
    return out.permute(0, 2, 1, 3).reshape(B, T, -1) @ w_o


def blockwise_attention(q, k, v, *, block_size, causal=False):
    T, S = q.shape[2], k.shape[2]
    if block_size < 1 or (causal and T > S):
        raise ValueError("block_size < 1 or T > S")
    lse = out = None
    for j in range(0, S, block_size):
        scores = torch.einsum("bhtd,bhsd->bhts", q, k[:, :, j : j + block_size]) / q.shape[-1] ** 0.5
        if causal:
            i = torch.arange(T, device=q.device)[:, None] + S - T
            keys = torch.arange(j, min(j + block_size, S), device=q.device)[None]
            scores = scores.masked_fill(keys > i, -1e30)
        here = torch.logsumexp(scores, -1, keepdim=True)
        block = torch.exp(scores - here) @ v[:, :, j : j + block_size]
        if lse is None:
            lse, out = here, block
        else:
            both = torch.logaddexp(lse, here)
            out = out * torch.exp(lse - both) + block * torch.exp(here - both)
            lse = both
    return out
