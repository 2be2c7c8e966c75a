"""Each parameter's state in an object of its own, double precision for the corrections, norms one by one."""

import math
from dataclasses import dataclass, field

import torch


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    if weight_decay != 0:
        g = g + weight_decay * p
    m = m + (1 - beta1) * (g - m)
    v = v + (1 - beta2) * (g * g - v)
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * (m_hat / (v_hat**0.5 + eps)), m, v


@dataclass
class Slot:
    p: torch.Tensor
    options: dict
    t: int = 0
    tensors: dict = field(default_factory=dict)


class Adam:
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        base = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        self.slots = []
        for entry in params:
            own = {**base, **{k: x for k, x in entry.items() if k != "params"}} if isinstance(entry, dict) else base
            if min(own["lr"], own["eps"], own["weight_decay"]) < 0 or any(not 0 <= b < 1 for b in own["betas"]):
                raise ValueError(own)
            self.slots += [Slot(p, own) for p in (entry["params"] if isinstance(entry, dict) else [entry])]

    def zero_grad(self):
        for slot in self.slots:
            slot.p.grad = None

    def decay(self, p, g, o):
        return g + o["weight_decay"] * p

    @torch.no_grad()
    def step(self):
        for slot in self.slots:
            p, g, o = slot.p, slot.p.grad, slot.options
            if g is None:
                continue
            g = self.decay(p, g, o)
            slot.t += 1
            zero = torch.zeros_like(p)
            m, v = slot.tensors.get("m", zero), slot.tensors.get("v", zero)
            (b1, b2) = o["betas"]
            slot.tensors["m"] = m = b1 * m + (1 - b1) * g
            slot.tensors["v"] = v = b2 * v + (1 - b2) * g**2
            if o["amsgrad"]:
                slot.tensors["top"] = v = torch.max(slot.tensors.get("top", zero), v)
            v_hat = v / (1 - b2**slot.t)
            p -= o["lr"] * (m / (1 - b1**slot.t)) / (v_hat.sqrt() + o["eps"])

    def state_dict(self):
        return [(slot.t, dict(slot.tensors)) for slot in self.slots]

    def load_state_dict(self, state):
        for slot, (t, tensors) in zip(self.slots, state, strict=True):
            slot.t, slot.tensors = t, dict(tensors)


class AdamW(Adam):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def decay(self, p, g, o):
        p.sub_(p * (o["lr"] * o["weight_decay"]))
        return g


def clip_grad_norm(params, max_norm):
    params = [p for p in params if p.grad is not None]
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in params))
    if norm > max_norm:
        for p in params:
            p.grad = p.grad * (max_norm / norm)
    return norm


def warmup_cosine(step, *, warmup, total, peak, floor=0.0):
    if step < warmup:
        return step / warmup * peak
    if step >= total:
        return floor
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
