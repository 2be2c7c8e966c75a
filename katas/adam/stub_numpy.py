"""Adam, AdamW and AMSGrad over a dict of arrays."""

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
    """p - lr m_hat / (sqrt(v_hat) + eps) and the new moments (Kingma & Ba 2015, algorithm 1), as new arrays.

    p, g, m, v: parameter, gradient, first and second moment, of one shape and floating dtype. t: the number of this
    step, from 1. weight_decay: L2, added to the gradient. Returns (p, m, v); nothing is changed in place.
    """
    raise NotImplementedError("adam")


class Adam:
    """Kingma & Ba 2015, algorithm 1, over a dict of arrays updated in place; AMSGrad (Reddi et al. 2018) on request.

    params: name -> floating array. weight_decay: L2, added to the gradient. amsgrad: divide by the running maximum of
    the raw v, corrected afterwards. Raises ValueError for lr, eps or weight_decay below zero, and for betas outside
    [0, 1).
    """

    def __init__(
        self,
        params: dict[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        raise NotImplementedError("adam")

    def step(self, grads: dict[str, np.ndarray | None]) -> None:
        """One update, in place, of every parameter that has a gradient; absent or None leaves it alone."""
        raise NotImplementedError("adam")


class AdamW(Adam):
    """Adam with decoupled decay, p <- p (1 - lr weight_decay) before the step (Loshchilov & Hutter 2019, algorithm 2).

    As PyTorch has it: the decay is multiplied by lr. The arguments are Adam's.
    """

    def __init__(
        self,
        params: dict[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        raise NotImplementedError("adam")
