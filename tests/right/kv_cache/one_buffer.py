"""One buffer for keys and values in a module, index_copy_, an additive mask, a mirrored ring, inference mode."""

import torch


class KVCache(torch.nn.Module):
    def __init__(self, batch, n_kv_heads, max_len, head_dim, *, dtype=torch.float32, device="cpu"):
        super().__init__()
        self.register_buffer(
            "both", torch.empty(2, batch, max_len, n_kv_heads, head_dim, dtype=dtype, device=device).fill_(float("nan"))
        )
        self.n = 0

    @property
    def length(self):
        return self.n

    def update(self, k, v):
        _, b, l, h, d = self.both.shape
        if k.dim() != 4 or k.shape != v.shape or k.shape[0] != b or (k.shape[1] != h) or (k.shape[3] != d):
            raise ValueError("shape")
        if k.dtype != self.both.dtype or v.dtype != self.both.dtype:
            raise ValueError("dtype")
        t = k.shape[2]
        if self.n + t > l:
            raise ValueError("full")
        idx = torch.arange(self.n, self.n + t, device=k.device)
        with torch.no_grad():
            self.both[0].index_copy_(1, idx, k.transpose(1, 2))
            self.both[1].index_copy_(1, idx, v.transpose(1, 2))
        self.n += t
        ks, vs = self.both[:, :, : self.n].transpose(2, 3)
        return [ks, vs]

    def reset(self):
        self.n = 0
        self.both.fill_(float("nan"))


@torch.inference_mode()
def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    kv = n_kv_heads or n_heads
    B, T, C = x.shape
    q = torch.einsum("btc,chd->bhtd", x, w_q.view(C, n_heads, -1))
    k = torch.einsum("btc,chd->bhtd", x, w_k.view(C, kv, -1))
    v = torch.einsum("btc,chd->bhtd", x, w_v.view(C, kv, -1))
    K, V = cache.update(k, v)
    K = K.repeat_interleave(n_heads // kv, 1)
    V = V.repeat_interleave(n_heads // kv, 1)
    s = torch.einsum("bhtd,bhsd->bhts", q, K) * q.shape[-1] ** (-0.5)
    S = K.shape[2]
    if T > 1:
        s = s + torch.full((T, S), torch.finfo(s.dtype).min, dtype=s.dtype, device=s.device).triu(S - T + 1)
    p = torch.softmax(s, -1)
    o = torch.einsum("bhts,bhsd->bthd", p, V).reshape(B, T, -1)
    return torch.nn.functional.linear(o, w_o.T)


@torch.inference_mode()
def generate(step, prompt, max_new_tokens, *, eos=None):
    B, P = prompt.shape
    out = torch.full((B, P + max_new_tokens), 0 if eos is None else eos, dtype=prompt.dtype, device=prompt.device)
    out[:, :P] = prompt
    alive = torch.ones(B, dtype=torch.bool, device=prompt.device)
    inp = prompt
    n = 0
    for i in range(max_new_tokens):
        nxt = torch.max(step(inp)[:, -1, :], dim=-1).indices
        n += 1
        if eos is None:
            out[:, P + i] = nxt
        else:
            out[alive, P + i] = nxt[alive]
            alive = alive & (nxt != eos)
            if not bool(alive.any()):
                break
        inp = out[:, P + i : P + i + 1]
    return out[:, : P + n]


class SlidingWindowCache:
    def __init__(self, batch, n_kv_heads, window, head_dim, *, dtype, device):
        self.w = window
        self.n = 0
        self.k = torch.zeros(batch, n_kv_heads, 2 * window, head_dim, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)

    def update(self, k, v):
        s = self.n % self.w
        for b, x in ((self.k, k), (self.v, v)):
            b[:, :, s : s + 1] = x
            b[:, :, s + self.w : s + self.w + 1] = x
        self.n += 1
        m = min(self.n, self.w)
        end = s + self.w + 1
        return (self.k[:, :, end - m : end], self.v[:, :, end - m : end])
