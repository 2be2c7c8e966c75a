"""Attention, masked, causal, multi-head and its gradients: Vaswani et al. 2017, equation 1."""

import contextlib
from typing import Any

import numpy as np


def weights(q: np.ndarray, k: np.ndarray, mask: np.ndarray | None = None, *, log_space: bool = False) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) over the keys that may be attended, zero where no key may; (B, H, T, S).

    log_space: as exp(logits - logsumexp(logits)), which rounds at the size of the logits.
    """
    logits = q @ np.swapaxes(k, -1, -2) / q.dtype.type(np.sqrt(q.shape[-1]))
    allowed = np.ones(logits.shape, bool) if mask is None else np.broadcast_to(mask, logits.shape)
    peak = np.max(logits, axis=-1, keepdims=True, initial=-np.inf, where=allowed)
    peak = np.where(np.isfinite(peak), peak, 0).astype(q.dtype)
    unnormalised = np.where(allowed, np.exp(np.where(allowed, logits - peak, 0)), 0).astype(q.dtype)
    total = unnormalised.sum(axis=-1, keepdims=True)
    total = np.where(total > 0, total, 1).astype(q.dtype)
    if log_space:
        return np.where(allowed, np.exp(np.where(allowed, logits - (peak + np.log(total)), 0)), 0).astype(q.dtype)
    return (unnormalised / total).astype(q.dtype)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, mask: np.ndarray | None = None) -> np.ndarray:
    """(B, H, T, D), (B, H, S, D), (B, H, S, E) -> (B, H, T, E); mask True = may attend."""
    return weights(q, k, mask) @ v


def log_space_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    causal: bool = False,
    block_size: int = 1,
) -> np.ndarray:
    """Attention by way of logsumexp, as when blocks are merged: right, and rougher where logits are large."""
    del block_size
    mask = causal_mask(q.shape[-2], k.shape[-2]) if causal else mask
    return weights(q, k, mask, log_space=True) @ v


def attention_backward(
    grad_out: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dv = p^T g; dp = g v^T; ds = p (dp - rowsum(p dp)); dq = ds k / sqrt(D); dk = ds^T q / sqrt(D)."""
    p = weights(q, k, mask)
    dp = grad_out @ np.swapaxes(v, -1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / q.dtype.type(np.sqrt(q.shape[-1]))
    return ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(p, -1, -2) @ grad_out


def causal_mask(queries: int, keys: int) -> np.ndarray:
    """(T, S): query i sees keys j <= i + S - T."""
    return np.arange(keys)[None, :] <= np.arange(queries)[:, None] + keys - queries


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    return attention(q, k, v, mask=causal_mask(q.shape[-2], k.shape[-2]))


def causal_attention_backward(
    grad_out: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return attention_backward(grad_out, q, k, v, mask=causal_mask(q.shape[-2], k.shape[-2]))


def blockwise_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, block_size: int, causal: bool = False
) -> np.ndarray:
    """The answer does not depend on the block size; the error of a running softmax hardly does."""
    del block_size
    return causal_attention(q, k, v) if causal else attention(q, k, v)


def blockwise_attention_backward(
    grad_out: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    block_size: int,
    causal: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    del block_size
    return causal_attention_backward(grad_out, q, k, v) if causal else attention_backward(grad_out, q, k, v)


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    return np.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)  # (B, heads, T, width)


def _merge(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, 2).reshape(x.shape[0], x.shape[2], -1)


def _heads(
    x: np.ndarray, w_q: np.ndarray, w_k: np.ndarray, w_v: np.ndarray, n_heads: int, n_kv_heads: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v with the key/value heads spread over the query heads, and which kv head each query head reads."""
    kv_heads = n_kv_heads or n_heads
    reads = np.arange(n_heads) // (n_heads // kv_heads)
    k, v = _split(x @ w_k, kv_heads)[:, reads], _split(x @ w_v, kv_heads)[:, reads]
    return _split(x @ w_q, n_heads), k, v, reads


def multi_head_attention(
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> np.ndarray:
    """Query head h reads kv head h // (H // K): Ainslie et al. 2023, section 2.2."""
    q, k, v, _ = _heads(x, w_q, w_k, w_v, n_heads, n_kv_heads)
    return _merge(causal_attention(q, k, v) if causal else attention(q, k, v)) @ w_o


def multi_head_attention_backward(
    grad_out: np.ndarray,
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> tuple[np.ndarray, ...]:
    """(dx, dw_q, dw_k, dw_v, dw_o): the chain rule through the projections; shared kv heads add up."""
    q, k, v, reads = _heads(x, w_q, w_k, w_v, n_heads, n_kv_heads)
    mask = causal_mask(x.shape[1], x.shape[1]) if causal else None
    merged = _merge(attention(q, k, v, mask=mask))
    dq, dk, dv = attention_backward(_split(grad_out @ w_o.T, n_heads), q, k, v, mask=mask)
    shared = np.eye(reads.max() + 1, dtype=x.dtype)[reads]  # (H, K)
    dk, dv = (np.einsum("bhtd,hk->bktd", d, shared) for d in (dk, dv))
    projected = [_merge(d) for d in (dq, dk, dv)]
    dx = sum(d @ w.T for d, w in zip(projected, (w_q, w_k, w_v), strict=True))
    dw = [np.einsum("btc,btd->cd", x, d) for d in projected]
    return dx, *dw, np.einsum("bte,btc->ec", merged, grad_out)


def fused(
    place: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, mask: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """PyTorch's own kernels on a device, by name; zeros for rows that see no key, where they disagree."""
    import torch

    arrays = [torch.from_numpy(np.ascontiguousarray(x)).to(place) for x in (q, k, v)]
    allowed: Any = np.ones((q.shape[-2], k.shape[-2]), bool) if mask is None else mask
    attend = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask)).to(place)
    found = {}
    for name, chosen in _sdpa_backends(place).items():
        with chosen:
            out = torch.nn.functional.scaled_dot_product_attention(*arrays, attn_mask=attend)
        found[name] = np.where(allowed.any(-1)[..., None], out.cpu().numpy(), 0)
    return found


def _sdpa_backends(place: str) -> dict[str, contextlib.AbstractContextManager[Any]]:
    if place != "cuda":
        return {"PyTorch's scaled_dot_product_attention": contextlib.nullcontext()}
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen = {"math": SDPBackend.MATH, "memory-efficient": SDPBackend.EFFICIENT_ATTENTION}
    return {f"PyTorch's {name} kernel": sdpa_kernel(backend) for name, backend in chosen.items()}
