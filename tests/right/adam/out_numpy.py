"""Ufuncs with out= and two scratch arrays; the powers of the betas are running products in place of a count."""

from types import SimpleNamespace

import numpy as np


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    p, m, v = p.copy(), m.copy(), v.copy()
    g = np.asarray(g + p * weight_decay)
    m += (g - m) * (1 - beta1)
    v += (np.square(g) - v) * (1 - beta2)
    denominator = np.sqrt(v / (1 - beta2**t))
    denominator += eps
    p -= np.divide(m, denominator) * (lr / (1 - beta1**t))
    return p, m, v


class AdamW:
    l2 = False

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=False):
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(f"negative: lr={lr}, eps={eps}, weight_decay={weight_decay}")
        beta1, beta2 = betas
        if not 0 <= beta1 < 1 or not 0 <= beta2 < 1:
            raise ValueError(f"betas={betas}")
        self.hyper = SimpleNamespace(
            lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad
        )
        self.params = params
        self.slots = {
            name: SimpleNamespace(m=np.zeros_like(p), v=np.zeros_like(p), top=np.zeros_like(p), pow1=1.0, pow2=1.0)
            for name, p in params.items()
        }

    def step(self, grads):
        h = self.hyper
        for name, g in grads.items():
            if g is None:
                continue
            p, s = self.params[name], self.slots[name]
            s.pow1 *= h.beta1
            s.pow2 *= h.beta2
            a, b = np.empty_like(p), np.empty_like(p)
            if self.l2:
                np.multiply(p, h.weight_decay, out=a)
                np.add(a, g, out=a)
            else:
                np.multiply(p, 1 - h.lr * h.weight_decay, out=p)
                np.copyto(a, g)
            np.multiply(a, 1 - h.beta1, out=b)
            np.multiply(s.m, h.beta1, out=s.m)
            np.add(s.m, b, out=s.m)
            np.multiply(a, a, out=a)
            np.multiply(a, 1 - h.beta2, out=a)
            np.multiply(s.v, h.beta2, out=s.v)
            np.add(s.v, a, out=s.v)
            if h.amsgrad:
                np.maximum(s.top, s.v, out=s.top)
            np.divide(s.top if h.amsgrad else s.v, 1 - s.pow2, out=a)
            np.sqrt(a, out=a)
            np.add(a, h.eps, out=a)
            np.divide(s.m, a, out=b)
            np.multiply(b, h.lr / (1 - s.pow1), out=b)
            np.subtract(p, b, out=p)


class Adam(AdamW):
    l2 = True

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)
