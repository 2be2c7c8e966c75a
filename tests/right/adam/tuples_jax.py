"""State as a dict of lists of leaves, the count as a Python-free array, decay through a transformation."""

import jax
import jax.numpy as jnp


def adam_step(p, g, m, v, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * jnp.square(g)
    bias1, bias2 = 1 - jnp.power(jnp.asarray(beta1, p.dtype), t), 1 - jnp.power(jnp.asarray(beta2, p.dtype), t)
    return p - lr * (m / bias1) / (jnp.sqrt(v / bias2) + eps), m, v


def _make(lr, beta1, beta2, eps, weight_decay, decoupled):
    def init(params):
        zeros = [jnp.zeros_like(x) for x in jax.tree.leaves(params)]
        return {"count": jnp.zeros([], jnp.int32), "mu": zeros, "nu": list(zeros)}

    def update(grads, state, params):
        leaves, tree = jax.tree.flatten(grads)
        weights = jax.tree.leaves(params)
        count = state["count"] + 1
        out, mu, nu = [], [], []
        for g, p, m, v in zip(leaves, weights, state["mu"], state["nu"], strict=True):
            if not decoupled:
                g = g + weight_decay * p
            m = (1 - beta1) * g + beta1 * m
            v = (1 - beta2) * g**2 + beta2 * v
            t = count.astype(p.dtype)
            step = (m / (1 - beta1**t)) / (jnp.sqrt(v / (1 - beta2**t)) + eps)
            out.append(-lr * (step + (weight_decay * p if decoupled else 0)))
            mu.append(m)
            nu.append(v)
        return jax.tree.unflatten(tree, out), {"count": count, "mu": mu, "nu": nu}

    return init, update


def adam(lr, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0):
    return _make(lr, beta1, beta2, eps, weight_decay, False)


def adamw(lr, *, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=1e-2):
    return _make(lr, beta1, beta2, eps, weight_decay, True)
