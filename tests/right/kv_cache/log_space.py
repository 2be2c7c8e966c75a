"""The softmax in log-space, tokens last in memory, one query position at a time, a ring read by index_select."""

import torch


class KVCache:
    __slots__ = ("_k", "_v", "length")

    def __init__(self, batch, n_kv_heads, max_len, head_dim, *, dtype=torch.float32, device="cpu"):
        options = {"dtype": dtype, "device": device}
        self._k, self._v = (torch.empty(n_kv_heads, head_dim, batch, max_len, **options) for _ in "kv")
        self.length = 0

    def _views(self, start, stop):
        return (y[..., start:stop].permute(2, 0, 3, 1) for y in (self._k, self._v))

    def update(self, k, v):
        keys, values = self._views(self.length, None)
        for name, slots, new in (("k", keys, k), ("v", values, v)):
            if new.dtype != slots.dtype:
                raise ValueError(f"{name} is {new.dtype}, the cache {slots.dtype}")
            if new.ndim != 4:
                raise ValueError(f"{name} has {new.ndim} axes")
            if new.shape[2] > slots.shape[2]:
                raise ValueError(f"{name} has {new.shape[2]} tokens, there is room for {slots.shape[2]}")
            if slots[:, :, : new.shape[2]].shape != new.shape:
                raise ValueError(f"{name} has shape {tuple(new.shape)}")
        if k.shape != v.shape:
            raise ValueError("k and v differ in shape")
        keys[:, :, : k.shape[2]].copy_(k.detach())
        values[:, :, : k.shape[2]].copy_(v.detach())
        self.length = self.length + k.shape[2]
        return tuple(self._views(0, self.length))

    def reset(self):
        self.length = 0


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    groups = n_kv_heads or n_heads
    b, t, _ = x.shape
    d = w_q.shape[-1] // n_heads
    q, k, v = torch.matmul(x, torch.cat([w_q, w_k, w_v], dim=1)).split([n_heads * d, groups * d, groups * d], dim=-1)
    past = cache.length
    keys, values = cache.update(*(y.reshape(b, t, groups, d).movedim(1, 2) for y in (k, v)))
    out = []
    for i, qi in enumerate(q.reshape(b, t, groups, n_heads // groups, d).unbind(1)):
        seen = past + i + 1
        logits = torch.einsum("bkgd,bksd->bkgs", qi * d**-0.5, keys[:, :, :seen])
        weights = torch.exp(logits - torch.logsumexp(logits, dim=-1, keepdim=True))
        out.append(torch.einsum("bkgs,bksd->bkgd", weights, values[:, :, :seen]).reshape(b, 1, n_heads * d))
    return torch.cat(out, dim=1) @ w_o


def generate(step, prompt, max_new_tokens, *, eos=None):
    def over(text):
        """Which rows have ended, (B,)."""
        made = text[:, prompt.shape[1] :]
        return torch.zeros_like(made[:, :0]).any(1) if eos is None else (made == eos).any(1)

    text, new = prompt, prompt
    while text.shape[1] < prompt.shape[1] + max_new_tokens and not over(text).all():
        new = torch.topk(step(new)[:, -1], 1, dim=-1).indices  # (B, 1)
        new = new if eos is None else torch.where(over(text)[:, None], eos, new)
        text = torch.hstack([text, new])
    return text.clone()


class SlidingWindowCache:
    def __init__(self, batch, n_kv_heads, window, head_dim, *, dtype, device):
        self.ring = torch.empty(window, 2, batch, n_kv_heads, head_dim, dtype=dtype, device=device)
        self.order, self.slot = [], 0

    def update(self, k, v):
        self.ring[self.slot, 0], self.ring[self.slot, 1] = k.detach().squeeze(2), v.detach().squeeze(2)
        self.order = [*self.order, self.slot][-len(self.ring) :]
        self.slot = (self.slot + 1) % len(self.ring)
        ordered = self.ring.index_select(0, torch.tensor(self.order, device=self.ring.device))
        keys, values = ordered.permute(1, 2, 3, 0, 4)
        return keys, values
