"""PPO: advantages over cut episodes, the clipped loss, an actor-critic with its minibatches, training on CartPole."""

from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float,
    lam: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A_t = delta_t + gamma lam A_t+1, delta_t = r_t + gamma V'_t - V_t (Schulman et al. 2016, equations 11, 12, 16).

    rewards, values, next_values (T, N), one floating dtype; next_values[t] is the value of the true next observation,
    the final one where an episode ended. terminated, truncated (T, N), bool: terminated, V' counts as 0; after either,
    A_t+1 does. Returns (advantages, returns), both (T, N), returns = advantages + values.
    """
    raise NotImplementedError("ppo")


def ppo_loss(
    logp: torch.Tensor,
    old_logp: torch.Tensor,
    advantages: torch.Tensor,
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    entropy: torch.Tensor,
    *,
    clip: float = 0.2,
    value_coef: float = 0.5,
    entropy_coef: float = 0.01,
    value_clip: float | None = None,
    normalize: bool = True,
) -> tuple[torch.Tensor, dict[str, float]]:
    """-mean(min(r A, clip(r, 1 - clip, 1 + clip) A)) + value_coef L_V - entropy_coef mean(H), r = exp(logp - old_logp).

    Schulman et al. 2017, equations 7 and 9. All tensors are (B,), one floating dtype. L_V is half the mean squared
    error of values; with value_clip, for each sample the larger of that and of the error of
    old_values + clip(values - old_values, -value_clip, value_clip). normalize: A becomes (A - mean) / (std + 1e-8), std
    with B - 1. No gradient flows into old_logp, advantages, old_values and returns.

    Returns the loss and stats, Python floats: policy_loss, value_loss (L_V), entropy (mean),
    approx_kl = mean((r - 1) - log r), clip_fraction = mean(|r - 1| > clip).
    """
    raise NotImplementedError("ppo")


class ActorCritic(nn.Module):
    """A policy over n_actions and a value of the state, each a network with two layers of `hidden` tanh units."""

    def __init__(self, obs_dim: int, n_actions: int, hidden: int) -> None:
        raise NotImplementedError("ppo")

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (N, obs_dim) -> logits (N, n_actions) and value (N,)."""
        raise NotImplementedError("ppo")

    def act(
        self, obs: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """obs (N, obs_dim) -> for each row an action (N,) drawn from softmax(logits), its logp (N,) and the value (N,).

        The generator is what draws, if there is one.
        """
        raise NotImplementedError("ppo")


def minibatches(n: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch: the indices 0 to n - 1 in an order drawn from the generator, `size` at a time, the last ones fewer."""
    raise NotImplementedError("ppo")


def train(make_env: Callable[[], gymnasium.Env], *, total_steps: int, seed: int) -> ActorCritic:
    """Trains by PPO (Schulman et al. 2017, algorithm 1) with the details of Huang et al. 2022.

    make_env() returns one environment with a vector for an observation and a number for an action. All environments
    together take at most total_steps. The same seed gives the same policy. Solves CartPole-v1 in 150,000 steps.
    """
    raise NotImplementedError("ppo")
