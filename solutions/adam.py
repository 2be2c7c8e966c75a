"""Adam, AdamW and AMSGrad, with what training needs beside them: resuming, clipping, a schedule.

Choices. The bias corrections are formed in Python floats: 1 - beta2^t loses digits in float32 while beta2^t is near
one. One loop serves Adam and AdamW, which differ in one line: where the decay enters. The step count stands with each
parameter and not with the optimizer, since a parameter without a gradient does not take part in a step.

Follow-up questions

Why is the bias corrected? m and v start at zero, so that after t steps they hold a share 1 - beta^t of a mean's
weight. Undivided, v is 1000 times too small at first (beta2 = 0.999) and m 10 times, and the first steps are some
three times too long; with m alone corrected they would be thirty times too long.

Why does L2 in the gradient differ from decoupled decay? In the gradient the decay is divided by sqrt(v) as well:
weights with large gradients are decayed less. AdamW shrinks all by the same factor, so the best weight decay no longer
depends so much on the learning rate and on the gradients' size. Loshchilov & Hutter 2019, section 2.

What does AMSGrad repair? Where large, informative gradients are rare, v forgets them, and the step grows again before
the next one comes: Reddi et al. 2018 give a convex problem on which Adam does not converge. With the running maximum
the step never grows for that reason. PyTorch keeps the maximum of the raw v and corrects its bias afterwards.

How much memory does it take? Two numbers a parameter beside the gradient, three with AMSGrad, in float32 as a rule even
for bfloat16 weights. Hence 8-bit states, factored second moments (Adafactor), and states sharded over devices (ZeRO).

What does eps do? It bounds the step where gradients vanish, and it makes Adam more like momentum SGD as it grows.
Inside the root it would act as sqrt(eps): 1e-8 inside is 1e-4 outside.
"""

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
    g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / (v_hat.sqrt() + eps), m, v


class Adam:
    """Kingma & Ba 2015, algorithm 1, over parameters updated in place; AMSGrad (Reddi et al. 2018) on request.

    params: tensors, or groups: dicts with "params" and whatever overrides the defaults. weight_decay: L2, added to
    the gradient. amsgrad: divide by the running maximum of the raw v, corrected afterwards, as torch.optim does.
    Raises ValueError for lr, eps or weight_decay below zero, and for betas outside [0, 1).
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        for group in self.groups:
            _validate(group)
        self.state: dict[torch.Tensor, dict[str, Any]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient, in place and outside the graph."""
        for group in self.groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, **{k: x for k, x in group.items() if k != "params"})

    def _update(
        self,
        p: torch.Tensor,
        g: torch.Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        amsgrad: bool,
    ) -> None:
        beta1, beta2 = betas
        state = self.state.setdefault(p, _fresh(p, amsgrad))
        state["t"] += 1
        if self.decoupled:
            p.mul_(1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m, v = state["m"], state["v"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if amsgrad:
            v = torch.maximum(state["v_max"], v, out=state["v_max"])
        m_hat = m / (1 - beta1 ** state["t"])
        v_hat = v / (1 - beta2 ** state["t"])
        p.sub_(lr * m_hat / (v_hat.sqrt() + eps))

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for group in self.groups:
            for p in group["params"]:
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What training needs to go on: each parameter's moments and step count, by its position, and the options."""
        positions = {p: i for i, p in enumerate(self._all())}
        options = [{k: x for k, x in group.items() if k != "params"} for group in self.groups]
        return {"state": {positions[p]: dict(state) for p, state in self.state.items()}, "options": options}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state_dict() of an optimizer over parameters of the same number, order and shapes."""
        kept = copy.deepcopy(state)
        parameters = self._all()
        self.state = {parameters[i]: entry for i, entry in kept["state"].items()}
        for group, options in zip(self.groups, kept["options"], strict=True):
            group.update(options)

    def _all(self) -> list[torch.Tensor]:
        return [p for group in self.groups for p in group["params"]]


class AdamW(Adam):
    """Adam with decoupled decay, p <- p (1 - lr weight_decay) before the step (Loshchilov & Hutter 2019, algorithm 2).

    As PyTorch has it: the decay is multiplied by lr. The arguments are Adam's.
    """

    decoupled = True

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


def clip_grad_norm(params: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scales all gradients in place by min(1, max_norm / norm), the L2 norm over all of them (Pascanu et al. 2013).

    Parameters whose grad is None are left out. Returns the norm before clipping, a tensor.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack([g.norm() for g in grads]).norm()
    scale = (max_norm / norm).clamp(max=1.0)
    for g in grads:
        g.mul_(scale)
    return norm


def warmup_cosine(step: int, *, warmup: int, total: int, peak: float, floor: float = 0.0) -> float:
    """The learning rate: linear from 0 to peak at step = warmup, a half cosine to floor at total, floor after.

    Loshchilov & Hutter 2017 (SGDR), equation 5, with one cycle and a warm-up. step counts from 0.
    """
    if step < warmup:
        return peak * step / warmup
    if step >= total:
        return floor
    progress = (step - warmup) / (total - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _validate(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not group[name] >= 0:
            raise ValueError(f"{name} is {group[name]}; it must not be negative")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas are {group['betas']}; each must be in [0, 1)")


def _fresh(p: torch.Tensor, amsgrad: bool) -> dict[str, Any]:
    names = ("m", "v", "v_max") if amsgrad else ("m", "v")
    return {"t": 0, **{name: torch.zeros_like(p) for name in names}}
