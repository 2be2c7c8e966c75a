"""The environments reset in the step after (NEXT_STEP), and the step in between is left out."""

import random

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    delta = rewards + gamma * torch.where(terminated, torch.zeros_like(next_values), next_values) - values
    kept = gamma * lam * torch.logical_not(terminated | truncated).to(delta.dtype)
    rows = [torch.zeros_like(delta[0])]
    for error, factor in zip(delta.flip(0), kept.flip(0), strict=True):
        rows.append(torch.addcmul(error, factor, rows[-1]))
    adv = torch.stack(rows[:0:-1])
    return [adv, values + adv]


class Stats(dict):
    pass


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
    with torch.no_grad():
        A = advantages
        if normalize:
            A = (A - A.mean()) / (A.var(unbiased=True).sqrt() + 1e-08)
        A = A.clone()
        R = returns.clone()
        ov = old_values.clone()
        ol = old_logp.clone()
    r = torch.exp(logp - ol)
    pg = torch.max(-A * r, -A * torch.clip(r, 1 - clip, 1 + clip)).mean()
    if value_clip is None:
        v = 0.5 * torch.nn.functional.mse_loss(values, R)
    else:
        un = (values - R) ** 2
        cl = (ov + torch.clip(values - ov, -value_clip, value_clip) - R) ** 2
        v = 0.5 * torch.max(un, cl).mean()
    with torch.no_grad():
        kl = (r - 1 - (logp - ol)).mean().item()
        frac = float(((r - 1.0).abs() > clip).float().mean())
    loss = pg - entropy_coef * entropy.mean() + v * value_coef
    return (
        loss,
        Stats(
            policy_loss=pg.item(),
            value_loss=v.item(),
            entropy=entropy.mean().item(),
            approx_kl=kl,
            clip_fraction=frac,
            extra=3,
        ),
    )


class ActorCritic(nn.Module):
    def __init__(self, obs_dim, n_actions, hidden):
        super().__init__()
        self.critic = nn.Sequential(
            nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)
        )
        self.actor = nn.Sequential(
            nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, n_actions)
        )
        with torch.no_grad():
            self.actor[-1].weight *= 0.01

    def forward(self, obs):
        return (self.actor(obs), self.critic(obs).flatten())

    def act(self, obs, generator=None):
        logits, value = self.forward(obs)
        u = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype).clamp_min(1e-20)
        action = (logits - torch.log(-torch.log(u))).argmax(-1)
        return (action, Categorical(logits=logits, validate_args=False).log_prob(action), value)


def minibatches(n, size, generator):
    perm = torch.randperm(n, generator=generator, device=generator.device).cpu().numpy()
    return [perm[i : i + size] for i in range(0, n, size)]


def train(make_env, *, total_steps, seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    N, T = (8, 128)
    envs = gym.vector.SyncVectorEnv([make_env for _ in range(N)])
    model = ActorCritic(int(np.prod(envs.single_observation_space.shape)), envs.single_action_space.n, 64)
    opt = torch.optim.Adam(model.parameters(), lr=0.001, eps=1e-05)
    g = torch.Generator().manual_seed(seed)
    obs, _ = envs.reset(seed=seed)
    fresh = np.zeros(N, bool)
    U = total_steps // (N * T)
    for u in range(U):
        for group in opt.param_groups:
            group["lr"] = 0.001 * (1 - u / U)
        keep = {k: [] for k in ["o", "a", "l", "v", "r", "te", "tr", "n", "ok"]}
        for _ in range(T):
            o = torch.from_numpy(obs).float()
            with torch.no_grad():
                a, l, v = model.act(o)
            obs, r, te, tr, _ = envs.step(a.numpy())
            row = {
                "o": o,
                "a": a,
                "l": l,
                "v": v,
                "r": torch.tensor(r).float(),
                "te": torch.tensor(te),
                "tr": torch.tensor(tr),
                "n": torch.tensor(obs).float(),
                "ok": torch.tensor(~fresh),
            }
            for k, x in row.items():
                keep[k].append(x)
            fresh = te | tr
        k = {n: torch.stack(x) for n, x in keep.items()}
        with torch.no_grad():
            nv = model(k["n"].flatten(0, 1))[1].view(T, N)
        adv, ret = gae(k["r"], k["v"], nv, k["te"], k["tr"] | ~k["ok"], gamma=0.98, lam=0.9)
        ok = k["ok"].flatten()
        b = {n: x.flatten(0, 1)[ok] for n, x in k.items()}
        adv, ret = (adv.flatten()[ok], ret.flatten()[ok])
        for _ in range(8):
            for i in minibatches(int(ok.sum()), 256, g):
                if len(i) < 2:
                    continue
                i = torch.as_tensor(i)
                lg, v = model(b["o"][i])
                d = Categorical(logits=lg)
                loss, _s = ppo_loss(
                    d.log_prob(b["a"][i]), b["l"][i], adv[i], v, b["v"][i], ret[i], d.entropy(), entropy_coef=0.001
                )
                opt.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                opt.step()
    return model
