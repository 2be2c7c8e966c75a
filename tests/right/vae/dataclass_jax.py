"""Parameters in a registered dataclass."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass
class Params:
    w1: jax.Array
    w2: jax.Array
    w3: jax.Array
    w4: jax.Array
    b1: jax.Array
    b2: jax.Array
    b3: jax.Array
    b4: jax.Array


def reparameterize(mu, logvar, eps):
    return mu + jnp.exp(logvar / 2) * eps


def kl_standard_normal(mu, logvar):
    return 0.5 * jnp.sum(jnp.exp(logvar) - logvar - 1 + mu * mu, -1)


def bernoulli_log_prob(x, logits):
    return -jnp.sum(jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits))), -1)


def elbo(x, logits, mu, logvar, *, beta=1.0):
    return bernoulli_log_prob(x, logits) - beta * kl_standard_normal(mu, logvar)


def init(key, x_dim, z_dim, hidden):
    k = jax.random.split(key, 4)
    g = jax.nn.initializers.he_normal()
    return Params(
        g(k[0], (x_dim, hidden)),
        g(k[1], (hidden, 2 * z_dim)),
        g(k[2], (z_dim, hidden)),
        g(k[3], (hidden, x_dim)),
        jnp.zeros(hidden),
        jnp.zeros(2 * z_dim),
        jnp.zeros(hidden),
        jnp.zeros(x_dim),
    )


@jax.jit
def encode(p, x):
    return tuple(jnp.split(jax.nn.gelu(x @ p.w1 + p.b1) @ p.w2 + p.b2, 2, -1))


@jax.jit
def decode(p, z):
    return jax.nn.gelu(z @ p.w3 + p.b3) @ p.w4 + p.b4


def loss(params, key, x):
    mu, lv = encode(params, x)
    eps = jax.random.normal(key, mu.shape, mu.dtype)
    z = reparameterize(mu, lv, eps)
    kl = 0.5 * (z**2 - eps**2 - lv).sum(-1)
    return (kl - bernoulli_log_prob(x, decode(params, z))).sum()


def fit(key, x, *, z_dim, hidden, steps, batch_size, lr):
    a, b = jax.random.split(key)
    p = init(a, x.shape[1], z_dim, hidden)
    zero = jax.tree.map(jnp.zeros_like, p)

    def body(t, s):
        p, m, v, key = s
        key, k1, k2 = jax.random.split(key, 3)
        i = jax.random.choice(k1, len(x), (batch_size,))
        g = jax.grad(loss)(p, k2, x[i])
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        n = t + 1.0
        p = jax.tree.map(lambda p, m, v: p - lr * (m / (1 - 0.9**n)) / (jnp.sqrt(v / (1 - 0.999**n)) + 1e-08), p, m, v)
        return (p, m, v, key)

    return jax.jit(lambda s: jax.lax.fori_loop(0, steps, body, s))((p, zero, zero, b))[0]


def iwae_bound(log_w):
    top = jnp.max(log_w, 0)
    return top + jnp.log(jnp.sum(jnp.exp(log_w - top), 0)) - math.log(log_w.shape[0])


def interpolate(params, x0, x1, n):
    a, b = (encode(params, x0[None])[0], encode(params, x1[None])[0])
    t = jnp.arange(n)[:, None].astype(a.dtype) / (n - 1)
    return decode(params, a + t * (b - a))
