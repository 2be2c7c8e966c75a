"""GELU, the framework's cross-entropy, a deviation by softplus."""

import torch
from torch import nn
from torch.nn import functional as F


def reparameterize(mu, logvar, eps):
    return mu + eps * logvar.exp().sqrt()


def kl_standard_normal(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=-1)


def bernoulli_log_prob(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) + kl_standard_normal(mu, logvar) * -beta


class Encoder(nn.Module):
    def __init__(self, i, h, z):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(i, h), nn.GELU())
        self.head = nn.ModuleDict({"mu": nn.Linear(h, z), "std": nn.Linear(h, z)})

    def forward(self, x):
        h = self.body(x)
        return (self.head["mu"](h), 2 * torch.log(F.softplus(self.head["std"](h)) + 1e-06))


class VAE(nn.Module):
    def __init__(self, x_dim, z_dim, hidden):
        super().__init__()
        self.enc = Encoder(x_dim, hidden, z_dim)
        self.dec = nn.Sequential(nn.Linear(z_dim, hidden), nn.GELU(), nn.Linear(hidden, x_dim))
        self.z = z_dim
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.xavier_uniform_(p)
            else:
                nn.init.zeros_(p)

    def encode(self, x):
        return self.enc(x)

    def decode(self, z):
        return self.dec(z)

    def forward(self, x, eps=None):
        mu, logvar = self.encode(x)
        eps = torch.randn(mu.shape, device=mu.device, dtype=mu.dtype) if eps is None else eps
        return (self.decode(reparameterize(mu, logvar, eps)), mu, logvar)

    def sample(self, n, generator=None):
        p = next(self.parameters())
        with torch.no_grad():
            return self.decode(torch.randn((n, self.z), generator=generator, device=p.device, dtype=p.dtype)).sigmoid()


def fit(x, *, z_dim, hidden, steps, batch_size, lr, seed):
    torch.manual_seed(seed)
    model = VAE(x.size(1), z_dim, hidden).to(x.device, x.dtype)
    opt = torch.optim.AdamW(model.parameters(), lr=lr)
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x), batch_size=batch_size, shuffle=True, drop_last=True
    )
    it = iter(data)
    for _ in range(steps):
        try:
            (b,) = next(it)
        except StopIteration:
            it = iter(data)
            (b,) = next(it)
        loss = -elbo(b, *model(b)).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
    return model


def iwae_bound(log_w):
    m = log_w.max(dim=0, keepdim=True).values
    return (m + (log_w - m).exp().mean(0, keepdim=True).log()).squeeze(0)


def interpolate(model, x0, x1, n):
    if x0.dim() != 2:
        raise ValueError("images as (1, X)")
    z0, z1 = (model.encode(x0)[0], model.encode(x1)[0])
    return model.decode(z0 + torch.linspace(0, 1, n, device=z0.device, dtype=z0.dtype).unsqueeze(1) * (z1 - z0))
