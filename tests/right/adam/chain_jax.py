"""In the manner of optax: small transformations chained, the state a tuple of theirs, with a registered dataclass."""

from dataclasses import dataclass
from functools import partial, reduce

import jax
import jax.numpy as jnp


@partial(jax.jit, static_argnames=("lr", "beta1", "beta2", "eps", "weight_decay"))
def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * p
    m, v = m + (1 - beta1) * (g - m), v + (1 - beta2) * (g**2 - v)
    scale = jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
    size = jnp.sqrt(v) + (eps * jnp.sqrt(1 - beta2**t)).astype(p.dtype)
    return p - (lr * scale).astype(p.dtype) * m / size, m, v


@partial(jax.tree_util.register_dataclass, data_fields=["t", "moments"], meta_fields=[])
@dataclass(frozen=True)
class Moments:
    t: jax.Array
    moments: dict


def scale_by_adam(beta1, beta2, eps):
    def init(params):
        return Moments(jnp.int32(0), {k: jax.tree.map(jnp.zeros_like, params) for k in ("first", "second")})

    def update(grads, state, params):
        del params
        t = optax_count(state.t)
        first = jax.tree.map(lambda g, m: (1 - beta1) * g + beta1 * m, grads, state.moments["first"])
        second = jax.tree.map(lambda g, v: (1 - beta2) * (g * g) + beta2 * v, grads, state.moments["second"])
        unbias = lambda tree, beta: jax.tree.map(lambda x: x / (1 - beta**t).astype(x.dtype), tree)  # noqa: E731
        out = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), unbias(first, beta1), unbias(second, beta2))
        return out, Moments(t, {"first": first, "second": second})

    return init, update


def optax_count(t):
    return jnp.where(t < jnp.iinfo(jnp.int32).max, t + 1, t)


def add_decay(weight_decay):
    return lambda params: (), lambda grads, state, params: (
        jax.tree.map(lambda g, p: g + weight_decay * p, grads, params),
        state,
    )


def scale(factor):
    return lambda params: (), lambda grads, state, params: (jax.tree.map(lambda g: factor * g, grads), state)


def chain(*parts):
    def init(params):
        return tuple(first(params) for first, _ in parts)

    def update(grads, state, params):
        def one(carry, both):
            (_, step), kept = both
            out, new = step(carry[0], kept, params)
            return out, (*carry[1], new)

        return reduce(one, zip(parts, state, strict=True), (grads, ()))

    return init, update


def adam(lr, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    return chain(add_decay(weight_decay), scale_by_adam(beta1, beta2, eps), scale(-lr))


def adamw(lr, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2):
    return chain(scale_by_adam(beta1, beta2, eps), add_decay(weight_decay), scale(-lr))
