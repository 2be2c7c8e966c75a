"""Grouped heads by einsum and an additive bias; blocks in a torch.autograd.Function that makes the weights again."""

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    (B, H, T, D), S = q.shape, k.shape[-2]
    q, k, v = (x.flatten(0, 1) for x in (q * D**-0.5, k, v))
    if mask is None:
        return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(dim=2), v).unflatten(0, (B, H))
    mask = mask.expand(B, H, T, S).flatten(0, 1)
    bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask.logical_not(), torch.finfo(q.dtype).min)
    weights = torch.baddbmm(bias, q, k.transpose(1, 2)).softmax(dim=2).masked_fill(mask.logical_not(), 0.0)
    return torch.bmm(weights, v).unflatten(0, (B, H))


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    T, S = q.size(2), k.size(2)
    if T > S:
        raise ValueError(f"{T} queries, {S} keys")
    future = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device).triu(S - T + 1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.size(3) ** -0.5 + future
    return torch.matmul(torch.softmax(scores, -1), v)


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    if n_heads % n_kv_heads != 0:
        raise ValueError("n_heads must be a multiple of n_kv_heads")
    for name, width, heads in (
        ("w_q", w_q.size(1), n_heads),
        ("w_k", w_k.size(1), n_kv_heads),
        ("w_v", w_v.size(1), n_kv_heads),
        ("w_o", w_o.size(0), n_heads),
    ):
        if width % heads != 0:
            raise ValueError(f"{name}: {heads} heads do not divide a width of {width}")
    T, C = x.shape[1:]
    G = n_heads // n_kv_heads
    q = torch.einsum("btc,ckgd->bkgtd", x, w_q.reshape(C, n_kv_heads, G, -1))
    k = torch.einsum("btc,ckd->bktd", x, w_k.reshape(C, n_kv_heads, -1))
    v = torch.einsum("btc,cke->bkte", x, w_v.reshape(C, n_kv_heads, -1))
    scores = torch.einsum("bkgtd,bksd->bkgts", q, k).div(q.size(-1) ** 0.5)
    if causal:
        at = torch.arange(T, device=x.device)
        scores = scores.masked_fill(at > at.unsqueeze(1), float("-inf"))
    heads = torch.einsum("bkgts,bkse->bkgte", scores.softmax(-1), v)
    return torch.einsum("bkgte,kgec->btc", heads, w_o.reshape(n_kv_heads, G, -1, C))


def blockwise_attention(q, k, v, *, block_size, causal=False):
    if block_size < 1:
        raise ValueError("block_size < 1")
    if causal and q.size(2) > k.size(2):
        raise ValueError("T > S")
    return Blocks.apply(q, k, v, block_size, causal)


class Blocks(torch.autograd.Function):
    """The forward keeps the result and each row's logsumexp (Dao et al. 2022, algorithms 1 and 4)."""

    @staticmethod
    def scores(q, k, start, causal, keys):
        scores = q @ k.transpose(2, 3) / q.size(3) ** 0.5
        if causal:
            last = torch.arange(keys - q.size(2), keys, device=q.device).unsqueeze(1)
            j = torch.arange(start, start + k.size(2), device=q.device)
            scores = scores.masked_fill(j > last, float("-inf"))
        return scores

    @staticmethod
    def forward(ctx, q, k, v, size, causal):
        lse = q.new_full(q.shape[:3], float("-inf")).unsqueeze(-1)
        for start in range(0, k.size(2), size):
            scores = Blocks.scores(q, k[:, :, start : start + size], start, causal, k.size(2))
            lse = torch.logaddexp(lse, scores.logsumexp(-1, keepdim=True))
        out = torch.zeros(*q.shape[:3], v.size(3), dtype=q.dtype, device=q.device)
        for start in range(0, k.size(2), size):
            scores = Blocks.scores(q, k[:, :, start : start + size], start, causal, k.size(2))
            out = out + torch.exp(scores - lse) @ v[:, :, start : start + size]
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.size, ctx.causal = size, causal
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        shared = (grad * out).sum(-1, keepdim=True)
        dq, dks, dvs = torch.zeros_like(q), [], []
        for start in range(0, k.size(2), ctx.size):
            kb, vb = k[:, :, start : start + ctx.size], v[:, :, start : start + ctx.size]
            p = torch.exp(Blocks.scores(q, kb, start, ctx.causal, k.size(2)) - lse)
            ds = p * (grad @ vb.transpose(2, 3) - shared) / q.size(3) ** 0.5
            dq = dq + ds @ kb
            dks.append(ds.transpose(2, 3) @ q)
            dvs.append(p.transpose(2, 3) @ grad)
        return dq, torch.cat(dks, 2), torch.cat(dvs, 2), None, None
