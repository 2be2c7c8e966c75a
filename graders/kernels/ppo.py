"""PPO in plain NumPy: advantages as direct sums, the loss sample by sample, and the environments that training meets.

Schulman et al. 2016, equations 11 to 16; Schulman et al. 2017, equations 7 and 9.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STARTS = {"good": 28, "poor": 10, "rare": 8, "prize": 10, "trap": 10, "corner": 22, "exit": 12}  # in a hundred
PLACES = (*STARTS, "nowhere")
# What each action of a place brings: the reward, where it leads, and whether that cuts the episode or ends it.
END, CUT = "terminated", "truncated"
MOVES: dict[str, tuple[tuple[float, str, str], tuple[float, str, str]]] = {
    "good": ((2.0, "nowhere", END), (2.0, "nowhere", END)),
    "poor": ((-1.0, "nowhere", END), (-1.0, "nowhere", END)),
    "rare": ((-1.0, "nowhere", END), (-1.0, "nowhere", END)),
    "prize": ((0.2, "nowhere", END), (0.0, "good", CUT)),
    "trap": ((0.0, "poor", CUT), (-0.5, "nowhere", END)),
    "corner": ((-0.5, "nowhere", END), (0.0, "rare", CUT)),
    "exit": ((0.6, "nowhere", END), (0.0, "good", END)),
}
BEST = {"prize": 1, "trap": 1, "corner": 0, "exit": 0}


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    gamma: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Each advantage summed directly, from its step to the end of its episode or of the rollout."""
    kind = rewards.dtype.type
    future = np.where(terminated, kind(0), next_values)
    errors = rewards + kind(gamma) * future - values
    advantages = np.zeros_like(errors)
    for t, n in np.ndindex(errors.shape):
        for k in range(t, len(errors)):
            advantages[t, n] += kind((gamma * lam) ** (k - t)) * errors[k, n]
            if terminated[k, n] or truncated[k, n]:
                break
    return advantages, advantages + values


def gae_by_recursion(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    gamma: float,
    lam: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The same as lambda-returns, backwards: G_t = r_t + gamma ((1 - lam) V' + lam G_t+1)."""
    kind = rewards.dtype.type
    returns = np.zeros_like(rewards)
    for n in range(rewards.shape[1]):
        later = next_values[-1, n]
        for t in reversed(range(len(rewards))):
            later = next_values[t, n] if truncated[t, n] else later
            mixed = kind(1 - lam) * next_values[t, n] + kind(lam) * later
            later = rewards[t, n] + kind(0 if terminated[t, n] else gamma) * mixed
            returns[t, n] = later
    return returns - values, returns


def ppo_loss(
    logp: np.ndarray,
    old_logp: np.ndarray,
    advantages: np.ndarray,
    values: np.ndarray,
    old_values: np.ndarray,
    returns: np.ndarray,
    entropy: np.ndarray,
    *,
    clip: float = 0.2,
    value_coef: float = 0.5,
    entropy_coef: float = 0.01,
    value_clip: float | None = None,
    normalize: bool = True,
) -> dict[str, np.ndarray]:
    """The loss, its gradients and the five statistics, by the names that the report gives them."""
    kind, count = logp.dtype.type, len(logp)
    if normalize:
        advantages = normalized(advantages)
    ratio = np.exp(logp - old_logp)
    gain, kept = clipped_gain(ratio, advantages, kind(clip))
    errors, pull = value_errors(values, old_values, returns, None if value_clip is None else kind(value_clip))
    policy_loss, value_loss = -gain.sum() / kind(count), errors.sum() / kind(2 * count)
    bonus = entropy.sum() / kind(count)
    return {
        "loss": policy_loss + kind(value_coef) * value_loss - kind(entropy_coef) * bonus,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": bonus,
        "approx_kl": np.mean(ratio - kind(1) - (logp - old_logp)),
        "clip_fraction": np.mean(np.abs(ratio - kind(1)) > kind(clip), dtype=logp.dtype),
        "the gradient of logp": -np.where(kept, ratio * advantages, kind(0)) / kind(count),
        "the gradient of values": kind(value_coef) * pull / kind(count),
        "the gradient of entropy": np.full_like(entropy, -entropy_coef / count),
    }


def ppo_loss_sizes(*, clip: float = 0.2, **arguments: Any) -> dict[str, float]:
    """The size of what cancels in the means of `ppo_loss`: gains of either sign, and the parts of the loss."""
    logp, old_logp, advantages = (arguments[name].astype(np.float64) for name in ("logp", "old_logp", "advantages"))
    log_ratio = logp - old_logp
    weights = normalized(advantages) if arguments.get("normalize", True) else advantages
    gain = float(np.mean(np.maximum(np.exp(log_ratio), 1 - clip) * np.abs(weights)))
    terms = np.abs(np.expm1(log_ratio)) + np.abs(log_ratio)
    found = ppo_loss(**arguments, clip=clip)
    whole = gain + float(found["value_loss"]) + float(found["entropy"])
    return {"policy_loss": gain, "loss": whole, "approx_kl": float(np.mean(terms))}


def normalized(advantages: np.ndarray) -> np.ndarray:
    """(A - mean) / (std + 1e-8), with n - 1 in the variance."""
    apart = advantages - advantages.sum() / advantages.dtype.type(len(advantages))
    variance = np.sum(apart * apart) / advantages.dtype.type(len(advantages) - 1)
    return apart / (np.sqrt(variance) + advantages.dtype.type(1e-8))


def clipped_gain(ratio: np.ndarray, advantages: np.ndarray, clip: Any) -> tuple[np.ndarray, np.ndarray]:
    """What each sample gains, and whether it still pulls: a good action up to 1 + clip, a bad one down to 1 - clip."""
    one = ratio.dtype.type(1)
    good = advantages > 0
    kept = np.where(good, ratio < one + clip, ratio > one - clip)
    bounded = np.where(good, one + clip, one - clip)
    return np.where(kept, ratio, bounded) * advantages, kept


def value_errors(
    values: np.ndarray, old_values: np.ndarray, returns: np.ndarray, value_clip: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors, the clipped ones where they are larger, and half their gradient."""
    off = values - returns
    if value_clip is None:
        return off * off, off
    moved = np.sign(values - old_values) * np.minimum(np.abs(values - old_values), value_clip)
    near = old_values + moved - returns
    outside = np.abs(values - old_values) > value_clip
    clipped = outside & (near * near > off * off)
    return np.where(clipped, near * near, off * off), np.where(clipped, 0 * off, off)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    apart = logits - logits.max(-1, keepdims=True)
    return apart - np.log(np.exp(apart).sum(-1, keepdims=True))


class Tally:
    """Counts the steps of environments wherever they run, and stops them at so many: each appends a byte to a file."""

    def __init__(self, folder: str, at_most: int) -> None:
        self.path, self.at_most = Path(folder) / "steps", at_most
        self.path.touch()

    @property
    def steps(self) -> int:
        return self.path.stat().st_size

    def around(self, make: Callable[[], Any]) -> Callable[[], Any]:
        """make, with each step of what it makes counted. One too many raises RuntimeError."""
        import gymnasium

        path, at_most = str(self.path), self.at_most

        class Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
            file: int | None = None

            def step(self, action: Any) -> Any:
                if self.file is None:  # opened where it runs, which may be another process
                    self.file = os.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(self.file, b".")
                if os.fstat(self.file).st_size > at_most:
                    raise RuntimeError(f"all environments together have taken more than {at_most:,} steps")
                return self.env.step(action)

            def close(self) -> None:
                if self.file is not None:
                    os.close(self.file)
                    self.file = None
                self.env.close()

        return lambda: Counted(make())


def cart_pole(swapped: bool) -> Callable[[], Any]:
    """gymnasium's CartPole-v1; swapped: its two actions push the other way."""
    import gymnasium

    def make() -> Any:
        made = gymnasium.make("CartPole-v1")
        return gymnasium.wrappers.TransformAction(made, lambda action: 1 - action, None) if swapped else made

    return make


def crossroads() -> Callable[[], Any]:
    """Episodes of one step each; which action is best in a place depends on what is made of the episode's end.

    prize: bootstrapping from where a truncated episode ended pays. trap: so does not bootstrapping from where the next
    one starts. corner: nor learning from the step that an autoreset ignores. exit: nor from where an episode
    terminated. Action 2 is bad everywhere.
    """
    import gymnasium

    shares = np.array(list(STARTS.values())) / sum(STARTS.values())

    class Crossroads(gymnasium.Env[np.ndarray, Any]):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(PLACES),), np.float32)
        action_space = gymnasium.spaces.Discrete(3)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed, options=options)
            self.place = str(self.np_random.choice(list(STARTS), p=shares))
            return seen(self.place), {}

        def step(self, action: Any) -> Any:
            moves = (*MOVES[self.place], (-1.5, "nowhere", END))
            reward, self.place, how = moves[int(action)]
            return seen(self.place), reward, how == END, how == CUT, {}

    return Crossroads


def seen(place: str) -> np.ndarray:
    """What an agent sees of a place: 1 in its own entry."""
    return np.eye(len(PLACES), dtype=np.float32)[PLACES.index(place)]
