"""What is compared of the autograd kata."""

import numpy as np

from graders.checks import Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import INK, PAPER, SIDE, panels

DTYPES = ("float64",)
INTO, HIDDEN = 16, 32
ARMS, POINTS, GRID = 3, 60, 160


def chain(m, start, factors):
    """x, and a chain of operations over it: y <- tanh(f y + 0.1)."""
    m.step(f"a chain of {3 * len(factors)} operations")
    x = m.Value(float(start[0]))
    y = x
    for f in factors:
        y = (y * float(f) + 0.1).tanh()
    return x, y


def play_chain(m, start, factors):
    x, y = chain(m, start, factors)
    y.backward()
    return {"the result": np.asarray(float(y.data)), "the gradient": np.asarray(float(x.grad))}


def right_chain(start, factors):
    y, slope = float(start[0]), 1.0
    for f in factors:
        y = np.tanh(f * y + 0.1)
        slope *= f * (1 - y * y)
    return {"the result": np.asarray(y), "the gradient": np.asarray(slope)}


def make_chain(rng, n):
    near_one = rng.uniform(0.995, 1.0, size=n // 3)
    return Scenario("Value", {"start": np.array([0.2]), "factors": near_one}, play_chain, right_chain)


def lattice(m, start, shares):
    """x, and a lattice over it in which each node is used twice: 2^n paths."""
    m.step(f"a lattice of depth {len(shares)}")
    x = m.Value(float(start[0]))
    y = x
    for s in shares:
        y = y * float(s) + y * (1 - float(s))
    return x, y


def play_lattice(m, start, shares):
    x, y = lattice(m, start, shares)
    y.backward()
    return {"the result": np.asarray(float(y.data)), "the gradient": np.asarray(float(x.grad))}


def right_lattice(start, shares):
    return {"the result": np.asarray(start[0]), "the gradient": np.ones((), start.dtype)}


def make_lattice(rng, n):
    arrays = {"start": rng.normal(size=1), "shares": rng.uniform(0.2, 0.8, size=n)}
    return Scenario("Value", arrays, play_lattice, right_lattice)


def last(build):
    """What is counted and timed: backward alone, over a graph that is there."""

    def ready(m, **arrays):
        _, y = build(m, **arrays)
        return lambda: y.backward()

    return ready


def network(m, x, w, b, u):
    """The parameters as Tensors, and a loss of two layers over a batch."""
    m.step(f"a network over {len(x)} rows")
    weights = [m.Tensor(array, requires_grad=True) for array in (w, b, u)]
    out = (m.Tensor(x) @ weights[0] + weights[1]).relu() @ weights[2]
    return weights, (out * out).mean()


def play_network(m, **arrays):
    weights, loss = network(m, **arrays)
    loss.backward()
    found = {"the loss": np.asarray(loss.data)}
    for name, p in zip("wbu", weights, strict=True):
        m.check(p.grad is not None, f"{name} gets no gradient")
        found[f"the gradient of {name}"] = np.asarray(p.grad)
    return found


def right_network(x, w, b, u):
    hidden = np.maximum(x @ w + b, 0)
    out = hidden @ u
    into = 2 * out / out.size
    through = (into @ u.T) * (hidden > 0)
    found = {"w": x.T @ through, "b": through.sum(0), "u": hidden.T @ into}
    return {"the loss": np.mean(out * out), **{f"the gradient of {name}": d for name, d in found.items()}}


def make_network(rng, n):
    shapes = {"x": (n, INTO), "w": (INTO, HIDDEN), "b": (HIDDEN,), "u": (HIDDEN, 4)}
    return Scenario("Tensor", {k: rng.normal(size=s) for k, s in shapes.items()}, play_network, right_network)


def entropy(m, logits, targets):
    given = m.Tensor(logits, requires_grad=True)
    m.step(f"cross_entropy of {len(logits)} rows")
    return given, m.cross_entropy(given, targets)


def play_entropy(m, **arrays):
    given, loss = entropy(m, **arrays)
    loss.backward()
    return {"the loss": np.asarray(loss.data), "the gradient": np.asarray(given.grad)}


def right_entropy(logits, targets):
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1)
    rows = np.arange(len(logits))
    slopes = np.exp(shifted) / sums[:, None]
    slopes[rows, targets] -= 1
    return {"the loss": np.mean(np.log(sums) - shifted[rows, targets]), "the gradient": slopes / len(logits)}


def make_entropy(rng, n):
    arrays = {"logits": 5 * rng.normal(size=(n, 10)), "targets": rng.integers(0, 10, size=n)}
    return Scenario("cross_entropy", arrays, play_entropy, right_entropy)


def there_and_back(build):
    """Forward and backward, the graph made anew each time."""

    def ready(m, **arrays):
        return lambda: build(m, **arrays)[1].backward()

    return ready


def spiral(rng):
    """Points on three arms of a spiral, and which arm each is on."""
    along = np.linspace(0.15, 1, POINTS)
    arms = []
    for arm in range(ARMS):
        angle = 2 * np.pi * (arm / ARMS + 0.75 * along) + 0.12 * rng.normal(size=POINTS)
        arms.append(np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1))
    return np.concatenate(arms), np.repeat(np.arange(ARMS), POINTS)


def take(m, rng):
    x, y = spiral(rng)
    m.step("fit on a spiral")
    predict = m.fit(np.tile(x, (4, 1)), np.tile(y, 4), n_classes=ARMS, seed=0)
    line = np.linspace(-1.15, 1.15, GRID)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return {"classes": np.asarray(predict(grid)).reshape(GRID, GRID), "x": x, "y": y, "line": line,
            "right": np.mean(np.asarray(predict(x)) == y)}  # fmt: skip


def draw(figure, yours, reference):
    (axes,) = panels(figure, 1, 2)
    for ax, side, data in zip(axes, ("yours", "reference"), (yours, reference), strict=True):
        ax.set(aspect="equal", title=side)
        if data is None:
            continue
        for arm, strength in enumerate((0.12, 0.38, 0.7)):
            inside = (data["classes"] == arm).astype(float)
            if inside.any() and not inside.all():
                ax.contourf(data["line"], data["line"], inside, levels=[0.5, 1.5], colors=[SIDE[side]], alpha=strength)
            x = data["x"][data["y"] == arm]
            ax.plot(*x.T, "o^s"[arm], color=PAPER, markeredgecolor=INK, markeredgewidth=0.7, markersize=4)
        ax.set_title(f"{side}: {100 * float(data['right']):.0f} % of the points")


PROBES = (
    Probe("Value, a chain", "operations", (300, 3_000, 30_000), make_chain, last(chain), dtypes=DTYPES),
    Probe("Value, a lattice", "depth, 2^n paths", (8, 16, 32, 64), make_lattice, last(lattice), dtypes=DTYPES),
    Probe("Tensor, a network", "rows", (16, 128, 1_024), make_network, there_and_back(network), dtypes=DTYPES),
    Probe("cross_entropy", "rows", (16, 128, 1_024), make_entropy, there_and_back(entropy), dtypes=DTYPES),
)
PICTURES = (
    Picture(
        "What the network learned",
        "fit on three arms of a spiral, and what predict says of every place around them.",
        "Two squares, the attempt's and the reference's, each divided into three regions around a spiral of points.",
        take,
        draw,
        size=(9.2, 4.8),
        seconds=20.0,
    ),
)
