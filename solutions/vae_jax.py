"""A variational autoencoder in JAX: the draw, KL, likelihood and ELBO, functions over pytrees, the IWAE bound.

Axes: B batch, S samples, X pixels, Z latent width. Logarithms are natural, so every bound is in nats.

Choices. As in PyTorch's solution: log variances, and the likelihood from logits. The parameters are a dict of layers,
each a pair of weight and bias. All of training is one `lax.scan` under `jit`: it compiles once and no step returns
to Python. Adam stands here in six lines, since JAX has no optimizer of its own.

Follow-up questions: the answers stand in `vae.py`. Two more for JAX.

Why does `loss` take a key? Nothing else may decide its draw: the same key gives the same eps, so the loss is a smooth
function of the parameters that `jax.grad` can differentiate, and finite differences can check.

Why split the key at each step, and not use it again? The same key gives the same numbers. Used twice, it ties the
batches to the noise, or every step to the last one.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Params = Any


def reparameterize(mu: jax.Array, logvar: jax.Array, eps: jax.Array) -> jax.Array:
    """z = mu + exp(logvar / 2) eps, a draw from N(mu, exp(logvar)) (Kingma & Welling 2014, section 2.4).

    mu, logvar, eps (B, Z), one floating dtype; eps standard normal. Returns (B, Z). mu and logvar get gradients.
    """
    return mu + jnp.exp(0.5 * logvar) * eps


def kl_standard_normal(mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """KL(N(mu, exp(logvar)) || N(0, 1)) = sum (mu^2 + exp(logvar) - 1 - logvar) / 2 (Kingma & Welling 2014, App. B).

    mu, logvar (B, Z). Returns (B,), in nats, summed over the latent axis.
    """
    return 0.5 * (jnp.square(mu) + jnp.exp(logvar) - 1 - logvar).sum(-1)


def bernoulli_log_prob(x: jax.Array, logits: jax.Array) -> jax.Array:
    """sum x log p + (1 - x) log(1 - p), p = sigmoid(logits) (Kingma & Welling 2014, App. C.1).

    x (B, X) in [0, 1], logits (B, X). Returns (B,), in nats, summed over the pixels. Finite for logits of 1e4.
    """
    return (x * logits - jax.nn.softplus(logits)).sum(-1)


def elbo(x: jax.Array, logits: jax.Array, mu: jax.Array, logvar: jax.Array, *, beta: float = 1.0) -> jax.Array:
    """log p(x | z) - beta KL(q(z | x) || p(z)) (Kingma & Welling 2014, eq. 10; beta: Higgins et al. 2017).

    x, logits (B, X), mu, logvar (B, Z). Returns (B,), in nats.
    """
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


def init(key: jax.Array, x_dim: int, z_dim: int, hidden: int) -> Params:
    """The parameters of a VAE, a pytree: one hidden layer on either side (Kingma & Welling 2014).

    x_dim: pixels X. z_dim: latents Z. hidden: width of the hidden layers.
    """
    sizes = {"encode_1": (x_dim, hidden), "encode_2": (hidden, 2 * z_dim)}
    sizes |= {"decode_1": (z_dim, hidden), "decode_2": (hidden, x_dim)}
    keys = jax.random.split(key, len(sizes))
    return {name: _layer(k, *size) for k, (name, size) in zip(keys, sizes.items(), strict=True)}


def encode(params: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The posterior of each image: x (B, X) -> (mu, logvar), each (B, Z)."""
    hidden = jax.nn.relu(_affine(params["encode_1"], x))
    mu, logvar = jnp.split(_affine(params["encode_2"], hidden), 2, axis=-1)
    return mu, logvar


def decode(params: Params, z: jax.Array) -> jax.Array:
    """The logits of the pixels: z (B, Z) -> (B, X)."""
    hidden = jax.nn.relu(_affine(params["decode_1"], z))
    return _affine(params["decode_2"], hidden)


def loss(params: Params, key: jax.Array, x: jax.Array) -> jax.Array:
    """The mean over the batch of -ELBO, with one draw from each posterior (Kingma & Welling 2014, eq. 8).

    x (B, X) in [0, 1]. key: what draws. Returns a scalar, in nats, differentiable in params.
    """
    mu, logvar = encode(params, x)
    eps = jax.random.normal(key, mu.shape, mu.dtype)
    logits = decode(params, reparameterize(mu, logvar, eps))
    return -elbo(x, logits, mu, logvar).mean()


def fit(key: jax.Array, x: jax.Array, *, z_dim: int, hidden: int, steps: int, batch_size: int, lr: float) -> Params:
    """The parameters of a VAE trained by Adam on `loss` over random batches (Kingma & Welling 2014, algorithm 1).

    x (N, X), float32 in [0, 1]. steps: updates. batch_size: images an update. lr: Adam's. The same key gives the same
    parameters, bit for bit.
    """
    start, training = jax.random.split(key)
    params = init(start, x.shape[1], z_dim, hidden)
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(x: jax.Array, state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        params, m, v = state
        t, key = inputs
        choosing, drawing = jax.random.split(key)
        batch = x[jax.random.randint(choosing, (batch_size,), 0, len(x))]  # (B, X)
        grads = jax.grad(loss)(params, drawing, batch)
        return _adam(params, grads, m, v, t, lr), None

    times = (jnp.arange(1, steps + 1), jax.random.split(training, steps))
    train = jax.jit(lambda x, state, times: jax.lax.scan(partial(step, x), state, times))
    (params, _, _), _ = train(x, (params, zeros, zeros), times)
    return params


def iwae_bound(log_w: jax.Array) -> jax.Array:
    """log (1/S) sum_s w_s, w = p(x, z) / q(z | x), from the logs of the weights (Burda et al. 2016, eq. 8).

    log_w (S, B). Returns (B,). Its gradient gives each sample its share w_s / sum w of the weights.
    """
    top = jax.lax.stop_gradient(log_w).max(0)  # (B,)
    return top + jnp.log(jnp.exp(log_w - top).mean(0))


def interpolate(params: Params, x0: jax.Array, x1: jax.Array, n: int) -> jax.Array:
    """n images from x0 to x1, decoded from evenly spaced points of the straight line between their posterior means.

    x0, x1 (X,). Returns (n, X), in [0, 1]; the first row decodes the mean of x0, the last one that of x1.
    """
    ends, _ = encode(params, jnp.stack([x0, x1]))  # (2, Z)
    t = jnp.linspace(0, 1, n, dtype=ends.dtype)[:, None]
    line = (1 - t) * ends[0] + t * ends[1]  # (n, Z)
    return jax.nn.sigmoid(decode(params, line))


def _layer(key: jax.Array, width_in: int, width_out: int) -> tuple[jax.Array, jax.Array]:
    scale = (2 / width_in) ** 0.5
    return scale * jax.random.normal(key, (width_in, width_out)), jnp.zeros(width_out)


def _affine(layer: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    weight, bias = layer
    return x @ weight + bias


def _adam(
    params: Params, grads: Params, m: Params, v: Params, t: jax.Array, lr: float
) -> tuple[Params, Params, Params]:
    """One step of Adam with its usual betas (Kingma & Ba 2015, algorithm 1)."""
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    rate = lr * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v), m, v
