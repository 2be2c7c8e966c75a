"""What is compared of the PPO kata."""

import tempfile
from pathlib import Path

import numpy as np

from graders.checks import Case, Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import MUTED, REFERENCE, YOURS, both
from graders.kernels import ppo as kernels

GAMMA, LAMBDA, N = 0.95, 0.9, 8
ARGUMENTS = ("logp", "old_logp", "advantages", "values", "old_values", "returns", "entropy")
LENGTH, ENDS, CUTS = 48, (14,), (33,)
LAMBDAS = (0.0, 0.9, 1.0)
SEEDS, STEPS, WINDOW = (0, 1, 2), 20_000, 20


def advantages(rng, n):
    floats = tuple(rng.normal(size=(n, N)) for _ in range(3))
    ends = rng.random((n, N))
    options = {"gamma": GAMMA, "lam": LAMBDA}
    args = (*floats, ends < 0.05, (ends > 0.05) & (ends < 0.1))
    return Case("gae", args, kernels.gae, options=options, results=("advantages", "returns"))


def samples(rng, n):
    found = {name: rng.normal(size=n) for name in ARGUMENTS}
    found["old_logp"] = -np.abs(found["old_logp"]) - 0.5
    found["logp"] = found["old_logp"] + 0.3 * found["logp"]
    return {**found, "entropy": np.abs(found["entropy"])}


def called(m, arrays):
    return [m.to(arrays[name]) for name in ARGUMENTS]


def play_loss(m, **arrays):
    m.step("ppo_loss")
    loss, _ = m.ppo_loss(*called(m, arrays), value_clip=0.2)
    return {"loss": m.array(loss.detach() if m.framework == "torch" else loss, "loss")}


def ready_loss(m, **arrays):
    given = called(m, arrays)
    call = m.compiled(m.ppo_loss, value_clip=0.2)
    return lambda: call(*given)


def loss(rng, n):
    def kernel(**arrays):
        found = kernels.ppo_loss(*(arrays[name] for name in ARGUMENTS), value_clip=0.2)
        return {"loss": np.asarray(found["loss"])}

    return Scenario("ppo_loss", samples(rng, n), play_loss, kernel)


def take_flow(m, rng):
    """Advantages of one environment with a reward now and then, an end and a cut."""
    rewards = np.zeros((LENGTH, 1))
    rewards[[6, 13, 24, 32, 43]] = 1.0
    values = 0.1 * rng.normal(size=(LENGTH, 1))
    next_values = np.roll(values, -1, axis=0)
    next_values[list(CUTS)] = 0.8
    ends, cuts = (np.isin(np.arange(LENGTH), at)[:, None] for at in (ENDS, CUTS))
    found = {}
    for lam in LAMBDAS:
        m.step(f"gae with lam = {lam:g}")
        given = [m.to(x) for x in (rewards, values, next_values, ends, cuts)]
        out, _ = m.gae(*given, gamma=GAMMA, lam=lam)
        found[f"{lam:g}"] = m.array(out, "advantages", shape=(LENGTH, 1))[:, 0]
    return found


def draw_flow(figure, yours, reference):
    axes = figure.subplots(1, len(LAMBDAS), sharey=True)
    for ax, lam in zip(axes, LAMBDAS, strict=True):
        for at, name in ((ENDS, "terminated"), (CUTS, "truncated")):
            for t in at:
                ax.axvline(t + 0.5, color=MUTED, linewidth=0.8, linestyle="-" if at is ENDS else (0, (2, 3)))
                ax.text(t, 1.0, f"{name} ", transform=ax.get_xaxis_transform(), ha="right", va="top",
                        color=MUTED, fontsize=7.5, rotation=90)  # fmt: skip
        both(ax, np.arange(LENGTH), *(data[f"{lam:g}"] if data else None for data in (yours, reference)), marks=False)
        ax.margins(y=0.2)
        ax.set(title=f"lam = {lam:g}", xlabel="step")
    axes[0].set_ylabel("advantage")


def recorded(path):
    """A CartPole that writes the return of each episode to a file, in whatever process it runs."""
    import gymnasium

    class Recorded(gymnasium.Wrapper):
        total = 0.0

        def reset(self, **options):
            self.total = 0.0
            return self.env.reset(**options)

        def step(self, action):
            out = self.env.step(action)
            self.total += float(out[1])
            if out[2] or out[3]:
                with Path(path).open("a") as file:
                    file.write(f"{self.total:g}\n")
            return out

    return lambda: Recorded(gymnasium.make("CartPole-v1"))


def take_learning(m, rng):
    """The returns of the episodes of training, in order, by seed."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            path = Path(folder) / f"{seed}"
            path.touch()
            m.step(f"train with seed {seed}, {STEPS} steps")
            m.train(recorded(str(path)), total_steps=STEPS, seed=seed)
            found[f"{seed}"] = np.array([float(line) for line in path.read_text().split()])
    return found


def draw_learning(figure, yours, reference):
    """Returns, averaged over the last episodes, by the steps that were taken until then."""
    ax = figure.subplots()
    ax.axhline(475, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    ax.text(0, 475, "solved ", color=MUTED, fontsize=8, va="bottom")
    for data, colour, width in ((reference, REFERENCE, 3.5), (yours, YOURS, 1.4)):
        for returns in (data or {}).values():
            if len(returns) >= WINDOW:
                mean = np.convolve(returns, np.ones(WINDOW) / WINDOW, mode="valid")
                steps = np.cumsum(returns)[WINDOW - 1 :]
                ax.plot(steps, mean, color=colour, linewidth=width, alpha=0.5 if width > 2 else 0.95)
    ax.set(xlabel="steps of all environments", ylabel=f"return, mean of {WINDOW} episodes", ylim=(0, 510))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")


PROBES = (
    Probe("gae", "T", (16, 64, 256), advantages, accurate=(16, 64)),
    Probe("ppo_loss", "B", (64, 256, 1_024, 4_096), loss, ready_loss),
)
PICTURES = (
    Picture(
        "How far an advantage reaches back",
        "One environment with a reward of 1 at five steps; it ends once, and is cut off once by a time limit. A "
        "reward's credit decays backwards by gamma lam and never passes either line; at the cut the value of what was "
        "to come counts, at the end it does not.",
        "Advantages over 48 steps for three values of lambda, with lines where the episode ended and was cut off.",
        take_flow,
        draw_flow,
        size=(9.6, 3.0),
    ),
    Picture(
        "Learning to balance",
        f"CartPole-v1, {STEPS:,} steps, a line for each of {len(SEEDS)} seeds: early days, the kata allows 150,000.",
        "Episode returns over the steps of training, a curve for each seed of the attempt and of the reference.",
        take_learning,
        draw_learning,
        size=(9.4, 3.4),
        seconds=120.0,
        only=("torch",),
    ),
)
