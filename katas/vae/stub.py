"""A variational autoencoder: the draw and its KL, the Bernoulli likelihood and the ELBO, training, the IWAE bound."""

import math

import torch
from torch import nn


def reparameterize(mu: torch.Tensor, logvar: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """z = mu + exp(logvar / 2) eps, a draw from N(mu, exp(logvar)) (Kingma & Welling 2014, section 2.4).

    mu, logvar, eps (B, Z), one floating dtype; eps standard normal. Returns (B, Z). mu and logvar get gradients.
    """
    raise NotImplementedError("vae")


def kl_standard_normal(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) = sum (mu^2 + exp(logvar) - 1 - logvar) / 2 (Kingma & Welling 2014, App. B).

    mu, logvar (B, Z). Returns (B,), in nats, summed over the latent axis.
    """
    raise NotImplementedError("vae")


def bernoulli_log_prob(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """sum x log p + (1 - x) log(1 - p), p = sigmoid(logits) (Kingma & Welling 2014, App. C.1).

    x (B, X) in [0, 1], logits (B, X). Returns (B,), in nats, summed over the pixels. Finite for logits of 1e4.
    """
    raise NotImplementedError("vae")


def elbo(
    x: torch.Tensor, logits: torch.Tensor, mu: torch.Tensor, logvar: torch.Tensor, *, beta: float = 1.0
) -> torch.Tensor:
    """log p(x | z) - beta KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 10; beta: Higgins et al. 2017).

    x, logits (B, X), mu, logvar (B, Z). Returns (B,), in nats.
    """
    raise NotImplementedError("vae")


class VAE(nn.Module):
    """An encoder of pixels to a diagonal normal, and a decoder of latents to pixels' logits (Kingma & Welling 2014).

    x_dim: pixels X. z_dim: latents Z. hidden: width of the hidden layer on either side.
    """

    def __init__(self, x_dim: int, z_dim: int, hidden: int) -> None:
        raise NotImplementedError("vae")

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The posterior of each image: x (B, X) -> (mu, logvar), each (B, Z)."""
        raise NotImplementedError("vae")

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The logits of the pixels: z (B, Z) -> (B, X)."""
        raise NotImplementedError("vae")

    def forward(
        self, x: torch.Tensor, eps: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x (B, X) -> (logits (B, X), mu (B, Z), logvar (B, Z)), the logits of one draw from the posterior.

        eps (B, Z): the noise of that draw; None draws it anew.
        """
        raise NotImplementedError("vae")

    def sample(self, n: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """n images in [0, 1] from latents drawn from the prior, (n, X); the generator, if there is one, draws."""
        raise NotImplementedError("vae")


def fit(x: torch.Tensor, *, z_dim: int, hidden: int, steps: int, batch_size: int, lr: float, seed: int) -> VAE:
    """A VAE trained by Adam on the mean of -ELBO over random batches (Kingma & Welling 2014, algorithm 1).

    x (N, X), float32 in [0, 1]. steps: updates. batch_size: images an update. lr: Adam's. The same seed gives the same
    model, bit for bit, on x's device.
    """
    raise NotImplementedError("vae")


def iwae_bound(log_w: torch.Tensor) -> torch.Tensor:
    """log (1/S) sum_s w_s, w = p(x, z) / q(z | x), from the logs of the weights (Burda et al. 2016, eq. 8).

    log_w (S, B). Returns (B,). Its gradient gives each sample its share w_s / sum w of the weights.
    """
    raise NotImplementedError("vae")


def interpolate(model: VAE, x0: torch.Tensor, x1: torch.Tensor, n: int) -> torch.Tensor:
    """n images from x0 to x1, decoded from evenly spaced points of the straight line between their posterior means.

    x0, x1 (X,). Returns (n, X), in [0, 1]; the first row decodes the mean of x0, the last one that of x1.
    """
    raise NotImplementedError("vae")
