"""NumPy, head by head in Python, softmax through logarithms, and the backward by the softmax's Jacobian."""

import numpy as np


def _weights(q, k, seen):
    p = np.zeros((len(q), len(k)), q.dtype)
    for t in range(len(q)):
        keys = np.flatnonzero(seen[t])
        if len(keys):
            s = (k[keys] @ q[t]) * q.dtype.type(q.shape[-1] ** -0.5)
            s = s - s.max()
            p[t, keys] = np.exp(s - np.log(np.exp(s).sum()))
    return p


def attention(q, k, v, *, mask=None):
    out = np.zeros((*q.shape[:3], v.shape[-1]), q.dtype)
    seen = np.broadcast_to(True if mask is None else mask, (*q.shape[:3], k.shape[2]))
    for b, h in np.ndindex(*q.shape[:2]):
        out[b, h] = _weights(q[b, h], k[b, h], seen[b, h]) @ v[b, h]
    return out


def attention_backward(grad_out, q, k, v, *, mask=None):
    seen = np.broadcast_to(True if mask is None else mask, (*q.shape[:3], k.shape[2]))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    scale = q.dtype.type(q.shape[-1] ** -0.5)
    for b, h in np.ndindex(*q.shape[:2]):
        p = _weights(q[b, h], k[b, h], seen[b, h])
        dv[b, h] = p.T @ grad_out[b, h]
        for t in range(q.shape[2]):
            ds = (np.diag(p[t]) - np.outer(p[t], p[t])) @ (v[b, h] @ grad_out[b, h, t]) * scale
            dq[b, h, t] = ds @ k[b, h]
            dk[b, h] += np.outer(ds, q[b, h, t])
    return dq, dk, dv


def causal_attention(q, k, v):
    T, S = q.shape[2], k.shape[2]
    if T > S:
        raise ValueError("T > S")
    return attention(q, k, v, mask=np.tri(T, S, S - T, dtype=bool))


def multi_head_attention(x, w_q, w_k, w_v, w_o, *, n_heads, n_kv_heads=None, causal=False):
    H, K = n_heads, n_kv_heads or n_heads
    if H % K or w_q.shape[1] % H or w_k.shape[1] % K or w_v.shape[1] % K or w_o.shape[0] % H:
        raise ValueError("heads")
    split = lambda w, n: np.stack(np.split(x @ w, n, axis=-1), axis=1)  # noqa: E731
    q, k, v = split(w_q, H), split(w_k, K), split(w_v, K)
    k, v = np.repeat(k, H // K, axis=1), np.repeat(v, H // K, axis=1)
    out = causal_attention(q, k, v) if causal else attention(q, k, v)
    return sum(out[:, h] @ part for h, part in enumerate(np.split(w_o, H, axis=0)))


def blockwise_attention(q, k, v, *, block_size, causal=False):
    T, S = q.shape[2], k.shape[2]
    if block_size < 1 or (causal and T > S):
        raise ValueError("block_size < 1 or T > S")
    top = np.full(q.shape[:3], -np.inf, q.dtype)
    total = np.zeros(q.shape[:3], q.dtype)
    out = np.zeros((*q.shape[:3], v.shape[-1]), q.dtype)
    for j in range(0, S, block_size):
        s = np.einsum("bhtd,bhsd->bhts", q, k[:, :, j : j + block_size]) / q.dtype.type(q.shape[-1] ** 0.5)
        if causal:
            keys = np.arange(j, min(S, j + block_size))
            s = np.where(keys <= np.arange(T)[:, None] + S - T, s, -np.inf).astype(q.dtype)
        new = np.maximum(top, s.max(-1))
        safe = np.where(np.isfinite(new), new, 0).astype(q.dtype)
        p, shrink = np.exp(s - safe[..., None]), np.exp(top - safe)
        total = total * shrink + p.sum(-1)
        out = out * shrink[..., None] + p @ v[:, :, j : j + block_size]
        top = new
    return out / total[..., None]
