"""What a cache must give: causal attention over everything at once, its gradients, greedy decoding without a cache."""

from collections.abc import Callable, Sequence

import numpy as np

from graders.kernels import attention as kernels


def full_attention(
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
) -> np.ndarray:
    """Causal attention over all tokens, (B, T, C)."""
    return kernels.multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads=n_heads, n_kv_heads=n_kv_heads, causal=True)


def gradients(
    upstream: np.ndarray,
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    chunks: Sequence[int],
    reach: str,
) -> tuple[np.ndarray, ...]:
    """(dx, dw_q, dw_k, dw_v, dw_o) of the tokens taken in chunks, upstream (B, T, C).

    reach: how far a gradient goes into the keys and values: "all" of them, those of the chunk's "own" tokens, "none".
    """
    kv_heads = n_kv_heads or n_heads
    group = n_heads // kv_heads
    q, k, v = (_split(x @ w, heads) for w, heads in ((w_q, n_heads), (w_k, kv_heads), (w_v, kv_heads)))
    heads, d_heads = [], _split(upstream @ w_o.T, n_heads)
    dq, dk, dv = (np.zeros_like(y) for y in (q, k, v))
    start = 0
    for size in chunks:
        stop = start + size
        mask = kernels.causal_mask(size, stop)
        k_seen, v_seen = (np.repeat(y[:, :, :stop], group, axis=1) for y in (k, v))
        parts = q[:, :, start:stop], k_seen, v_seen
        heads.append(kernels.attention(*parts, mask=mask))
        found = kernels.attention_backward(d_heads[:, :, start:stop], *parts, mask=mask)
        dq[:, :, start:stop] = found[0]
        since = {"all": 0, "own": start, "none": stop}[reach]
        for total, part in ((dk, found[1]), (dv, found[2])):
            shared = part.reshape(part.shape[0], kv_heads, group, *part.shape[2:]).sum(axis=2)
            total[:, :, since:stop] += shared[:, :, since:]
        start = stop
    projected = [_merge(d) for d in (dq, dk, dv)]
    dx = sum(d @ w.T for d, w in zip(projected, (w_q, w_k, w_v), strict=True))
    dw = [np.einsum("btc,btd->cd", x, d) for d in projected]
    return dx, *dw, np.einsum("btd,btc->dc", _merge(np.concatenate(heads, axis=2)), upstream)


def fused(
    place: str,
    x: np.ndarray,
    w_q: np.ndarray,
    w_k: np.ndarray,
    w_v: np.ndarray,
    w_o: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
) -> dict[str, np.ndarray]:
    """The same by PyTorch's own kernels on a device, by name."""
    kv_heads = n_kv_heads or n_heads
    q, k, v = (_split(x @ w, heads) for w, heads in ((w_q, n_heads), (w_k, kv_heads), (w_v, kv_heads)))
    k, v = (np.repeat(y, n_heads // kv_heads, axis=1) for y in (k, v))
    found = kernels.fused(place, q, k, v, mask=kernels.causal_mask(x.shape[1], x.shape[1]))
    return {name: _merge(heads) @ w_o for name, heads in found.items()}


def greedy(
    model: Callable[[int, np.ndarray], np.ndarray], prompt: np.ndarray, max_new_tokens: int, eos: int | None
) -> np.ndarray:
    """Row by row, the whole history at each step, model(row, history); rows are filled with eos up to the longest."""
    rows = []
    for i, row in enumerate(prompt):
        tokens = list(row)
        for _ in range(max_new_tokens):
            tokens.append(int(np.argmax(model(i, np.array(tokens)))))
            if tokens[-1] == eos:
                break
        rows.append(tokens)
    longest = max(map(len, rows))
    filler = 0 if eos is None else eos
    return np.array([row + [filler] * (longest - len(row)) for row in rows], np.int64)


def _split(y: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, heads * D) -> (B, heads, T, D)."""
    return np.moveaxis(y.reshape(*y.shape[:2], heads, -1), 2, 1)


def _merge(y: np.ndarray) -> np.ndarray:
    """(B, heads, T, D) -> (B, T, heads * D)."""
    return np.moveaxis(y, 1, 2).reshape(y.shape[0], y.shape[2], -1)
