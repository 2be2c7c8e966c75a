"""Lambda-returns first and advantages from them; the clip and the divergence in log space; observations normalised."""

import math

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    T = rewards.size(0)
    alive = torch.logical_not(terminated).to(rewards)
    cut = torch.logical_or(terminated, truncated)
    returns = rewards.new_empty(rewards.shape)
    tail = next_values[T - 1]
    for t in range(T - 1, -1, -1):
        tail = torch.where(cut[t], next_values[t], tail)
        returns[t] = rewards[t] + gamma * alive[t] * torch.lerp(next_values[t], tail, lam)
        tail = returns[t].clone()
    return returns - values, returns


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
    B = logp.shape[0]
    adv, v0, target = advantages.data, old_values.data, returns.data
    if normalize:
        centred = adv - adv.sum() / B
        adv = centred / (torch.linalg.vector_norm(centred) / math.sqrt(B - 1) + 1e-8)
    change = logp - old_logp.data
    low, high = math.log(max(1 - clip, 1e-300)), math.log1p(clip)
    held = torch.where(adv >= 0, change.clamp(max=high), change.clamp(min=low))
    policy_loss = -torch.dot(held.exp(), adv) / B
    error = (values - target).abs()
    if value_clip is not None:
        near = v0 + torch.clip(values - v0, min=-value_clip, max=value_clip)
        error = torch.maximum(error, (near - target).abs())
    value_loss = error.pow(2).sum() / (2 * B)
    loss = policy_loss + value_coef * value_loss - entropy_coef * (entropy.sum() / B)
    moved = change.detach().expm1()
    stats = {
        "clip_fraction": sum(abs(x) > clip for x in moved.tolist()) / B,
        "approx_kl": (moved - change.detach()).mean().item(),
        "entropy": entropy.detach().mean().item(),
        "value_loss": value_loss.item(),
        "policy_loss": policy_loss.item(),
    }
    return [loss, stats]


class Standard(nn.Module):
    """Keeps the mean and the variance of what it has been shown."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("count", torch.tensor(1e-2))

    def show(self, x):
        n, mean, var = len(x), x.mean(0), x.var(0, correction=0)
        whole, off = self.count + n, mean - self.mean
        self.var = (self.var * self.count + var * n + off**2 * self.count * n / whole) / whole
        self.mean, self.count = self.mean + off * n / whole, whole

    def forward(self, x):
        return ((x - self.mean) / (self.var + 1e-4).sqrt()).clamp(-10, 10)


class ActorCritic(nn.Module):
    def __init__(self, obs_dim, n_actions, hidden):
        super().__init__()
        self.standard = Standard(obs_dim)

        def net(outputs, gain):
            last = nn.Linear(hidden, outputs, bias=outputs > 1)
            nn.init.orthogonal_(last.weight, gain)
            return nn.Sequential(nn.Linear(obs_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)

        self.pi, self.v = net(n_actions, 0.01), net(1, 1.0)

    def forward(self, obs):
        obs = self.standard(obs)
        return self.pi(obs), self.v(obs)[..., 0]

    def act(self, obs, generator=None):
        logits, value = self(obs)
        logp = logits - logits.logsumexp(1, keepdim=True)
        race = torch.empty_like(logp).exponential_(generator=generator)
        action = (race.log() - logp).argmin(1)
        return action, logp[torch.arange(len(logp), device=logp.device), action], value


class minibatches:
    def __init__(self, n, size, generator):
        keys = torch.rand(n, generator=generator, device=generator.device)
        self.order, self.size = torch.sort(keys).indices, size

    def __len__(self):
        return -(-len(self.order) // self.size)

    def __getitem__(self, i):
        if i >= len(self):
            raise IndexError(i)
        return self.order[i * self.size : (i + 1) * self.size]


def train(make_env, *, total_steps, seed):
    n_envs, steps, epochs = 12, 80, 8
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    venv = gym.vector.SyncVectorEnv([make_env for _ in range(n_envs)], autoreset_mode="SameStep")
    model = ActorCritic(*venv.single_observation_space.shape, venv.single_action_space.n, 48)
    actor, critic = (torch.optim.Adam(net.parameters(), lr=1e-3, eps=1e-5) for net in (model.pi, model.v))
    obs = torch.as_tensor(venv.reset(seed=seed)[0], dtype=torch.float32)
    rounds = total_steps // (n_envs * steps)
    for done in range(rounds):
        o, a, lp, r, o2, te, tr = ([] for _ in range(7))
        for _ in range(steps):
            with torch.no_grad():
                action, logp, _ = model.act(obs, generator)
            nxt, reward, term, trunc, info = venv.step(action.numpy())
            final = nxt.copy()
            if "final_obs" in info:
                final[info["_final_obs"]] = np.stack([x for x in info["final_obs"] if x is not None])
            row = (
                obs,
                action,
                logp,
                torch.tensor(reward),
                torch.tensor(final),
                torch.tensor(term),
                torch.tensor(trunc),
            )
            for kept, x in zip((o, a, lp, r, o2, te, tr), row, strict=True):
                kept.append(x.float() if x.dtype == torch.float64 else x)
            obs = torch.as_tensor(nxt, dtype=torch.float32).clone()
        o, a, lp, r, o2, te, tr = (torch.stack(x) for x in (o, a, lp, r, o2, te, tr))
        with torch.no_grad():
            v, v2 = model(o.flatten(0, 1))[1].view_as(r), model(o2.float().flatten(0, 1))[1].view_as(r)
        adv, ret = gae(r, v, v2, te, tr, gamma=0.98, lam=0.9)
        flat = [x.reshape(-1, *x.shape[2:]) for x in (o, a, lp, adv, v, ret)]
        for optimizer in (actor, critic):
            optimizer.param_groups[0]["lr"] = 1e-3 * (1 - done / rounds)
        for _ in range(epochs):
            for index in minibatches(n_envs * steps, 240, generator):
                bo, ba, blp, badv, bv, bret = (x[index] for x in flat)
                logits, now = model(bo)
                logs = logits.log_softmax(1)
                spread = -(logs.exp() * logs).sum(1)
                arguments = (logs[torch.arange(len(ba)), ba], blp, badv, now, bv, bret, spread)
                loss, _ = ppo_loss(*arguments, entropy_coef=0.0)
                model.zero_grad()
                loss.backward()
                for net, optimizer in ((model.pi, actor), (model.v, critic)):
                    nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                    optimizer.step()
        if done < rounds // 2:
            model.standard.show(o.flatten(0, 1))
    venv.close()
    return model
