"""Adam and AdamW as pure functions: one step, then (init, update) pairs over pytrees.

Choices. The state is a NamedTuple, a pytree already. `update` gives what is to be added to the parameters, so that it
composes with others that do the same. The step count is an array: under jit one program serves every step.

The follow-up questions are answered in the PyTorch solution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Optimizer = tuple[Callable[..., Any], Callable[..., Any]]


class _State(NamedTuple):
    count: jax.Array
    m: Any
    v: Any


def adam_step(
    p: jax.Array,
    g: jax.Array,
    m: jax.Array,
    v: jax.Array,
    t: int,
    *,
    lr: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """p - lr m_hat / (sqrt(v_hat) + eps) and the new moments (Kingma & Ba 2015, algorithm 1).

    p, g, m, v: parameter, gradient, first and second moment, of one shape and floating dtype. t: the number of this
    step, from 1. weight_decay: L2, added to the gradient. Returns (p, m, v).
    """
    g = g + weight_decay * p
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return p - lr * m_hat / (jnp.sqrt(v_hat) + eps), m, v


def adam(
    lr: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1) over pytrees: (init, update).

    init(params) -> state. update(grads, state, params) -> (updates, state), updates to be added to params.
    weight_decay: L2, added to the gradient. Both are pure, and may be compiled.
    """

    def update(grads: Any, state: _State, params: Any) -> tuple[Any, _State]:
        grads = jax.tree.map(lambda g, p: g + weight_decay * p, grads, params)
        directions, state = _direction(grads, state, beta1, beta2, eps)
        return jax.tree.map(lambda d: -lr * d, directions), state

    return _init, update


def adamw(
    lr: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) over pytrees: (init, update), the decay multiplied by lr.

    As `adam`, but p <- p (1 - lr weight_decay) before the step, instead of L2 in the gradient.
    """

    def update(grads: Any, state: _State, params: Any) -> tuple[Any, _State]:
        directions, state = _direction(grads, state, beta1, beta2, eps)
        return jax.tree.map(lambda d, p: -lr * (d + weight_decay * p), directions, params), state

    return _init, update


def _init(params: Any) -> _State:
    zeros = jax.tree.map(jnp.zeros_like, params)
    return _State(jnp.zeros((), jnp.int32), zeros, zeros)


def _direction(grads: Any, state: _State, beta1: float, beta2: float, eps: float) -> tuple[Any, _State]:
    """m_hat / (sqrt(v_hat) + eps), and the state after this step."""
    t = state.count + 1
    m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state.m, grads)
    v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.v, grads)

    def one(m: jax.Array, v: jax.Array) -> jax.Array:
        m_hat = m / (1 - beta1**t).astype(m.dtype)
        v_hat = v / (1 - beta2**t).astype(v.dtype)
        return m_hat / (jnp.sqrt(v_hat) + eps)

    return jax.tree.map(one, m, v), _State(t, m, v)
