"""PyTorch's own kernels, where the ban on them is lifted."""

import torch
from torch.nn.functional import scaled_dot_product_attention


def attention(q, k, v, *, mask=None):
    if mask is None:
        return scaled_dot_product_attention(q, k, v)
    mask = torch.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    alive = mask.any(-1, keepdim=True)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask | ~alive) * alive.to(q.dtype)


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    return attention(q, k, v, mask=torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T))


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    H, K = n_heads, n_kv_heads or n_heads
    if H % K or w_q.shape[1] % H or w_k.shape[1] % K or w_v.shape[1] % K or w_o.shape[0] % H:
        raise ValueError("heads")
    q, k, v = ((x @ w).unflatten(-1, (n, -1)).transpose(1, 2) for w, n in ((w_q, H), (w_k, K), (w_v, K)))
    out = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return out.transpose(1, 2).flatten(2) @ w_o


def blockwise_attention(q, k, v, *, block_size, causal=False):
    T, S = q.shape[2], k.shape[2]
    if block_size < 1 or (causal and T > S):
        raise ValueError("block_size < 1 or T > S")
    keys = torch.arange(S, device=q.device)
    rows = torch.arange(S - T, S, device=q.device)[:, None]
    parts = [
        attention(block, k, v, mask=keys <= row if causal else None)
        for block, row in zip(q.split(block_size, 2), rows.split(block_size), strict=True)
    ]
    return torch.cat(parts, 2)
