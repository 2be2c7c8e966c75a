"""State in one dict by index, foreach arithmetic, bias correction folded into the step size, numbers as tensors."""

import math

import torch


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    g = torch.add(g, p, alpha=weight_decay)
    m = torch.lerp(g, m, beta1)
    v = v * beta2 + (1 - beta2) * g.square()
    rate = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
    return p - rate * m / (v.sqrt() + eps * math.sqrt(1 - beta2**t)), m, v


class _Base:
    decoupled = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        groups = list(params)
        if not (groups and isinstance(groups[0], dict)):
            groups = [{"params": groups}]
        self.param_groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        for group in self.param_groups:
            b1, b2 = group["betas"]
            if group["lr"] < 0 or group["eps"] < 0 or group["weight_decay"] < 0 or not (0 <= b1 < 1 and 0 <= b2 < 1):
                raise ValueError("bad hyper-parameters")
        self.state = {}

    def _numbered(self):
        n = 0
        for group in self.param_groups:
            for p in group["params"]:
                yield n, p, group
                n += 1

    def zero_grad(self):
        for _, p, _ in self._numbered():
            if p.grad is not None:
                p.grad = torch.zeros_like(p.grad)

    def step(self):
        with torch.no_grad():
            for n, p, group in self._numbered():
                if p.grad is not None:
                    self._update(n, p, p.grad, group)

    def _update(self, n, p, g, group):
        kept = self.state.setdefault(n, {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "t": torch.tensor(0)})
        (b1, b2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        if self.decoupled:
            torch._foreach_mul_([p], 1 - lr * decay)
        elif decay:
            g = g + decay * p
        kept["t"] += 1
        t = int(kept["t"])
        torch._foreach_mul_([kept["m"]], b1)
        torch._foreach_add_([kept["m"]], [g], alpha=1 - b1)
        torch._foreach_mul_([kept["v"]], b2)
        torch._foreach_addcmul_([kept["v"]], [g], [g], 1 - b2)
        v = kept["v"]
        if group["amsgrad"]:
            kept["top"] = v = torch.maximum(kept.get("top", torch.zeros_like(v)), v)
        p.addcdiv_(kept["m"], v.sqrt() / math.sqrt(1 - b2**t) + group["eps"], value=-lr / (1 - b1**t))

    def state_dict(self):
        groups = [{k: x for k, x in group.items() if k != "params"} for group in self.param_groups]
        return {"state": self.state, "groups": groups}

    def load_state_dict(self, state):
        self.state = {n: {k: x.clone() for k, x in kept.items()} for n, kept in state["state"].items()}
        for group, saved in zip(self.param_groups, state["groups"], strict=True):
            group.update(saved)


class Adam(_Base):
    pass


class AdamW(_Base):
    decoupled = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)


def clip_grad_norm(params, max_norm):
    grads = [p.grad for p in params if p.grad is not None]
    norm = torch.cat([g.reshape(-1) for g in grads]).norm()
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    for g in grads:
        g.mul_(factor)
    return norm


def warmup_cosine(step, *, warmup, total, peak, floor=0.0):
    if step < warmup:
        return peak * step / warmup
    done = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * math.cos(done * math.pi / 2) ** 2
