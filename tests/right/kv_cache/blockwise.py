"""The past and the chunk apart, merged through their logsumexp; a length that is a tensor."""

import torch


class KVCache:
    def __init__(self, batch, n_kv_heads, max_len, head_dim, *, dtype=torch.float32, device="cpu"):
        self.keys = torch.zeros((batch * n_kv_heads, max_len, head_dim), dtype=dtype, device=device)
        self.values = torch.zeros((batch * n_kv_heads, max_len, head_dim), dtype=dtype, device=device)
        self.B, self.K, self.L, self.D = (batch, n_kv_heads, max_len, head_dim)
        self.length = torch.tensor(0)

    def _ok(self, t, T):
        if t.dtype != self.keys.dtype:
            raise ValueError("dtype")
        if list(t.shape) != [self.B, self.K, T, self.D]:
            raise ValueError("shape")

    def update(self, k, v):
        if k.dim() != 4:
            raise ValueError("dim")
        T = k.shape[2]
        self._ok(k, T)
        self._ok(v, T)
        a = int(self.length)
        if a + T > self.L:
            raise ValueError("room")
        with torch.no_grad():
            self.keys.narrow(1, a, T).copy_(k.reshape(-1, T, self.D))
            self.values.narrow(1, a, T).copy_(v.reshape(-1, T, self.D))
        self.length = self.length + T
        n = a + T
        return (
            self.keys.view(self.B, self.K, self.L, self.D)[..., :n, :],
            self.values.view(self.B, self.K, self.L, self.D)[..., :n, :],
        )

    def reset(self):
        self.length = torch.tensor(0)


def cached_attention(x, w_q, w_k, w_v, w_o, cache, *, n_heads, n_kv_heads=None):
    K = n_heads if n_kv_heads is None else n_kv_heads
    B, T, _C = x.shape
    past = int(cache.length)
    proj = x @ torch.cat([w_q, w_k, w_v], 1)
    D = w_q.shape[1] // n_heads
    q, k, v = proj.split([n_heads * D, K * D, K * D], -1)
    q = q.reshape(B, T, K, n_heads // K, D)
    k = k.reshape(B, T, K, D).transpose(1, 2)
    v = v.reshape(B, T, K, D).transpose(1, 2)
    keys, values = cache.update(k, v)
    q = q.mul(D ** (-0.5))

    def piece(ks, vs, causal):
        s = torch.einsum("btkgd,bksd->bkgts", q, ks)
        if causal:
            s = s.masked_fill(torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1), float("-inf"))
        return (torch.logsumexp(s, -1, keepdim=True), torch.softmax(s, -1) @ vs[:, :, None])

    l2, o2 = piece(keys[:, :, past:], values[:, :, past:], True)
    if past:
        l1, o1 = piece(keys[:, :, :past], values[:, :, :past], False)
        w = torch.sigmoid(l1 - l2)
        o2 = w * o1 + (1 - w) * o2
    return o2.permute(0, 3, 1, 2, 4).reshape(B, T, -1) @ w_o


def generate(step, prompt, max_new_tokens, *, eos=None):
    if max_new_tokens == 0:
        return prompt
    seq, x = (prompt, prompt)
    fin = prompt.new_zeros(prompt.shape[0]).bool()
    for _ in range(max_new_tokens):
        if eos is not None and fin.all():
            break
        logits = step(x)
        nxt = torch.topk(logits[:, -1], 1, -1).indices
        if eos is not None:
            nxt[fin] = eos
            fin = fin.logical_or(nxt.squeeze(1).eq(eos))
        seq = torch.hstack([seq, nxt])
        x = nxt
    return seq


class SlidingWindowCache:
    def __init__(self, batch, n_kv_heads, window, head_dim, *, dtype, device):
        self.kv = torch.zeros(2, batch, n_kv_heads, window, head_dim, dtype=dtype, device=device)
        self.i = 0

    def update(self, k, v):
        w = self.kv.shape[3]
        if self.i < w:
            self.kv[:, :, :, self.i] = torch.stack([k, v])[..., 0, :]
        else:
            self.kv[:, :, :, :-1] = self.kv[:, :, :, 1:].clone()
            self.kv[:, :, :, -1] = torch.stack([k, v])[..., 0, :]
        self.i += 1
        return tuple(self.kv[..., : min(self.i, w), :])
