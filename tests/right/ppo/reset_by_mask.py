"""One trunk with two heads; the environments never reset by themselves, but by a mask; settings in a dataclass."""

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Targets(NamedTuple):
    advantages: torch.Tensor
    returns: torch.Tensor


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    steps = zip(*(x.unbind(0) for x in (rewards, values, next_values, terminated, truncated)), strict=True)
    found, later = [], None
    for r, v, v_next, term, trunc in reversed(list(steps)):
        delta = r + gamma * torch.where(term, 0.0, v_next) - v
        later = delta if later is None else torch.where(term | trunc, delta, delta + gamma * lam * later)
        found.insert(0, later)
    advantages = torch.stack(found)
    return Targets(advantages, advantages + values)


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
    weight = advantages.detach()
    if normalize:
        std, mean = torch.std_mean(weight, unbiased=True)
        weight = weight.sub(mean).div(std.add(1e-8))
    change = logp.sub(old_logp.detach())
    ratio = change.exp()
    surrogate = torch.stack([ratio * weight, torch.clamp(ratio, 1.0 - clip, 1.0 + clip) * weight])
    policy_loss = surrogate.amin(0).mean().neg()
    target = returns.detach()
    squares = F.mse_loss(values, target, reduction="none")
    if value_clip is not None:
        old = old_values.detach()
        held = torch.minimum(torch.maximum(values, old - value_clip), old + value_clip)
        squares = torch.where((held - target).abs() > (values - target).abs(), (held - target) ** 2, squares)
    value_loss = squares.mean() / 2
    bonus = entropy.mean()
    with torch.no_grad():
        stats = {
            "policy_loss": float(policy_loss),
            "value_loss": float(value_loss),
            "entropy": float(bonus),
            "approx_kl": float(torch.mean((ratio - 1.0) - change)),
            "clip_fraction": torch.count_nonzero(torch.abs(ratio - 1.0) > clip).item() / ratio.numel(),
        }
    return torch.add(policy_loss, value_loss, alpha=value_coef) - entropy_coef * bonus, stats


class ActorCritic(nn.Module):
    def __init__(self, obs_dim, n_actions, hidden):
        super().__init__()
        self.trunk = nn.ModuleList([nn.Linear(obs_dim, hidden), nn.Linear(hidden, hidden)])
        self.heads = nn.Linear(hidden, n_actions + 1)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.zeros_(self.heads.bias)

    def forward(self, obs):
        for layer in self.trunk:
            obs = layer(obs).tanh()
        out = self.heads(obs)
        return out[:, :-1], out[:, -1]

    @torch.no_grad()
    def act(self, obs, generator=None):
        logits, value = self(obs)
        p = torch.softmax(logits, dim=-1)
        u = torch.rand(len(p), 1, generator=generator, dtype=p.dtype, device=p.device)
        action = (u >= p.cumsum(-1)).sum(-1).clamp(max=p.shape[-1] - 1)
        return action, -F.cross_entropy(logits, action, reduction="none"), value


def minibatches(n, size, generator):
    order = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).argsort().tolist()
    while order:
        yield order[:size]
        del order[:size]


@dataclass
class Settings:
    envs: int = 16
    steps: int = 64
    epochs: int = 8
    batch: int = 256
    gamma: float = 0.98
    lam: float = 0.9
    lr: float = 1e-3
    reward: float = 0.1


def train(make_env, *, total_steps, seed):
    s = Settings()
    envs = gym.vector.SyncVectorEnv([make_env] * s.envs, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    torch.manual_seed(seed)
    model = ActorCritic(gym.spaces.flatdim(envs.single_observation_space), int(envs.single_action_space.n), 64)
    opt = torch.optim.Adam(model.parameters(), lr=s.lr)
    rounds = total_steps // (s.envs * s.steps)
    fall = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.02, total_iters=max(rounds, 1))
    g = torch.Generator().manual_seed(seed + 1)
    obs, _ = envs.reset(seed=[seed * 1000 + i for i in range(s.envs)])
    for _ in range(rounds):
        memory = []
        for _ in range(s.steps):
            seen = torch.tensor(obs, dtype=torch.float32)
            action, logp, value = model.act(seen)
            obs, reward, term, trunc, _ = envs.step(action.numpy())
            with torch.no_grad():
                after = model(torch.tensor(obs, dtype=torch.float32))[1]
            flags = torch.from_numpy(term.copy()), torch.from_numpy(trunc.copy())
            memory.append((seen, action, logp, value, torch.tensor(s.reward * reward).float(), after, *flags))
            if np.any(term | trunc):
                obs, _ = envs.reset(options={"reset_mask": term | trunc})
        seen, action, logp, value, reward, after, term, trunc = map(torch.stack, zip(*memory, strict=True))
        targets = gae(reward, value, after, term, trunc, gamma=s.gamma, lam=s.lam)
        flat = [x.flatten(0, 1) for x in (seen, action, logp, value, *targets)]
        for _ in range(s.epochs):
            for i in minibatches(s.envs * s.steps, s.batch, g):
                o, a, lp, v, adv, ret = (x[i] for x in flat)
                logits, now = model(o)
                pi = torch.distributions.Categorical(logits=logits)
                loss, _ = ppo_loss(pi.log_prob(a), lp, adv, now, v, ret, pi.entropy(), value_coef=1.0, entropy_coef=0)
                opt.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                opt.step()
        fall.step()
    envs.close()
    return model
