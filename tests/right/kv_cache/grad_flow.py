"""Writes that autograd records, attention over all slots, the window by concatenation."""

import math

import torch
import torch.nn.functional as F


class KVCache:
    def __init__(self, batch, n_kv_heads, max_len, head_dim, *, dtype=torch.float32, device="cpu"):
        shape = (batch, n_kv_heads, max_len, head_dim)
        self.buf = torch.zeros((2, *shape), dtype=dtype, device=device)
        self.shape, self.length = (shape, 0)

    def update(self, k, v):
        B, K, L, D = self.shape
        if k.ndim != 4 or tuple(k.shape) != tuple(v.shape) or (k.shape[0], k.shape[1], k.shape[3]) != (B, K, D):
            raise ValueError
        if k.dtype is not self.buf.dtype or v.dtype is not self.buf.dtype:
            raise ValueError
        n = k.size(2)
        if n > L - self.length:
            raise ValueError
        self.buf[0, :, :, self.length : self.length + n] = k
        self.buf[1, :, :, self.length : self.length + n] = v
        self.length += n
        return (self.buf[0, :, :, : self.length], self.buf[1, :, :, : self.length])

    def reset(self):
        self.buf.zero_()
        self.length = 0


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    if n_kv_heads is None:
        n_kv_heads = n_heads
    b, t, _ = x.size()

    def f(w, h):
        return (x @ w).view(b, t, h, -1).transpose(1, 2)

    q = f(w_q, n_heads)
    cache.update(f(w_k, n_kv_heads), f(w_v, n_kv_heads))
    k, v = cache.buf
    k = k[:, :, None].expand(-1, -1, n_heads // n_kv_heads, -1, -1).reshape(b, n_heads, -1, q.size(-1))
    v = v[:, :, None].expand(-1, -1, n_heads // n_kv_heads, -1, -1).reshape(b, n_heads, -1, q.size(-1))
    pos = torch.arange(cache.length - t, cache.length, device=x.device)
    ok = torch.arange(k.size(2), device=x.device)[None] <= pos[:, None]
    s = q / math.sqrt(q.size(-1)) @ k.transpose(-1, -2)
    s = torch.where(ok, s, torch.tensor(float("-inf"), dtype=s.dtype, device=s.device))
    return (F.softmax(s, dim=-1) @ v).transpose(1, 2).contiguous().view(b, t, -1) @ w_o


def generate(step, prompt, max_new_tokens, *, eos=None):
    out = prompt.clone()
    finished = torch.zeros(prompt.size(0), 1, dtype=torch.bool, device=prompt.device)
    cur = prompt
    for _ in range(max_new_tokens):
        cur = step(cur)[:, -1:].argmax(dim=-1)
        if eos is not None:
            cur = torch.where(finished, torch.full_like(cur, eos), cur)
            finished |= cur == eos
        out = torch.cat((out, cur), 1)
        if finished.all():
            return out
    return out


class SlidingWindowCache:
    def __init__(self, batch, n_kv_heads, window, head_dim, *, dtype=torch.float32, device="cpu"):
        self.w = window
        self.k = torch.empty(batch, n_kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.v = self.k.clone()

    def update(self, k, v):
        self.k = torch.cat([self.k, k], 2)[:, :, -self.w :]
        self.v = torch.cat([self.v, v], 2)[:, :, -self.w :]
        return (self.k, self.v)
