"""A dataclass that allocates late, loops in Python, the window in a list."""

import collections
from dataclasses import dataclass, field

import torch


@dataclass
class KVCache:
    batch: int
    n_kv_heads: int
    max_len: int
    head_dim: int
    _: object = field(default=None, kw_only=True, repr=False)
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    device: object = field(default="cpu", kw_only=True)
    length: int = 0
    k: object = None
    v: object = None

    def update(self, k, v):
        T = k.shape[-2]
        want = (self.batch, self.n_kv_heads, T, self.head_dim)
        if tuple(k.shape) != want:
            raise ValueError(f"k {k.shape}")
        if tuple(v.shape) != want:
            raise ValueError(f"v {v.shape}")
        if not k.dtype == v.dtype == self.dtype:
            raise ValueError("dtype")
        if self.length + T > self.max_len:
            raise ValueError("overflow")
        if self.k is None:
            self.k = torch.empty(
                self.batch, self.n_kv_heads, self.max_len, self.head_dim, dtype=self.dtype, device=self.device
            )
            self.v = torch.empty(
                self.batch, self.n_kv_heads, self.max_len, self.head_dim, dtype=self.dtype, device=self.device
            )
        for t in range(T):
            self.k.select(2, self.length + t).copy_(k.detach()[:, :, t])
            self.v.select(2, self.length + t).copy_(v.detach()[:, :, t])
        self.length += T
        return (self.k.narrow(2, 0, self.length), self.v.narrow(2, 0, self.length))

    def reset(self):
        self.length = 0


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    n_kv_heads = n_kv_heads or n_heads
    B, T, _ = x.shape
    past = cache.length
    D = w_q.shape[1] // n_heads
    q = (x @ w_q).reshape(B, T, n_heads, D)
    k = (x @ w_k).reshape(B, T, n_kv_heads, D).transpose(1, 2)
    v = (x @ w_v).reshape(B, T, n_kv_heads, D).transpose(1, 2)
    K, V = cache.update(k, v)
    K = torch.cat([K[:, :, :past], k], 2)
    V = torch.cat([V[:, :, :past], v], 2)
    rows = []
    g = n_heads // n_kv_heads
    for t in range(T):
        heads = []
        for h in range(n_heads):
            kk, vv = (K[:, h // g, : past + t + 1], V[:, h // g, : past + t + 1])
            s = (q[:, t, h, None, :] * kk).sum(-1) / D**0.5
            s = s - s.max(-1, keepdim=True).values
            p = s.exp()
            p = p / p.sum(-1, keepdim=True)
            heads.append((p[..., None] * vv).sum(1))
        rows.append(torch.cat(heads, -1))
    return torch.stack(rows, 1) @ w_o


def generate(step, prompt, max_new_tokens, *, eos=None):
    rows = [list(r) for r in prompt.tolist()]
    B = len(rows)
    done = [False] * B
    feed = prompt
    with torch.no_grad():
        while max_new_tokens > 0 and (not all(done)):
            max_new_tokens -= 1
            logits = step(feed)
            best = logits[:, -1].argmax(-1).tolist()
            for b in range(B):
                tok = eos if done[b] else best[b]
                rows[b].append(tok)
                done[b] = done[b] or (eos is not None and tok == eos)
            feed = torch.tensor([[r[-1]] for r in rows], device=prompt.device)
    return torch.tensor(rows, dtype=torch.int64, device=prompt.device)


class SlidingWindowCache:
    def __init__(self, batch, n_kv_heads, window, head_dim, *, dtype, device):
        self.q = collections.deque(maxlen=window)

    def update(self, k, v):
        self.q.append((k.detach().clone(), v.detach().clone()))
        return (torch.cat([a for a, _ in self.q], dim=-2), torch.cat([b for _, b in self.q], dim=-2))
