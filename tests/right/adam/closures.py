"""A closure for each parameter, its state in a cell; the pure step in float64, rounded once at the end."""

import math

import torch


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    kept = p.dtype
    p, g, m, v = (x.double() for x in (p, g, m, v))
    g = g + weight_decay * p
    m = torch.lerp(m, g, 1 - beta1)
    v = torch.lerp(v, g.pow(2), 1 - beta2)
    corrected = v.div(-math.expm1(t * math.log(beta2)))
    step = m.div(-math.expm1(t * math.log(beta1))).div(corrected.sqrt().add(eps))
    return tuple(x.to(kept) for x in (p - lr * step, m, v))


def updater(p, decoupled, *, lr, betas, eps, weight_decay, amsgrad):
    """(update, read, write) of one parameter; the count is a one-element tensor, the moments made when first needed."""
    b1, b2 = betas
    cell = {}

    def update():
        nonlocal cell
        g = p.grad
        if g is None:
            return
        if not cell:
            cell = {"step": torch.zeros(()), "m": torch.zeros_like(g), "v": torch.zeros_like(g)}
        cell["step"] = cell["step"] + 1
        t = cell["step"].item()
        start = p.detach()
        if decoupled:
            start = start - lr * weight_decay * start
        else:
            g = g.add(start, alpha=weight_decay)
        cell["m"] = cell["m"] + (g - cell["m"]) * (1 - b1)
        cell["v"] = cell["v"] + (g.square() - cell["v"]) * (1 - b2)
        second = cell["v"]
        if amsgrad:
            cell["max"] = second = second.maximum(cell["max"]) if "max" in cell else second
        root = torch.sqrt(second / (1 - b2**t)) + eps
        with torch.no_grad():
            p.copy_(start - lr / (1 - b1**t) * cell["m"] / root)

    def write(saved):
        nonlocal cell
        cell = {name: x.clone() for name, x in saved.items()}

    return update, lambda: {name: x.clone() for name, x in cell.items()}, write


def _flattened(params, defaults):
    for entry in params:
        if isinstance(entry, dict):
            inner = {**defaults, **entry}
            yield from _flattened(inner.pop("params"), inner)
        else:
            yield entry, defaults


class Adam:
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        self._build(params, False, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)

    def _build(self, params, decoupled, **options):
        pairs = list(_flattened(params, options))
        for o in [options, *(own for _, own in pairs)]:
            if not (o["lr"] >= 0 and o["eps"] >= 0 and o["weight_decay"] >= 0):
                raise ValueError("lr, eps and weight_decay must not be negative")
            if not all(0 <= b < 1 for b in o["betas"]):
                raise ValueError("betas must lie in [0, 1)")
        self.params = [p for p, _ in pairs]
        made = [updater(p, decoupled, **own) for p, own in pairs]
        self.updates, self.reads, self.writes = zip(*made, strict=True)

    def step(self):
        for update in self.updates:
            update()

    def zero_grad(self):
        for p in self.params:
            if p.grad is not None:
                p.grad.detach_()
                p.grad.zero_()

    def state_dict(self):
        return {str(i): read() for i, read in enumerate(self.reads)}

    def load_state_dict(self, state):
        for i, write in enumerate(self.writes):
            write(state[str(i)])


class AdamW(Adam):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        self._build(params, True, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


@torch.no_grad()
def clip_grad_norm(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = math.hypot(*(entry for g in grads for entry in g.flatten().tolist()))
    for g in grads:
        g *= min(1.0, max_norm / (norm + 1e-6))
    return norm


def warmup_cosine(step, *, warmup, total, peak, floor=0.0):
    if step < warmup:
        return torch.linspace(0, peak, warmup + 1, dtype=torch.float64)[step].item()
    turn = math.pi * max(0.0, min(1.0, (step - warmup) / (total - warmup)))
    share = math.sin(turn / 2) ** 2
    return share * floor + (1 - share) * peak
