"""Parameters in named tuples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random


class P(NamedTuple):
    enc: list
    dec: list


def reparameterize(mu, logvar, eps):
    return mu + jnp.sqrt(jnp.exp(logvar)) * eps


def kl_standard_normal(mu, logvar):
    return -0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar), axis=1)


def bernoulli_log_prob(x, logits):
    return jnp.sum(x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits), -1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


def mlp(key, sizes):
    ks = random.split(key, len(sizes) - 1)
    return [
        {"w": random.uniform(k, (i, o), minval=-(i ** (-0.5)), maxval=i ** (-0.5)), "b": jnp.zeros((o,))}
        for k, i, o in zip(ks, sizes[:-1], sizes[1:], strict=False)
    ]


def run(layers, x):
    for l in layers[:-1]:
        x = jnp.tanh(x @ l["w"] + l["b"])
    return x @ layers[-1]["w"] + layers[-1]["b"]


def init(key, x_dim, z_dim, hidden):
    a, b = random.split(key)
    return P(mlp(a, [x_dim, hidden, hidden, 2 * z_dim]), mlp(b, [z_dim, hidden, hidden, x_dim]))


def encode(params, x):
    o = run(params.enc, x)
    z = o.shape[-1] // 2
    return (o[..., :z], o[..., z:])


def decode(params, z):
    return run(params.dec, z)


def loss(params, key, x):

    def one(k, x):
        mu, lv = encode(params, x)
        eps = random.normal(k, mu.shape, dtype=mu.dtype)
        l = decode(params, mu + jnp.exp(lv / 2) * eps)
        return -elbo(x[None], l[None], mu[None], lv[None])[0]

    return jnp.mean(jax.vmap(one)(random.split(key, x.shape[0]), x))


def fit(key, x, *, z_dim, hidden, steps, batch_size, lr):
    key, k = random.split(key)
    params = init(k, x.shape[1], z_dim, hidden)
    m = v = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(params, m, v, t, key, b):
        g = jax.grad(loss)(params, key, b)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
        return (
            jax.tree.map(
                lambda p, m, v: p - lr * (m / (1 - 0.9**t)) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-08), params, m, v
            ),
            m,
            v,
        )

    n = len(x)
    t = 0
    while t < steps:
        key, k = random.split(key)
        order = random.permutation(k, n)
        for i in range(0, n - batch_size + 1, batch_size):
            if t == steps:
                break
            t += 1
            key, k = random.split(key)
            params, m, v = step(params, m, v, float(t), k, x[order[i : i + batch_size]])
    return params


def iwae_bound(log_w):
    return jax.nn.logsumexp(log_w, axis=0) - jnp.log(log_w.shape[0]).astype(log_w.dtype)


def interpolate(params, x0, x1, n):
    a, b = (encode(params, x0)[0], encode(params, x1)[0])
    return jax.vmap(lambda t: jax.nn.sigmoid(decode(params, (1 - t) * a + t * b)))(
        jnp.linspace(0, 1, n).astype(a.dtype)
    )
