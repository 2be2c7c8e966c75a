"""Adam, AdamW and AMSGrad, with what training needs beside them: resuming, clipping, a schedule."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch


def adam_step(
    p: torch.Tensor,
    g: torch.Tensor,
    m: torch.Tensor,
    v: torch.Tensor,
    t: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """p - lr m_hat / (sqrt(v_hat) + eps) and the new moments (Kingma & Ba 2015, algorithm 1), as new tensors.

    p, g, m, v: parameter, gradient, first and second moment, of one shape and floating dtype. t: the number of this
    step, from 1. weight_decay: L2, added to the gradient. Returns (p, m, v); nothing is changed in place.
    """
    raise NotImplementedError("adam")


class Adam:
    """Kingma & Ba 2015, algorithm 1, over parameters updated in place; AMSGrad (Reddi et al. 2018) on request.

    params: tensors, or groups: dicts with "params" and whatever overrides the defaults. weight_decay: L2, added to
    the gradient. amsgrad: divide by the running maximum of the raw v, corrected afterwards, as torch.optim does.
    Raises ValueError for lr, eps or weight_decay below zero, and for betas outside [0, 1).
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        raise NotImplementedError("adam")

    def step(self) -> None:
        """One update of every parameter that has a gradient, in place and outside the graph."""
        raise NotImplementedError("adam")

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        raise NotImplementedError("adam")

    def state_dict(self) -> dict[str, Any]:
        """What training needs to go on: each parameter's moments and step count, by its position, and the options."""
        raise NotImplementedError("adam")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state_dict() of an optimizer over parameters of the same number, order and shapes."""
        raise NotImplementedError("adam")


class AdamW(Adam):
    """Adam with decoupled decay, p <- p (1 - lr weight_decay) before the step (Loshchilov & Hutter 2019, algorithm 2).

    As PyTorch has it: the decay is multiplied by lr. The arguments are Adam's.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        raise NotImplementedError("adam")


def clip_grad_norm(params: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scales all gradients in place by min(1, max_norm / norm), the L2 norm over all of them (Pascanu et al. 2013).

    Parameters whose grad is None are left out. Returns the norm before clipping, a tensor.
    """
    raise NotImplementedError("adam")


def warmup_cosine(step: int, *, warmup: int, total: int, peak: float, floor: float = 0.0) -> float:
    """The learning rate: linear from 0 to peak at step = warmup, a half cosine to floor at total, floor after.

    Loshchilov & Hutter 2017 (SGDR), equation 5, with one cycle and a warm-up. step counts from 0.
    """
    raise NotImplementedError("adam")
