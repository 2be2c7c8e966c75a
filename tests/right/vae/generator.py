"""Batch normalisation, and a generator handed through."""

from typing import NamedTuple

import torch
from torch import nn


class Post(NamedTuple):
    mu: torch.Tensor
    logvar: torch.Tensor


def reparameterize(mu, logvar, eps):
    return eps.mul((0.5 * logvar).exp()).add(mu)


def kl_standard_normal(mu, logvar):
    var = torch.exp(logvar)
    return ((mu * mu + var - logvar - 1) / 2).sum(axis=1)


def bernoulli_log_prob(x, logits):
    big = torch.clamp(logits, min=0)
    return (x * logits - big - torch.log1p(torch.exp(-logits.abs()))).sum(dim=-1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


class VAE(nn.Module):
    def __init__(self, x_dim, z_dim, hidden):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(x_dim, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, 2 * z_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden), nn.LeakyReLU(0.1), nn.Dropout(0.02), nn.Linear(hidden, x_dim)
        )
        self.register_buffer("unit", torch.ones(z_dim))

    def encode(self, x):
        out = self.encoder(x)
        half = out.shape[1] // 2
        return Post(out[:, :half], out[:, half:].clamp(-20, 10))

    def decode(self, z):
        return self.decoder(z)

    def forward(self, x, eps=None, generator=None):
        post = self.encode(x)
        if eps is None:
            eps = torch.randn(post.mu.shape, generator=generator, device=x.device, dtype=x.dtype)
        return (self.decode(reparameterize(*post, eps)), *post)

    def sample(self, n, generator=None):
        was = self.training
        self.eval()
        z = torch.randn(n, len(self.unit), generator=generator, device=self.unit.device, dtype=self.unit.dtype)
        out = torch.sigmoid(self.decode(z * self.unit))
        self.train(was)
        return out


def fit(x, *, z_dim, hidden, steps, batch_size, lr, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VAE(x.shape[1], z_dim, hidden)
        model.to(x.device).train()
        gen = torch.Generator(device=x.device)
        gen.manual_seed(seed)
        opt = torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True)
        for _ in range(steps):
            i = torch.randint(0, x.shape[0], (batch_size,), generator=gen, device=x.device)
            logits, mu, lv = model(x[i], generator=gen)
            loss = -torch.mean(elbo(x[i], logits, mu, lv))
            model.zero_grad()
            loss.backward()
            opt.step()
    return model.eval()


def iwae_bound(log_w):
    log_w - log_w.logsumexp(0)
    return (torch.softmax(log_w, 0).detach() * 0).sum(0) + log_w.logsumexp(0) - __import__("math").log(len(log_w))


def interpolate(model, x0, x1, n):
    with torch.no_grad():
        ends = model.encode(torch.stack((x0, x1))).mu
        w = torch.arange(n, device=x0.device, dtype=x0.dtype) / (n - 1)
        z = torch.outer(1 - w, ends[0]) + torch.outer(w, ends[1])
        return torch.sigmoid(model.decode(z))
