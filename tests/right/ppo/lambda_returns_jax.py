"""Lambda-returns by a loop that is unrolled; the loss for one sample, mapped over the batch, with its own gradient."""

from functools import partial

import jax
from jax import lax, vmap
from jax import numpy as np


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    returns, later = [], next_values[-1]
    for t in range(rewards.shape[0] - 1, -1, -1):
        later = np.where(truncated[t], next_values[t], later)
        future = next_values[t] + lam * (later - next_values[t])
        later = rewards[t] + gamma * np.where(terminated[t], np.zeros_like(future), future)
        returns = [later, *returns]
    returns = np.stack(returns, axis=0)
    return [returns - values, returns]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def gain(change, advantage, clip):
    return forward(change, advantage, clip)[0]


def forward(change, advantage, clip):
    ratio = np.exp(change)
    bound = 1 + clip * np.sign(advantage)
    beyond = (ratio - bound) * np.sign(advantage) > 0
    out = np.where(beyond, bound, ratio) * advantage
    return out, np.where(beyond, 0, out)


def backward(clip, slope, upstream):
    return upstream * slope, np.zeros_like(slope)


gain.defvjp(forward, backward)


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
    if normalize:
        apart = advantages - np.mean(advantages)
        advantages = apart / (np.sqrt(np.sum(apart * apart) / (apart.shape[0] - 1)) + 1e-8)
    advantages = lax.stop_gradient(advantages)
    old_logp, old_values, returns = lax.stop_gradient((old_logp, old_values, returns))

    def square(value, old, target):
        near = value if value_clip is None else lax.clamp(old - value_clip, value, old + value_clip)
        return lax.max((value - target) ** 2, (near - target) ** 2)

    change = logp - old_logp
    moved = np.expm1(change)
    parts = {
        "policy_loss": -np.mean(vmap(gain, (0, 0, None))(change, advantages, clip)),
        "value_loss": np.mean(vmap(square)(values, old_values, returns)) * 0.5,
        "entropy": np.mean(entropy),
    }
    loss = np.dot(np.array([1, value_coef, -entropy_coef], logp.dtype), np.stack(list(parts.values())))
    return loss, {**parts, "approx_kl": np.mean(moved - change), "clip_fraction": np.mean(np.abs(moved) > clip)}
