"""All parameters in one flat vector with its shapes beside it, einsum, softplus by logaddexp, Adam on the vector."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def reparameterize(mu, logvar, eps):
    return jnp.exp(0.5 * logvar) * eps + mu


def kl_standard_normal(mu, logvar):
    return (mu**2 + jnp.expm1(logvar) - logvar).sum(axis=-1) / 2


def bernoulli_log_prob(x, logits):
    return (x * -jnp.logaddexp(0, -logits) - (1 - x) * jnp.logaddexp(0, logits)).sum(axis=-1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


def init(key, x_dim, z_dim, hidden):
    make = jax.nn.initializers.glorot_normal()
    keys = jax.random.split(key, 5)
    return {
        "encoder": [make(keys[0], (hidden, x_dim)), jnp.zeros((hidden, 1))],
        "heads": [make(keys[1], (z_dim, hidden)), make(keys[2], (z_dim, hidden)), jnp.zeros((2, z_dim))],
        "decoder": [make(keys[3], (hidden, z_dim)), jnp.zeros((hidden,)), make(keys[4], (x_dim, hidden))],
        "pixels": jnp.zeros((x_dim,)),
    }


def encode(params, x):
    weights, bias = params["encoder"]
    h = jax.nn.swish(weights @ x.T + bias)  # (H, B)
    to_mu, to_logvar, biases = params["heads"]
    return (to_mu @ h).T + biases[0], (to_logvar @ h).T + biases[1]


def decode(params, z):
    first, bias, second = params["decoder"]
    h = jax.nn.swish(jnp.einsum("hz,bz->bh", first, z) + bias)
    return jnp.einsum("xh,bh->bx", second, h) + params["pixels"]


def loss(params, key, x):
    mu, logvar = encode(params, x)
    z = reparameterize(mu, logvar, jax.random.normal(key, mu.shape).astype(mu.dtype))
    return jnp.negative(elbo(x, decode(params, z), mu, logvar)).mean()


@partial(jax.jit, static_argnames=("unravel", "batch_size"))
def update(state, key, x, rate, *, unravel, batch_size):
    theta, m, v, t = state
    rows, noise = jax.random.split(key)
    batch = jax.random.permutation(rows, x)[:batch_size]
    g = jax.grad(lambda flat: loss(unravel(flat), noise, batch))(theta)
    t = t + 1
    m = m + (g - m) * 0.1
    v = v + (g * g - v) * 0.001
    theta = theta - rate * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta, m, v, t


def fit(key, x, *, z_dim, hidden, steps, batch_size, lr):
    theta, unravel = ravel_pytree(init(jax.random.fold_in(key, 0), x.shape[1], z_dim, hidden))
    state = (theta, jnp.zeros_like(theta), jnp.zeros_like(theta), 0.0)
    for i in range(steps):
        state = update(state, jax.random.fold_in(key, i + 1), x, lr, unravel=unravel, batch_size=batch_size)
    return unravel(state[0])


def iwae_bound(log_w):
    shares = jax.nn.log_softmax(log_w, axis=0)  # log_w less the log of the sum, in each row
    return jnp.mean(log_w - shares, axis=0) - math.log(len(log_w))


def interpolate(params, x0, x1, n):
    a, b = encode(params, jnp.stack([x0, x1]))[0]
    return decode(params, jnp.linspace(a, b, n))
