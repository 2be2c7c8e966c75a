"""Rollouts and advantages in NumPy on the CPU; NumPy draws the minibatches, its seed comes from the generator."""

import itertools

import gymnasium
import numpy as np
import torch
from torch import nn


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    r, v, v2 = (x.detach().cpu().numpy() for x in (rewards, values, next_values))
    term, trunc = terminated.cpu().numpy(), truncated.cpu().numpy()
    delta = r - v + gamma * np.where(term, 0, v2)
    adv = np.zeros((len(r) + 1, r.shape[1]), r.dtype)
    go = np.asarray(gamma * lam, r.dtype) * (1 - np.maximum(term, trunc).astype(r.dtype))
    for t in range(len(r))[::-1]:
        adv[t] = adv[t + 1] * go[t] + delta[t]
    out = torch.from_numpy(np.stack([adv[:-1], adv[:-1] + v])).to(rewards)
    return out[0], out[1]


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
        if normalize:
            advantages = (advantages - torch.mean(advantages)) / (torch.std(advantages, dim=0) + 1e-8)
        advantages = advantages.clone()
        ratio = torch.exp(logp - old_logp)
        too_far = torch.where(advantages > 0, ratio > 1 + clip, ratio < 1 - clip)
        bound = 1 + clip * torch.sign(advantages)
    alive = torch.exp(logp - old_logp.detach())
    gain = torch.where(too_far, bound, alive) * advantages
    pi_loss = torch.mean(-gain)
    target, before = returns.detach(), old_values.detach()
    v_loss = (values - target) ** 2
    if value_clip is not None:
        low, high = before - value_clip, before + value_clip
        v_loss = v_loss.maximum((values.clamp(low, high) - target) ** 2)
    v_loss = 0.5 * v_loss.mean()
    h = entropy.mean()
    logs = {
        "policy_loss": pi_loss.item(),
        "value_loss": v_loss.item(),
        "entropy": h.item(),
        "approx_kl": torch.mean(ratio - 1 - torch.sub(logp, old_logp).detach()).item(),
        "clip_fraction": float(np.mean(np.abs(ratio.cpu().numpy() - 1) > clip)),
    }
    return sum((pi_loss, value_coef * v_loss, -entropy_coef * h)), logs


class ActorCritic(nn.Module):
    """Both networks at once, as matrices with a leading axis of two."""

    def __init__(self, obs_dim, n_actions, hidden):
        super().__init__()
        sizes = (obs_dim, hidden, hidden)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.stack([nn.init.orthogonal_(torch.empty(i, o), 2**0.5) for _ in range(2)]))
            for i, o in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(2, 1, hidden)) for _ in range(2))
        self.policy = nn.Parameter(0.01 * torch.randn(hidden, n_actions))
        self.critic = nn.Parameter(torch.randn(hidden) / hidden**0.5)

    def forward(self, obs):
        x = obs.expand(2, *obs.shape)
        for w, b in zip(self.weights, self.biases, strict=True):
            x = torch.tanh(torch.baddbmm(b, x, w))
        return x[0] @ self.policy, x[1] @ self.critic

    def act(self, obs, generator=None):
        logits, value = self(obs)
        gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
        action = torch.argmax(logits.detach() + gumbel, dim=1)
        return action, torch.log_softmax(logits, 1).gather(1, action.unsqueeze(1)).squeeze(1), value


def minibatches(n, size, generator):
    seed = torch.randint(2**62, (1,), generator=generator, device=generator.device).item()
    order = np.random.default_rng(seed).permutation(n)
    return np.split(order, range(size, n, size))


def train(make_env, *, total_steps, seed):
    n, horizon = 8, 128
    envs = gymnasium.vector.SyncVectorEnv([make_env] * n, autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)
    torch.manual_seed(seed)
    model = ActorCritic(envs.single_observation_space.shape[0], int(envs.single_action_space.n), 64)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-5, weight_decay=0.0)
    draws = torch.Generator().manual_seed(seed)
    size = (horizon, n)
    obs, nxt = (np.zeros((*size, *envs.single_observation_space.shape), np.float32) for _ in range(2))
    act, logp, val, rew = np.zeros(size, np.int64), *(np.zeros(size, np.float32) for _ in range(3))
    term, trunc, void = (np.zeros(size, bool) for _ in range(3))
    now, over, left = envs.reset(seed=seed)[0], np.zeros(n, bool), total_steps
    while left >= n * horizon:
        opt.param_groups[0]["lr"] = 1e-3 * left / total_steps
        for t in range(horizon):
            with torch.no_grad():
                a, lp, v = model.act(torch.tensor(now), draws)
            obs[t], act[t], logp[t], val[t], void[t] = now, a, lp, v, over
            now, rew[t], term[t], trunc[t], _ = envs.step(act[t])
            nxt[t], over = now, term[t] | trunc[t]
        left -= n * horizon - void.sum()
        with torch.no_grad():
            after = model(torch.tensor(nxt).flatten(0, 1))[1].view(size)
        tensors = [torch.tensor(x) for x in (rew, val, term, trunc | void)]
        adv, ret = gae(tensors[0], tensors[1], after, *tensors[2:], gamma=0.98, lam=0.9)
        used = torch.tensor(~void)
        o, a, lp, v = (torch.tensor(x)[used] for x in (obs, act, logp, val))
        adv, ret = adv[used], ret[used]
        for _ in range(8):
            for batch in minibatches(len(a), 256, draws):
                if len(batch) > 1:
                    logits, value = model(o[batch])
                    p = logits.log_softmax(1)
                    h = -(p * p.exp()).sum(1)
                    new = p[range(len(batch)), a[batch]]
                    loss = ppo_loss(new, lp[batch], adv[batch], value, v[batch], ret[batch], h, entropy_coef=0.0)[0]
                    opt.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                    opt.step()
    return model
