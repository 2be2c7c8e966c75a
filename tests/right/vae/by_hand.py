"""Two tanh layers, torch.distributions for the KL, Adam written by hand."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal, kl_divergence


def reparameterize(mu, logvar, eps):
    std = torch.exp(logvar / 2)
    return torch.addcmul(mu, std, eps)


def kl_standard_normal(mu, logvar):
    return kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(dim=1)


def bernoulli_log_prob(x, logits):
    return (x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).sum(1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits).sub(kl_standard_normal(mu, logvar), alpha=beta)


class VAE(nn.Module):
    def __init__(self, x_dim, z_dim, hidden):
        super().__init__()
        self.f1 = nn.Linear(x_dim, hidden)
        self.f2 = nn.Linear(hidden, hidden)
        self.m = nn.Linear(hidden, z_dim)
        self.s = nn.Linear(hidden, z_dim)
        self.g1 = nn.Linear(z_dim, hidden)
        self.g2 = nn.Linear(hidden, hidden)
        self.g3 = nn.Linear(hidden, x_dim)

    def encode(self, x):
        h = torch.tanh(self.f2(torch.tanh(self.f1(x))))
        return (self.m(h), self.s(h))

    def decode(self, z):
        return self.g3(torch.tanh(self.g2(torch.tanh(self.g1(z)))))

    def forward(self, x, eps=None):
        mu, logvar = self.encode(x)
        z = Normal(mu, (logvar / 2).exp()).rsample() if eps is None else reparameterize(mu, logvar, eps)
        return [self.decode(z), mu, logvar]

    def sample(self, n, generator=None):
        w = self.g1.weight
        z = torch.empty(n, w.shape[1], device=w.device, dtype=w.dtype).normal_(generator=generator)
        p = torch.sigmoid(self.decode(z))
        return torch.bernoulli(p.detach(), generator=generator)


def fit(x, *, z_dim, hidden, steps, batch_size, lr, seed):
    torch.manual_seed(seed)
    model = VAE(x.shape[1], z_dim, hidden).to(x.device)
    ps = list(model.parameters())
    m = [torch.zeros_like(p) for p in ps]
    v = [torch.zeros_like(p) for p in ps]
    t = 0
    while t < steps:
        order = torch.randperm(len(x), device=x.device)
        for idx in order.split(batch_size):
            if t >= steps:
                break
            t += 1
            b = x[idx]
            logits, mu, lv = model(b)
            loss = (kl_standard_normal(mu, lv) - bernoulli_log_prob(b, logits)).sum()
            gs = torch.autograd.grad(loss, ps)
            with torch.no_grad():
                for p, g, mm, vv in zip(ps, gs, m, v, strict=False):
                    mm.mul_(0.9).add_(g, alpha=0.1)
                    vv.mul_(0.999).addcmul_(g, g, value=0.001)
                    p -= lr * (mm / (1 - 0.9**t)) / ((vv / (1 - 0.999**t)).sqrt() + 1e-08)
    return model


def iwae_bound(log_w):
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def interpolate(model, x0, x1, n):
    a, b = (model.encode(x0)[0], model.encode(x1)[0])
    return torch.stack([torch.sigmoid(model.decode(torch.lerp(a, b, i / (n - 1) if n > 1 else 0.0))) for i in range(n)])
