"""PPO as pure functions: advantages over cut episodes, and the clipped loss."""

import jax
import jax.numpy as jnp


def gae(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    *,
    gamma: float,
    lam: float,
) -> tuple[jax.Array, jax.Array]:
    """A_t = delta_t + gamma lam A_t+1, delta_t = r_t + gamma V'_t - V_t (Schulman et al. 2016, equations 11, 12, 16).

    rewards, values, next_values (T, N), one floating dtype; next_values[t] is the value of the true next observation,
    the final one where an episode ended. terminated, truncated (T, N), bool: terminated, V' counts as 0; after either,
    A_t+1 does. Returns (advantages, returns), both (T, N), returns = advantages + values.
    """
    raise NotImplementedError("ppo")


def ppo_loss(
    logp: jax.Array,
    old_logp: jax.Array,
    advantages: jax.Array,
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    entropy: jax.Array,
    *,
    clip: float = 0.2,
    value_coef: float = 0.5,
    entropy_coef: float = 0.01,
    value_clip: float | None = None,
    normalize: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """-mean(min(r A, clip(r, 1 - clip, 1 + clip) A)) + value_coef L_V - entropy_coef mean(H), r = exp(logp - old_logp).

    Schulman et al. 2017, equations 7 and 9. All seven arrays are (B,), one floating dtype. L_V is half the mean squared
    error of values; with value_clip, for each sample the larger of that and of the error of
    old_values + clip(values - old_values, -value_clip, value_clip). normalize: A becomes (A - mean) / (std + 1e-8), std
    with B - 1. No gradient flows into old_logp, advantages, old_values and returns.

    Returns the loss and stats, arrays without axes: policy_loss, value_loss (L_V), entropy (mean),
    approx_kl = mean((r - 1) - log r), clip_fraction = mean(|r - 1| > clip).
    """
    raise NotImplementedError("ppo")
