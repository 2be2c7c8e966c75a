"""What a cache must give: causal attention over everything at once, and greedy decoding without a cache."""

from collections.abc import Callable

import numpy as np

from graders.kernels.attention import multi_head_attention


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
    return multi_head_attention(x, w_q, w_k, w_v, w_o, n_heads=n_heads, n_kv_heads=n_kv_heads, causal=True)


def project(x: np.ndarray, w: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, C) -> (B, heads, T, D)."""
    y = x @ w
    return np.moveaxis(y.reshape(*y.shape[:2], heads, -1), 2, 1)


def greedy(
    model: Callable[[np.ndarray], np.ndarray], prompt: np.ndarray, max_new_tokens: int, eos: int | None
) -> np.ndarray:
    """Row by row, the whole history at each step; rows are filled with eos up to the longest."""
    rows = []
    for row in prompt:
        tokens = list(row)
        for _ in range(max_new_tokens):
            tokens.append(int(np.argmax(model(np.array(tokens)))))
            if tokens[-1] == eos:
                break
        rows.append(tokens)
    longest = max(map(len, rows))
    filler = 0 if eos is None else eos
    return np.array([row + [filler] * (longest - len(row)) for row in rows], np.int64)
