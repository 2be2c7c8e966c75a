"""A variational autoencoder in JAX: the draw, KL, likelihood and ELBO, functions over pytrees, the IWAE bound."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


Params = Any


def reparameterize(mu: jax.Array, logvar: jax.Array, eps: jax.Array) -> jax.Array:
    """z = mu + exp(logvar / 2) eps, a draw from N(mu, exp(logvar)) (Kingma & Welling 2014, section 2.4).

    mu, logvar, eps (B, Z), one floating dtype; eps standard normal. Returns (B, Z). mu and logvar get gradients.
    """
    raise NotImplementedError("vae")


def kl_standard_normal(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mu, exp(logvar)) || N(0, 1)) = sum (mu^2 + exp(logvar) - 1 - logvar) / 2 (Kingma & Welling 2014, App. B).

    mu, logvar (B, Z). Returns (B,), in nats, summed over the latent axis.
    """
    raise NotImplementedError("vae")


def bernoulli_log_prob(x: jax.Array, logits: jax.Array) -> jax.Array:
    """sum x log p + (1 - x) log(1 - p), p = sigmoid(logits) (Kingma & Welling 2014, App. C.1).

    x (B, X) in [0, 1], logits (B, X). Returns (B,), in nats, summed over the pixels. Finite for logits of 1e4.
    """
    raise NotImplementedError("vae")


def elbo(x: jax.Array, logits: jax.Array, mu: jax.Array, logvar: jax.Array, *, beta: float = 1.0) -> jax.Array:
    """log p(x | z) - beta KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 10; beta: Higgins et al. 2017).

    x, logits (B, X), mu, logvar (B, Z). Returns (B,), in nats.
    """
    raise NotImplementedError("vae")


def init(key: jax.Array, x_dim: int, z_dim: int, hidden: int) -> Params:
    """The parameters of a VAE, a pytree: one hidden layer on either side (Kingma & Welling 2014).

    x_dim: pixels X. z_dim: latents Z. hidden: width of the hidden layers.
    """
    raise NotImplementedError("vae")


def encode(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The posterior of each image: x (B, X) -> (mu, logvar), each (B, Z)."""
    raise NotImplementedError("vae")


def decode(params: Params, z: jax.Array) -> jax.Array:
    """The logits of the pixels: z (B, Z) -> (B, X)."""
    raise NotImplementedError("vae")


def loss(params: Params, key: jax.Array, x: jax.Array) -> jax.Array:
    """The mean over the batch of -ELBO, with one draw from each posterior (Kingma & Welling 2014, eq. 8).

    x (B, X) in [0, 1]. key: what draws. Returns a scalar, in nats, differentiable in params.
    """
    raise NotImplementedError("vae")


def fit(key: jax.Array, x: jax.Array, *, z_dim: int, hidden: int, steps: int, batch_size: int, lr: float) -> Params:
    """The parameters of a VAE trained by Adam on `loss` over random batches (Kingma & Welling 2014, algorithm 1).

    x (N, X), float32 in [0, 1]. steps: updates. batch_size: images an update. lr: Adam's. The same key gives the same
    parameters, bit for bit.
    """
    raise NotImplementedError("vae")


def iwae_bound(log_w: jax.Array) -> jax.Array:
    """log (1/S) sum_s w_s, w = p(x, z) / q(z | x), from the logs of the weights (Burda et al. 2016, eq. 8).

    log_w (S, B). Returns (B,). Its gradient gives each sample its share w_s / sum w of the weights.
    """
    raise NotImplementedError("vae")


def interpolate(params: Params, x0: jax.Array, x1: jax.Array, n: int) -> jax.Array:
    """n images from x0 to x1, decoded from evenly spaced points of the straight line between their posterior means.

    x0, x1 (X,). Returns (n, X), in [0, 1]; the first row decodes the mean of x0, the last one that of x1.
    """
    raise NotImplementedError("vae")
