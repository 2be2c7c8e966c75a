"""Adam and AdamW as pure functions: one step, then (init, update) pairs over pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


Optimizer = tuple[Callable[..., Any], Callable[..., Any]]


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
    raise NotImplementedError("adam")


def adam(
    lr: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizer:
    """Adam (Kingma & Ba 2015, algorithm 1) over pytrees: (init, update).

    init(params) -> state. update(grads, state, params) -> (updates, state), updates to be added to params.
    weight_decay: L2, added to the gradient. Both are pure, and may be compiled.
    """
    raise NotImplementedError("adam")


def adamw(
    lr: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) over pytrees: (init, update), the decay multiplied by lr.

    As `adam`, but p <- p (1 - lr weight_decay) before the step, instead of L2 in the gradient.
    """
    raise NotImplementedError("adam")
