"""By explicit loops over rows, heads from a module, and blocks of queries as well as of keys."""

import math

import torch
import torch.nn.functional as F


def attention(q, k, v, *, mask=None):
    B, H, T, D = q.shape
    S = k.shape[2]
    if mask is not None:
        mask = torch.broadcast_to(mask, (B, H, T, S))
    rows = []
    for b in range(B):
        for h in range(H):
            for t in range(T):
                scores = (k[b, h] * q[b, h, t]).sum(-1) / math.sqrt(D)
                if mask is not None:
                    if not bool(mask[b, h, t].any()):
                        rows.append(v[b, h].sum(0) * 0)
                        continue
                    scores = scores.masked_fill(~mask[b, h, t], float("-inf"))
                rows.append((F.softmax(scores, 0)[:, None] * v[b, h]).sum(0))
    if not rows:
        return q.new_zeros(B, H, T, v.shape[-1])
    return torch.stack(rows).reshape(B, H, T, v.shape[-1])


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    seen = [i + S - T + 1 for i in range(T)]
    return torch.cat([attention(q[:, :, i : i + 1], k[:, :, :n], v[:, :, :n]) for i, n in enumerate(seen)], 2)


class MultiHead(torch.nn.Module):
    def __init__(self, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads

    def forward(self, x, w_q, w_k, w_v, w_o, causal):
        if self.heads % self.kv_heads:
            raise ValueError("heads")
        q, k, v = (
            self.split(x @ w_q, self.heads),
            self.split(x @ w_k, self.kv_heads),
            self.split(x @ w_v, self.kv_heads),
        )
        reads = [h // (self.heads // self.kv_heads) for h in range(self.heads)]
        k, v = k[:, reads], v[:, reads]
        if w_o.shape[0] != self.heads * v.shape[-1]:
            raise ValueError("w_o")
        out = (causal_attention if causal else attention)(q, k, v)
        return torch.cat(list(out.unbind(1)), -1) @ w_o

    @staticmethod
    def split(y, n):
        if y.shape[-1] % n:
            raise ValueError("width")
        return torch.stack(y.chunk(n, -1), 1)


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    return MultiHead(n_heads, n_kv_heads or n_heads)(x, w_q, w_k, w_v, w_o, causal)


def blockwise_attention(q, k, v, *, block_size, causal=False):
    T, S = q.shape[2], k.shape[2]
    if block_size < 1 or (causal and T > S):
        raise ValueError("block_size < 1 or T > S")
    return torch.cat([rows(q, k, v, t, block_size, causal) for t in range(0, T, block_size)], 2)


def rows(q, k, v, t, size, causal):
    T, S = q.shape[2], k.shape[2]
    block = q[:, :, t : t + size]
    n = block.shape[2]
    top = torch.full((*q.shape[:2], n, 1), -float("inf"), dtype=q.dtype, device=q.device)
    total = torch.zeros_like(top)
    out = torch.zeros(*q.shape[:2], n, v.shape[-1], dtype=q.dtype, device=q.device)
    for s in range(0, S, size):
        if causal and s > t + n - 1 + S - T:
            break
        scores = block @ k[:, :, s : s + size].transpose(-1, -2) / math.sqrt(q.shape[-1])
        if causal:
            i = torch.arange(t, t + n, device=q.device)[:, None]
            j = torch.arange(s, min(s + size, S), device=q.device)
            scores = scores.masked_fill(j > i + S - T, -float("inf"))
        new = torch.maximum(top, scores.max(-1, keepdim=True).values)
        safe = torch.where(torch.isinf(new), torch.zeros_like(new), new)
        p, shrink = torch.exp(scores - safe), torch.exp(top - safe)
        total = total * shrink + p.sum(-1, keepdim=True)
        out = out * shrink + p @ v[:, :, s : s + size]
        top = new
    return out / total
