"""Plain matrices as parameters of a module, einsum, an ELBO from densities, logaddexp, and data in shuffled passes."""

import itertools
import math

import torch
from torch import nn


def reparameterize(mu, logvar, eps):
    return torch.lerp(mu, mu + eps, torch.exp(0.5 * logvar))


def kl_standard_normal(mu, logvar):
    square = torch.einsum("bz,bz->b", mu, mu)
    return 0.5 * (square + torch.expm1(logvar).sum(-1) - logvar.sum(-1))


def bernoulli_log_prob(x, logits):
    nothing = torch.zeros_like(logits)
    return torch.einsum("bx,bx->b", x, logits) - torch.logaddexp(logits, nothing).sum(-1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    parts = torch.stack([bernoulli_log_prob(x, logits), kl_standard_normal(mu, logvar)])
    return parts[0] - parts[1] * beta


def glorot(i, o):
    return nn.Parameter(torch.empty(i, o).uniform_(-1, 1) * math.sqrt(6 / (i + o)))


class VAE(nn.Module):
    """Decoder and encoder with a skip from input to output, mu and logvar from matrices of their own."""

    def __init__(self, x_dim, z_dim, hidden):
        super().__init__()
        shapes = {"up": (x_dim, hidden), "mean": (hidden, z_dim), "spread": (hidden, z_dim)}
        shapes |= {"down": (z_dim, hidden), "out": (hidden, x_dim), "skip": (z_dim, x_dim)}
        self.matrices = nn.ParameterDict({name: glorot(*shape) for name, shape in shapes.items()})
        self.offsets = nn.ParameterDict({name: nn.Parameter(torch.zeros(shape[1])) for name, shape in shapes.items()})

    def affine(self, name, a):
        return torch.addmm(self.offsets[name], a, self.matrices[name])

    def encode(self, x):
        h = nn.functional.silu(self.affine("up", x - 0.3))
        return self.affine("mean", h), 6 * torch.tanh(self.affine("spread", h) / 6)

    def decode(self, z):
        return self.affine("out", nn.functional.silu(self.affine("down", z))) + self.affine("skip", z)

    def forward(self, x, eps=None):
        mu, logvar = self.encode(x)
        if eps is None:
            eps = torch.empty_like(mu).normal_()
        return self.decode(reparameterize(mu, logvar, eps)), mu, logvar

    def sample(self, n, generator=None):
        like = self.matrices["down"]
        with torch.no_grad():
            z = torch.randn(like.shape[0], n, generator=generator, dtype=like.dtype, device=like.device).T
            return 1 / (1 + torch.exp(-self.decode(z)))


def fit(x, *, z_dim, hidden, steps, batch_size, lr, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + 1)
    model = VAE(x.shape[1], z_dim, hidden).to(x.device)

    def batches():
        while True:
            order = torch.randperm(len(x), generator=generator)
            for start in range(0, max(len(x) - batch_size + 1, 1), batch_size):
                yield x[order[start : start + batch_size].to(x.device)]

    adam = torch.optim.Adam(
        [{"params": list(model.matrices.values())}, {"params": list(model.offsets.values())}], lr=lr
    )
    for batch in itertools.islice(batches(), steps):
        adam.zero_grad(set_to_none=False)
        mu, logvar = model.encode(batch)
        eps = torch.randn(mu.shape, generator=generator).to(x.device)
        bound = elbo(batch, model.decode(reparameterize(mu, logvar, eps)), mu, logvar)
        bound.sum().neg().backward()
        adam.step()
    return model


def iwae_bound(log_w):
    total = log_w[0]
    for row in log_w[1:]:
        total = torch.logaddexp(total, row)
    return total - math.log(log_w.shape[0])


def interpolate(model, x0, x1, n):
    with torch.no_grad():
        (start, end), _ = model.encode(torch.cat([x0[None], x1[None]]))
        steps = torch.arange(n, dtype=start.dtype, device=start.device) / max(n - 1, 1)
        return model.decode(torch.einsum("n,z->nz", steps, end - start) + start).sigmoid()
