"""Environments first, each column by itself: advantages by doubling; the loss through log space and einsum."""

from collections import OrderedDict
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Advantages(NamedTuple):
    advantages: jax.Array
    returns: jax.Array


def one_environment(r, v, v_next, term, trunc, discount, decay):
    error = r + discount * v_next * (1 - term.astype(r.dtype)) - v
    weight = decay * jnp.logical_not(jnp.logical_or(term, trunc)).astype(r.dtype)
    T, hop = r.size, 1
    while hop < T:
        error = error + weight * jnp.pad(error[hop:], (0, hop))
        weight = weight * jnp.pad(weight[hop:], (0, hop))
        hop *= 2
    return error


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    found = jax.vmap(one_environment, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)(
        rewards, values, next_values, terminated, truncated, gamma, gamma * lam
    )
    return Advantages(found, jnp.add(found, values))


def ppo_loss(
    logp,
    old_logp,
    advantages,
    values,
    old_values,
    returns,
    entropy,
    *,
    clip=0.2,
    value_coef=0.5,
    entropy_coef=0.01,
    value_clip=None,
    normalize=True,
):
    old_logp, advantages, old_values, returns = (
        jax.lax.stop_gradient(x) for x in (old_logp, advantages, old_values, returns)
    )
    share = jnp.full_like(logp, 1 / logp.shape[0])  # (B,)
    if normalize:
        advantages = (advantages - advantages.mean()) / (jnp.sqrt(jnp.var(advantages, ddof=1)) + 1e-8)
    log_ratio = logp - old_logp
    high, low = jnp.log1p(clip), jnp.log(max(1 - clip, 0.0))
    held = jnp.select([advantages > 0], [jnp.minimum(log_ratio, high)], jnp.maximum(log_ratio, low))
    policy_loss = -jnp.einsum("b,b,b->", share, jnp.exp(held), advantages)
    off = values - returns
    if value_clip is not None:
        low_value, high_value = old_values - value_clip, old_values + value_clip
        near = jnp.where(values < low_value, low_value, jnp.where(values > high_value, high_value, values))
        off = jnp.where(jnp.abs(near - returns) > jnp.abs(off), near - returns, off)
    value_loss = jnp.einsum("b,b,b->", share, off, off) / 2.0
    bonus = share @ entropy
    ratio = jnp.exp(log_ratio)
    stats = OrderedDict(
        clip_fraction=jnp.count_nonzero(jnp.abs(ratio - 1) > clip) / ratio.size,
        approx_kl=share @ (ratio - 1.0 - log_ratio),
        entropy=bonus,
        policy_loss=policy_loss,
        value_loss=value_loss,
    )
    return policy_loss - entropy_coef * bonus + value_coef * value_loss, stats
