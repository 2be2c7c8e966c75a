"""A variational autoencoder: the draw and its KL, the Bernoulli likelihood and the ELBO, training, the IWAE bound.

Axes: B batch, S samples, X pixels, Z latent width. Logarithms are natural, so every bound is in nats.

Choices. The encoder gives log variances and not deviations: any real number is one, and the KL needs no logarithm.
The likelihood is x l - softplus(l) for logits l, never log(sigmoid(l)): it is finite wherever l is, and so is its
gradient x - sigmoid(l). softplus(l) is -logsigmoid(-l), which PyTorch computes to the last digit; its softplus is
linear from 20 on. Pixels in between 0 and 1 are taken as they are; x log p + (1 - x) log(1 - p) is then not the
log of a density, but it is the usual objective, and it is largest at p = x. `fit` seeds its own copy of the random
number generator and puts the global one back; it draws on the CPU, so that a seed means the same on any device.

Follow-up questions

Why is the noise drawn outside and not z itself? A draw has no derivative in the parameters of its distribution. With
z = mu + exp(logvar / 2) eps the draw is eps, which depends on nothing, and z is smooth in mu and logvar. The other
estimator, E[f(z) grad log q(z)], needs no smooth f, but its variance is far larger.

What happens if the likelihood is averaged over the pixels and the KL is not? That is the same as beta = X. The KL is
then worth more than all that a latent could explain: the posterior collapses to the prior and every reconstruction
is the mean image. The same collapse is met with strong decoders and early in training, where one raises beta slowly.

Why is the IWAE bound tighter, and what does it cost? By Jensen, the log of a mean over S weights is at least the mean
of their logs, and it grows with S towards log p(x). The signal-to-noise ratio of the encoder's gradient falls as S
grows, however (Rainforth et al. 2018): more samples make a better bound and may make a worse encoder.

Can two VAEs be compared by their ELBO? As bounds on log p(x), yes, at beta = 1 and on the same data. A higher one may
be due to a tighter posterior and not to a better model; the IWAE bound with many samples tells these apart.

Why interpolate between the means and in a straight line? A mean is what the encoder is surest of, and a sample would
make the ends blurred. The prior's mass lies near a shell of radius sqrt(Z), which a straight line between two points
cuts through; with large Z a spherical path stays where the decoder was trained.
"""

import math

import torch
from torch import nn


def reparameterize(mu: torch.Tensor, logvar: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """z = mu + exp(logvar / 2) eps, a draw from N(mu, exp(logvar)) (Kingma & Welling 2014, section 2.4).

    mu, logvar, eps (B, Z), one floating dtype; eps standard normal. Returns (B, Z). mu and logvar get gradients.
    """
    return mu + (0.5 * logvar).exp() * eps


def kl_standard_normal(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) = sum (mu^2 + exp(logvar) - 1 - logvar) / 2 (Kingma & Welling 2014, App. B).

    mu, logvar (B, Z). Returns (B,), in nats, summed over the latent axis.
    """
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)


def bernoulli_log_prob(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """sum x log p + (1 - x) log(1 - p), p = sigmoid(logits) (Kingma & Welling 2014, App. C.1).

    x (B, X) in [0, 1], logits (B, X). Returns (B,), in nats, summed over the pixels. Finite for logits of 1e4.
    """
    return (x * logits + nn.functional.logsigmoid(-logits)).sum(-1)


def elbo(
    x: torch.Tensor, logits: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor, *, beta: float = 1.0
) -> torch.Tensor:
    """log p(x | z) - beta KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 10; beta: Higgins et al. 2017).

    x, logits (B, X), mu, logvar (B, Z). Returns (B,), in nats.
    """
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


class VAE(nn.Module):
    """An encoder of pixels to a diagonal normal, and a decoder of latents to pixels' logits (Kingma & Welling 2014).

    x_dim: pixels X. z_dim: latents Z. hidden: width of the hidden layer on either side.
    """

    def __init__(self, x_dim: int, z_dim: int, hidden: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.encoder = nn.Sequential(nn.Linear(x_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, x_dim))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The posterior of each image: x (B, X) -> (mu, logvar), each (B, Z)."""
        mu, logvar = self.encoder(x).chunk(2, dim=-1)
        return mu, logvar

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The logits of the pixels: z (B, Z) -> (B, X)."""
        return self.decoder(z)

    def forward(
        self, x: torch.Tensor, eps: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (B, X) -> (logits (B, X), mu (B, Z), logvar (B, Z)), the logits of one draw from the posterior.

        eps (B, Z): the noise of that draw; None draws it anew.
        """
        mu, logvar = self.encode(x)
        noise = torch.randn_like(mu) if eps is None else eps
        return self.decode(reparameterize(mu, logvar, noise)), mu, logvar

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """n images in [0, 1] from latents drawn from the prior, (n, X); the generator, if there is one, draws."""
        like = next(self.parameters())
        z = torch.randn(n, self.z_dim, generator=generator, device=like.device, dtype=like.dtype)
        return self.decode(z).sigmoid()


def fit(x: torch.Tensor, *, z_dim: int, hidden: int, steps: int, batch_size: int, lr: float, seed: int) -> VAE:
    """A VAE trained by Adam on the mean of -ELBO over random batches (Kingma & Welling 2014, algorithm 1).

    x (N, X), float32 in [0, 1]. steps: updates. batch_size: images an update. lr: Adam's. The same seed gives the same
    model, bit for bit, on x's device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VAE(x.shape[1], z_dim, hidden).to(x)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(steps):
            batch = x[torch.randint(len(x), (batch_size,)).to(x.device)]  # (B, X)
            eps = torch.randn(batch_size, z_dim).to(x)
            loss = -elbo(batch, *model(batch, eps)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def iwae_bound(log_w: torch.Tensor) -> torch.Tensor:
    """log (1/S) sum_s w_s, w = p(x, z) / q(z | x), from the logs of the weights (Burda et al. 2016, eq. 8).

    log_w (S, B). Returns (B,). Its gradient gives each sample its share w_s / sum w of the weights.
    """
    top = log_w.detach().amax(0)  # (B,)
    return top + (log_w - top).exp().sum(0).log() - math.log(len(log_w))


@torch.no_grad()
def interpolate(model: VAE, x0: torch.Tensor, x1: torch.Tensor, n: int) -> torch.Tensor:
    """n images from x0 to x1, decoded from evenly spaced points of the straight line between their posterior means.

    x0, x1 (X,). Returns (n, X), in [0, 1]; the first row decodes the mean of x0, the last one that of x1.
    """
    ends, _ = model.encode(torch.stack([x0, x1]))  # (2, Z)
    t = torch.linspace(0, 1, n, device=ends.device, dtype=ends.dtype)[:, None]
    line = (1 - t) * ends[0] + t * ends[1]  # (n, Z)
    return model.decode(line).sigmoid()
