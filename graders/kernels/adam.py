"""Adam and its kin in plain NumPy: Kingma & Ba 2015, algorithm 1; Reddi et al. 2018; Loshchilov & Hutter 2019.

The bias corrections are formed in the dtype of the parameters, as optax does: how much that costs is part of how far a
right answer may be off.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


def adam_step(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step with L2 in the gradient; t counts from 1."""
    number = p.dtype.type
    g = g + number(weight_decay) * p
    first = number(beta1) * m + number(1 - beta1) * g
    second = number(beta2) * v + number(1 - beta2) * g * g
    size = np.sqrt(second / _correction(number, beta2, t)) + number(eps)
    return p - number(lr) * (first / _correction(number, beta1, t)) / size, first, second


def path(
    p: np.ndarray,
    grads: np.ndarray,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    decoupled: bool = False,
    without: Collection[int] = (),
) -> np.ndarray:
    """The parameter before the first step and after each; in the steps `without` it has no gradient and stays."""
    number = p.dtype.type
    m, v, largest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    t, found = 0, [p]
    for i, gradient in enumerate(grads):
        if i in without:
            found.append(p)
            continue
        t += 1
        g = gradient
        if decoupled:
            p = p * number(1 - lr * weight_decay)
        else:
            g = g + number(weight_decay) * p
        m = number(betas[0]) * m + number(1 - betas[0]) * g
        v = number(betas[1]) * v + number(1 - betas[1]) * g * g
        largest = np.maximum(largest, v)
        second = largest if amsgrad else v
        size = np.sqrt(second / _correction(number, betas[1], t)) + number(eps)
        p = p - number(lr) * (m / _correction(number, betas[0], t)) / size
        found.append(p)
    return np.stack(found)


def trajectory(p: np.ndarray, grads: np.ndarray, **options: Any) -> np.ndarray:
    """The parameter after a step with each gradient; options as for `path`."""
    return path(p, grads, **options)[-1, ...]


def rounded(p: np.ndarray, grads: np.ndarray, **options: Any) -> float:
    """The size of what rounding makes of the steps: each rounds the parameter, by chance up or down."""
    return float(np.max(np.linalg.norm(path(p, grads, **options), axis=0)))


def norm(grads: Sequence[np.ndarray]) -> np.ndarray:
    """The L2 norm over all arrays together."""
    return np.sqrt(sum(np.sum(np.square(g)) for g in grads))


def warmup_cosine(steps: Sequence[int], *, warmup: int, total: int, peak: float, floor: float) -> np.ndarray:
    """Linear to peak, half a cosine to floor, floor."""
    at = np.asarray(steps, np.float64)
    rising = peak * at / max(warmup, 1)
    share = np.clip((at - warmup) / (total - warmup), 0, 1)
    falling = floor + (peak - floor) * np.cos(share * np.pi / 2) ** 2
    return np.where(at < warmup, rising, np.where(at >= total, floor, falling))


def _correction(number: type, beta: float, t: int) -> np.generic:
    return number(1) - number(beta) ** number(t)


def pytorch(
    device: str, name: str, start: np.ndarray, grads: np.ndarray, *, without: Collection[int] = (), **options: object
) -> dict[str, np.ndarray]:
    """The same trajectory by PyTorch's own optimizers on a device, the fused and the foreach kernels."""
    import torch

    found = {}
    for kind in ("fused", "foreach"):
        p = torch.tensor(start, device=device, requires_grad=True)
        optimizer = getattr(torch.optim, name)([p], **{kind: True}, **options)
        for i, g in enumerate(grads):
            p.grad = None if i in without else torch.tensor(g, device=device)
            optimizer.step()
        found[f"PyTorch's {kind} kernel"] = p.detach().cpu().numpy()
    return found
