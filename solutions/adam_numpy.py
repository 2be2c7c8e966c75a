"""Adam, AdamW and AMSGrad over a dict of arrays.

Choices. A float32 array times a Python float stays float32, so the options are never turned into arrays.

The follow-up questions are answered in the PyTorch solution.
"""

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
    g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


class Adam:
    """Kingma & Ba 2015, algorithm 1, over a dict of arrays updated in place; AMSGrad (Reddi et al. 2018) on request.

    params: name -> floating array. weight_decay: L2, added to the gradient. amsgrad: divide by the running maximum of
    the raw v, corrected afterwards. Raises ValueError for lr, eps or weight_decay below zero, and for betas outside
    [0, 1).
    """

    decoupled = False

    def __init__(
        self,
        params: dict[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}; it must not be negative")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; each must be in [0, 1)")
        self.params = params
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.amsgrad = weight_decay, amsgrad
        self.state: dict[str, dict[str, Any]] = {}

    def step(self, grads: dict[str, np.ndarray | None]) -> None:
        """One update, in place, of every parameter that has a gradient; absent or None leaves it alone."""
        for name, p in self.params.items():
            g = grads.get(name)
            if g is not None:
                self._update(p, g, self.state.setdefault(name, _fresh(p)))

    def _update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any]) -> None:
        beta1, beta2 = self.betas
        state["t"] += 1
        if self.decoupled:
            p *= 1 - self.lr * self.weight_decay
        else:
            g = g + self.weight_decay * p
        state["m"] = beta1 * state["m"] + (1 - beta1) * g
        state["v"] = beta2 * state["v"] + (1 - beta2) * g * g
        state["v_max"] = np.maximum(state["v_max"], state["v"])
        v = state["v_max"] if self.amsgrad else state["v"]
        m_hat = state["m"] / (1 - beta1 ** state["t"])
        v_hat = v / (1 - beta2 ** state["t"])
        p -= self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdamW(Adam):
    """Adam with decoupled decay, p <- p (1 - lr weight_decay) before the step (Loshchilov & Hutter 2019, algorithm 2).

    As PyTorch has it: the decay is multiplied by lr. The arguments are Adam's.
    """

    decoupled = True

    def __init__(
        self,
        params: dict[str, np.ndarray],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


def _fresh(p: np.ndarray) -> dict[str, Any]:
    return {"t": 0, "m": np.zeros_like(p), "v": np.zeros_like(p), "v_max": np.zeros_like(p)}
