"""LoRA in plain NumPy: Hu et al. 2021, equation 3; many adapters in a batch, row by row."""

import numpy as np


def linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, a: np.ndarray, b: np.ndarray, *, alpha: float
) -> np.ndarray:
    """x W^T + bias + (alpha / R) x A^T B^T."""
    scale = x.dtype.type(alpha / len(a))
    out = x @ weight.T + scale * ((x @ a.T) @ b.T)
    return out if bias is None else out + bias


def linear_backward(
    upstream: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    a: np.ndarray,
    b: np.ndarray,
    *,
    alpha: float,
) -> tuple[np.ndarray, ...]:
    """(dx, dW, dbias where there is one, dA, dB)."""
    scale = x.dtype.type(alpha / len(a))
    rows, into = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
    dx = upstream @ weight + scale * ((upstream @ b) @ a)
    da, db = scale * (into @ b).T @ rows, scale * into.T @ (rows @ a.T)
    return (dx, into.T @ rows, *([] if bias is None else [into.sum(0)]), da, db)


def merged(weight: np.ndarray, a: np.ndarray, b: np.ndarray, *, alpha: float) -> np.ndarray:
    """W + (alpha / R) B A."""
    return weight + weight.dtype.type(alpha / len(a)) * (b @ a)


def batched(
    x: np.ndarray, weight: np.ndarray, a: np.ndarray, b: np.ndarray, adapter_ids: np.ndarray, *, scaling: np.ndarray
) -> np.ndarray:
    """Row by row: x_i W^T, and scaling_n x_i A_n^T B_n^T where n = adapter_ids[i] is not -1."""
    rows = []
    for row, n in zip(x, adapter_ids, strict=True):
        update = 0 if n < 0 else scaling[n] * ((row @ a[n].T) @ b[n].T)
        rows.append(row @ weight.T + update)
    return np.stack(rows)


def batched_backward(
    upstream: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    adapter_ids: np.ndarray,
    *,
    scaling: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """(dx, dW, dA, dB), the adapters' gradients added up over the rows that used them."""
    dx, dw, da, db = upstream @ weight, np.zeros_like(weight), np.zeros_like(a), np.zeros_like(b)
    for i, n in enumerate(adapter_ids):
        dw += upstream[i].T @ x[i]
        if n >= 0:
            dx[i] += scaling[n] * ((upstream[i] @ b[n]) @ a[n])
            da[n] += scaling[n] * (upstream[i] @ b[n]).T @ x[i]
            db[n] += scaling[n] * upstream[i].T @ (x[i] @ a[n].T)
    return dx, dw, da, db
