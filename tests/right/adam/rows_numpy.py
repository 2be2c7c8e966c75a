"""The step number by number in Python; the optimizers are functions, and a parameter's moments one stacked array."""

import math

import numpy as np


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    new = [np.empty_like(p) for _ in range(3)]
    for i in np.ndindex(p.shape):
        grad = float(g[i]) + weight_decay * float(p[i])
        first = beta1 * float(m[i]) + (1.0 - beta1) * grad
        second = beta2 * float(v[i]) + (1.0 - beta2) * grad * grad
        root = math.sqrt(second / (1.0 - math.pow(beta2, t)))
        new[0][i] = float(p[i]) - lr * first / (1.0 - math.pow(beta1, t)) / (root + eps)
        new[1][i], new[2][i] = first, second
    return tuple(new)


def _valid(lr, betas, eps, weight_decay):
    return min(lr, eps, weight_decay) >= 0 and len(betas) == 2 and all(0.0 <= b < 1.0 for b in betas)


class _Optimizer:
    def __init__(self, params, options, shrink):
        if not _valid(options["lr"], options["betas"], options["eps"], options["weight_decay"]):
            raise ValueError(f"bad hyper-parameters: {options}")
        self.params, self.options, self.shrink = params, options, shrink
        self.counts = dict.fromkeys(params, 0)
        self.moments = {name: np.zeros((3, *p.shape), p.dtype) for name, p in params.items()}

    def step(self, grads):
        for name in self.params:
            if grads.get(name) is not None:
                self.counts[name] += 1
                self.params[name][...] = self._moved(name, grads[name])

    def _moved(self, name, g):
        p, t, (b1, b2) = self.params[name], self.counts[name], self.options["betas"]
        lr, eps, decay = (self.options[key] for key in ("lr", "eps", "weight_decay"))
        g = g if self.shrink else g + decay * p
        old = self.moments[name]
        m = b1 * old[0] + (1 - b1) * g
        v = b2 * old[1] + (1 - b2) * g**2
        self.moments[name] = np.stack([m, v, np.maximum(old[2], v)])
        used = self.moments[name][2 if self.options["amsgrad"] else 1]
        step = lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(used) + eps * math.sqrt(1 - b2**t))
        return (p * (1 - lr * decay) if self.shrink else p) - step


def Adam(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
    return _Optimizer(params, options, shrink=False)


def AdamW(params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
    return _Optimizer(params, options, shrink=True)
