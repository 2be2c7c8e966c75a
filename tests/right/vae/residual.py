"""Residual layers."""

import torch
import torch.nn.functional as F
from torch import nn


def reparameterize(mu, logvar, eps):
    return mu + (logvar * 0.5).exp() * eps


def kl_standard_normal(mu, logvar):
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)


def bernoulli_log_prob(x, logits):
    return (logits * x - F.softplus(logits)).sum(1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


class Block(nn.Module):
    def __init__(self, h):
        super().__init__()
        self.n = nn.LayerNorm(h)
        self.l = nn.Linear(h, h)

    def forward(self, x):
        return x + self.l(F.relu(self.n(x)))


class VAE(nn.Module):
    def __init__(self, x_dim, z_dim, hidden):
        super().__init__()
        self.e = nn.Sequential(nn.Linear(x_dim, hidden), Block(hidden), Block(hidden), nn.Linear(hidden, 2 * z_dim))
        self.d = nn.Sequential(nn.Linear(z_dim, hidden), Block(hidden), Block(hidden), nn.Linear(hidden, x_dim))

    def encode(self, x):
        return tuple(torch.tensor_split(self.e(2 * x - 1), 2, -1))

    def decode(self, z):
        return self.d(z)

    def forward(self, x, eps=None):
        mu, lv = self.encode(x)
        z = torch.normal(mu * 0, 1.0) if eps is None else eps
        return (self.decode(mu + torch.exp(lv / 2) * z), mu, lv)

    @torch.inference_mode()
    def sample(self, n, generator=None):
        l = self.d[0]
        return torch.sigmoid(
            self.decode(
                torch.randn(n, l.in_features, generator=generator, dtype=l.weight.dtype, device=l.weight.device)
            )
        )


def fit(x, *, z_dim, hidden, steps, batch_size, lr, seed):
    torch.manual_seed(seed)
    model = VAE(x.shape[1], z_dim, hidden).to(x.device)
    opt = torch.optim.Adam(model.parameters(), lr, betas=(0.9, 0.99), eps=1e-06)
    for _ in range(steps):
        b = x[torch.randint(len(x), (batch_size,), device=x.device)]
        logits, mu, lv = model(b)
        rec = F.binary_cross_entropy_with_logits(logits, b, reduction="sum") / len(b)
        kl = -0.5 * (1 + lv - mu.square() - lv.exp()).sum() / len(b)
        opt.zero_grad()
        (rec + kl).backward()
        opt.step()
    return model


def iwae_bound(log_w):
    return log_w.logsumexp(dim=0) - torch.tensor(log_w.shape[0], dtype=log_w.dtype, device=log_w.device).log()


@torch.no_grad()
def interpolate(model, x0, x1, n):
    m0, m1 = (model.encode(x[None])[0] for x in (x0, x1))
    return model.decode(m0 + (m1 - m0) * torch.linspace(0, 1, n, dtype=m0.dtype, device=m0.device)[:, None]).sigmoid()
