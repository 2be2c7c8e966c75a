"""The whole step by torch._foreach_ over lists, the moments views of flat buffers, one a group."""

import itertools
import math
from collections.abc import Mapping

import torch


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    if weight_decay:
        g = torch.addcmul(g, p, torch.full_like(p, weight_decay))
    m = m.mul(beta1).add(g, alpha=1 - beta1)
    v = v.mul(beta2).addcmul(g, g, value=1 - beta2)
    denominator = (v.sqrt() / math.sqrt(1 - beta2**t)).add_(eps)
    return torch.addcdiv(p, m, denominator, value=-lr / (1 - beta1**t)), m, v


class AdamW:
    _coupled = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        self.defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        params = list(params)
        if not params or not isinstance(params[0], Mapping):
            params = [{"params": params}]
        self.param_groups = []
        for group in params:
            own = self.defaults | group
            own["params"] = list(own["params"])
            for name in ("lr", "eps", "weight_decay"):
                if own[name] < 0.0:
                    raise ValueError(f"Invalid {name}: {own[name]}")
            for i, beta in enumerate(own["betas"]):
                if beta < 0.0 or beta >= 1.0:
                    raise ValueError(f"Invalid beta at index {i}: {beta}")
            # One buffer a group; each parameter's moments are views of it, in the layout of a contiguous tensor.
            sizes = [p.numel() for p in own["params"]]
            own["steps"] = [0] * len(sizes)
            own["buffers"] = []
            for _ in range(3 if own["amsgrad"] else 2):
                first = own["params"][0]
                flat = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
                own["buffers"].append([x.view(p.shape) for x, p in zip(flat.split(sizes), own["params"], strict=True)])
            self.param_groups.append(own)

    def zero_grad(self, set_to_none=True):
        for p in itertools.chain.from_iterable(group["params"] for group in self.param_groups):
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            live = [i for i, p in enumerate(group["params"]) if p.grad is not None]
            if not live:
                continue
            params = [group["params"][i] for i in live]
            grads = [p.grad for p in params]
            exp_avg, exp_avg_sq = ([buffer[i] for i in live] for buffer in group["buffers"][:2])
            (b1, b2), lr, wd = group["betas"], group["lr"], group["weight_decay"]
            if wd and self._coupled:
                grads = torch._foreach_add(grads, params, alpha=wd)
            elif wd:
                torch._foreach_mul_(params, 1 - lr * wd)
            torch._foreach_lerp_(exp_avg, grads, 1 - b1)
            torch._foreach_mul_(exp_avg_sq, b2)
            torch._foreach_addcmul_(exp_avg_sq, grads, grads, 1 - b2)
            if group["amsgrad"]:
                peaks = [group["buffers"][2][i] for i in live]
                torch._foreach_maximum_(peaks, exp_avg_sq)
                roots = torch._foreach_sqrt(peaks)
            else:
                roots = torch._foreach_sqrt(exp_avg_sq)
            for i in live:
                group["steps"][i] += 1
            counts = [group["steps"][i] for i in live]
            torch._foreach_div_(roots, [math.sqrt(1 - b2**t) for t in counts])
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_div_(roots, [-lr / (1 - b1**t) for t in counts])
            torch._foreach_addcdiv_(params, exp_avg, roots)
        return loss

    def state_dict(self):
        return {
            "groups": [
                {k: x for k, x in group.items() if k not in ("params", "buffers")} for group in self.param_groups
            ],
            "buffers": [[[x.clone() for x in b] for b in group["buffers"]] for group in self.param_groups],
        }

    def load_state_dict(self, state):
        for group, options, buffers in zip(self.param_groups, state["groups"], state["buffers"], strict=True):
            group.update({k: list(x) if k == "steps" else x for k, x in options.items()})
            for mine, theirs in zip(group["buffers"], buffers, strict=True):
                torch._foreach_copy_(mine, theirs)


class Adam(AdamW):
    _coupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


def clip_grad_norm(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return 0.0
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    torch._foreach_mul_(grads, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def warmup_cosine(step, *, warmup, total, peak, floor=0.0):
    knots = (step / warmup if warmup else 1.0, (step - warmup) / (total - warmup))
    if knots[0] < 1:
        return knots[0] * peak
    return floor + (peak - floor) * (1 + math.cos(math.pi * min(knots[1], 1.0))) / 2
