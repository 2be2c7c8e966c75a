"""PPO: advantages over cut episodes, the clipped loss, an actor-critic with its minibatches, training on CartPole.

Axes: T steps of a rollout, N environments, B samples of a minibatch.

Choices. Actor and critic share nothing, so that no coefficient has to balance them. Layers start orthogonal, the last
one of the actor small: the first policy is nearly uniform. The environments reset within the step (SAME_STEP), so that
every step is a real one, and the final observation comes in `info`. The learning rate falls to zero, which keeps the
last policy from being the one of a bad moment. Advantages are normalised for each minibatch.

Follow-up questions

Why lam, between one-step errors and whole returns? lam = 0 trusts the critic: little variance, and all of its bias.
lam = 1 does not use it but as a baseline: no bias, and the variance of whole returns. 0.95 keeps errors of some twenty
steps.

Why is the smaller of the two terms taken, and not the clipped one? The clipped one alone has no gradient outside of the
interval, also where the policy went the wrong way: a good action that has become rarer could not be mended. The minimum
is a lower bound that only ever removes what would be gained by going too far.

What happens if truncated episodes are taken for terminated ones? On CartPole the best policies are truncated at 500, so
the critic learns that the state at which they are cut is worth nothing. It cannot see the clock: the same states come
in the middle of episodes, so their values are noise, and good policies are unlearned.

Why several epochs over the same rollout, and how would you see that there are too many? The ratio corrects for a policy
that has moved a little, so the samples pay more than once. approx_kl and clip_fraction grow with the epochs; above some
0.02 and 0.3 the samples no longer speak of the policy that is trained. Stopping an epoch early at a given KL is usual.

What would you change for a large language model? The episode is one answer, its steps are tokens, and the reward comes
at the end, less a KL to the model that it began as, token by token. There is no environment to step, generation is the
cost, and a group's mean reward can take the critic's place (GRPO).
"""

from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import nn

ENVS, STEPS = 16, 64  # environments side by side, and the steps of each between two updates
EPOCHS, BATCH = 8, 256
GAMMA, LAMBDA = 0.98, 0.9
LEARNING_RATE, MAX_NORM = 1e-3, 0.5
ENTROPY = 0.0  # a bonus keeps the drawn actions spread, and the greedy ones are what counts
HIDDEN = 64


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
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values  # (T, N)
    runs_on = (~(terminated | truncated)).to(deltas.dtype)
    advantages = torch.empty_like(deltas)
    running = torch.zeros_like(deltas[0])  # (N,)
    for t in reversed(range(len(deltas))):
        running = deltas[t] + gamma * lam * runs_on[t] * running
        advantages[t] = running
    return advantages, advantages + values


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
    old_logp, advantages, old_values, returns = (x.detach() for x in (old_logp, advantages, old_values, returns))
    if normalize:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = logp - old_logp
    ratio = log_ratio.exp()
    policy_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    errors = (values - returns).square()
    if value_clip is not None:
        near = old_values + (values - old_values).clamp(-value_clip, value_clip)
        errors = torch.maximum(errors, (near - returns).square())
    value_loss = 0.5 * errors.mean()
    stats = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy.mean(),
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > clip).to(ratio.dtype).mean(),
    }
    loss = policy_loss + value_coef * value_loss - entropy_coef * entropy.mean()
    return loss, {name: x.item() for name, x in stats.items()}


class ActorCritic(nn.Module):
    """A policy over n_actions and a value of the state, each a network with two layers of `hidden` tanh units."""

    def __init__(self, obs_dim: int, n_actions: int, hidden: int) -> None:
        super().__init__()
        self.actor = _network(obs_dim, hidden, n_actions, gain=0.01)
        self.critic = _network(obs_dim, hidden, 1, gain=1.0)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """obs (N, obs_dim) -> logits (N, n_actions) and value (N,)."""
        return self.actor(obs), self.critic(obs).squeeze(-1)

    def act(
        self, obs: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """obs (N, obs_dim) -> for each row an action (N,) drawn from softmax(logits), its logp (N,) and the value (N,).

        The generator is what draws, if there is one.
        """
        logits, value = self(obs)
        logp = logits.log_softmax(-1)
        action = torch.multinomial(logp.exp(), 1, generator=generator)  # (N, 1)
        return action.squeeze(-1), logp.gather(-1, action).squeeze(-1), value


def minibatches(n: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """One epoch: the indices 0 to n - 1 in an order drawn from the generator, `size` at a time, the last ones fewer."""
    yield from torch.randperm(n, generator=generator, device=generator.device).split(size)


def train(make_env: Callable[[], gymnasium.Env], *, total_steps: int, seed: int) -> ActorCritic:
    """Trains by PPO (Schulman et al. 2017, algorithm 1) with the details of Huang et al. 2022.

    make_env() returns one environment with a vector for an observation and a number for an action. All environments
    together take at most total_steps. The same seed gives the same policy. Solves CartPole-v1 in 150,000 steps.
    """
    generator = torch.Generator().manual_seed(seed)
    envs = SyncVectorEnv([make_env] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ActorCritic(envs.single_observation_space.shape[0], int(envs.single_action_space.n), HIDDEN)
    optimizer = torch.optim.Adam(model.parameters(), eps=1e-5)
    obs = _tensor(envs.reset(seed=seed)[0])
    updates = total_steps // (ENVS * STEPS)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / updates)
        rollout, obs = _collect(model, envs, obs, generator)
        _improve(model, optimizer, rollout, generator)
    envs.close()
    return model


@torch.no_grad()
def _collect(
    model: ActorCritic, envs: VectorEnv, obs: torch.Tensor, generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """STEPS steps of every environment, by name (STEPS * ENVS, ...), and the observations after them."""
    rows = []
    for _ in range(STEPS):
        action, logp, value = model.act(obs, generator)
        after, reward, terminated, truncated, info = envs.step(action.numpy())
        final = after.copy()
        for i in np.flatnonzero(terminated | truncated):
            final[i] = info["final_obs"][i]
        ends = torch.as_tensor(terminated.copy()), torch.as_tensor(truncated.copy())
        rows.append((obs, action, logp, value, _tensor(reward), _tensor(final), *ends))
        obs = _tensor(after)
    all_obs, action, logp, value, reward, final, *ends = (torch.stack(column) for column in zip(*rows, strict=True))
    next_values = model(final)[1]  # (STEPS, ENVS)
    advantages, returns = gae(reward, value, next_values, *ends, gamma=GAMMA, lam=LAMBDA)
    kept = {"obs": all_obs, "action": action, "logp": logp, "value": value, "adv": advantages, "ret": returns}
    return {name: x.flatten(0, 1) for name, x in kept.items()}, obs


def _improve(
    model: ActorCritic, optimizer: torch.optim.Optimizer, rollout: dict[str, torch.Tensor], generator: torch.Generator
) -> None:
    """EPOCHS epochs of minibatches over one rollout."""
    for _ in range(EPOCHS):
        for index in minibatches(ENVS * STEPS, BATCH, generator):
            b = {name: x[index] for name, x in rollout.items()}
            logits, values = model(b["obs"])
            logp = logits.log_softmax(-1)
            entropy = -(logp.exp() * logp).sum(-1)  # (BATCH,)
            chosen = logp.gather(-1, b["action"][:, None]).squeeze(-1)
            arguments = (chosen, b["logp"], b["adv"], values, b["value"], b["ret"], entropy)
            loss, _ = ppo_loss(*arguments, entropy_coef=ENTROPY)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()


def _network(inputs: int, hidden: int, outputs: int, *, gain: float) -> nn.Sequential:
    """Two hidden tanh layers; orthogonal weights, the last layer's scaled by gain (Huang et al. 2022, detail 2)."""
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, outputs)]
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def _tensor(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float32)
