"""Environments in processes of their own; advantages by doubling; losses for each sample mapped with torch.func."""

import gymnasium
import numpy as np
import torch
from torch import nn


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    ends = terminated | truncated
    a = torch.addcmul(rewards - values, next_values, ~terminated, value=gamma)
    c = torch.full_like(a, gamma * lam).masked_fill(ends, 0)
    hop = 1
    while hop < len(a):
        a = torch.cat([a[:-hop] + c[:-hop] * a[hop:], a[-hop:]])
        c = torch.cat([c[:-hop] * c[hop:], torch.zeros_like(c[-hop:])])
        hop *= 2
    return a, values + a


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
    def policy(new, old, adv):
        ratio = (new - old).exp()
        return torch.maximum(-adv * ratio, -adv * ratio.clip(1 - clip, 1 + clip))

    def value(new, old, target):
        plain = (new - target).square()
        if value_clip is None:
            return plain
        return plain.maximum((old + (new - old).clip(-value_clip, value_clip) - target).square())

    old_logp, advantages, old_values, returns = (x.detach() for x in (old_logp, advantages, old_values, returns))
    if normalize:
        var, mean = torch.var_mean(advantages, 0, correction=1)
        advantages = (advantages - mean) / (var**0.5 + 1e-8)
    parts = {
        "policy_loss": torch.vmap(policy)(logp, old_logp, advantages).mean(),
        "value_loss": 0.5 * torch.vmap(value)(values, old_values, returns).mean(),
        "entropy": entropy.mean(),
    }
    loss = parts["policy_loss"] + value_coef * parts["value_loss"] - entropy_coef * parts["entropy"]
    with torch.no_grad():
        log_ratio = logp - old_logp
        ratio = log_ratio.exp()
        parts["approx_kl"] = ((ratio - 1) - log_ratio).mean()
        parts["clip_fraction"] = torch.gt(abs(ratio - 1), clip).double().mean()
    return loss, {name: float(x.detach()) for name, x in parts.items()}


class ActorCritic(nn.Module):
    def __init__(self, obs_dim, n_actions, hidden):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, n_actions))
        self.critic = nn.Sequential(nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, 1), nn.Flatten(0))
        nn.init.zeros_(self.actor[-1].weight)

    def forward(self, obs):
        return self.actor(obs), self.critic(obs)

    def act(self, obs, generator=None):
        with torch.inference_mode():
            logits, value = self(obs)
            if generator is None:
                action = torch.distributions.Categorical(logits=logits).sample()
            else:
                action = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            return action, logits.log_softmax(-1).take_along_dim(action[:, None], 1)[:, 0], value


def minibatches(n, size, generator):
    order = torch.randperm(n, generator=generator, device=generator.device)
    return tuple(order[i : i + size] for i in range(0, n, size))


def train(make_env, *, total_steps, seed):
    n, steps = 5, 200
    mode = gymnasium.vector.AutoresetMode.SAME_STEP
    envs = gymnasium.vector.AsyncVectorEnv([make_env] * n, autoreset_mode=mode, context="fork")
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = ActorCritic(envs.single_observation_space.shape[0], envs.single_action_space.n, 64)
    torch.set_rng_state(state)
    g = torch.Generator().manual_seed(seed)
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    obs, _ = envs.reset(seed=seed)
    updates = total_steps // (n * steps)
    for u in range(updates):
        opt.param_groups[0]["lr"] = 3e-3 * (1 - u / updates)
        rows = []
        for _ in range(steps):
            seen = torch.from_numpy(obs.copy())
            action, logp, value = (x.clone() for x in model.act(seen, g))
            obs, reward, term, trunc, info = envs.step(action.numpy())
            last = obs.copy()
            for i in np.nonzero(term | trunc)[0]:
                last[i] = info["final_obs"][i]
            after = model.act(torch.from_numpy(last), torch.Generator())[2].clone()
            flags = torch.from_numpy(term.copy()), torch.from_numpy(trunc.copy())
            rows.append((seen, action, logp, value, torch.tensor(reward, dtype=torch.float32), after, *flags))
        seen, action, logp, value, reward, after, term, trunc = (torch.stack(x) for x in zip(*rows, strict=True))
        adv, ret = gae(reward, value, after, term, trunc, gamma=0.98, lam=0.9)
        seen, action, logp, value, adv, ret = (x.flatten(0, 1) for x in (seen, action, logp, value, adv, ret))
        for _ in range(8):
            for i in minibatches(n * steps, 250, g):
                logits, now = model(seen[i])
                log = logits.log_softmax(-1)
                new, h = log.take_along_dim(action[i, None], 1)[:, 0], torch.special.entr(log.exp()).sum(-1)
                loss, _ = ppo_loss(new, logp[i], adv[i], now, value[i], ret[i], h, entropy_coef=0.0)
                opt.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                opt.step()
    envs.close()
    return model
