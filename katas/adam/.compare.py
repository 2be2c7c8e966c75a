"""What is compared of the Adam kata."""

import numpy as np

from graders.checks import Case, Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import INK, MUTED, both
from graders.kernels import adam as kernels

SIZES = (1_000, 10_000, 100_000, 1_000_000)
STEPS = 5
OPTIONS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
CLASSES = ("torch", "numpy")
START, PATH = np.array([-0.75, 1.6]), 160
RUNS = {
    "adam_step": {"lr": 0.1},
    "Adam": {"lr": 0.1},
    "Adam, amsgrad": {"lr": 0.1, "amsgrad": True},
    "AdamW, decay 0.5": {"lr": 0.1, "weight_decay": 0.5},
}


def one_step(rng, n):
    p, g, m = (rng.normal(size=n) for _ in range(3))
    v = np.square(rng.normal(size=n)) + 0.1
    options = {"lr": 0.05, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1}
    return Case("adam_step", (p, g, m, v, 4), kernels.adam_step, options=options, results=("p", "m", "v"))


def steps_of(name):
    """STEPS steps over one parameter of n numbers; what is counted and timed is one step more."""

    def made(m, p):
        """The parameter as it is now, and what takes a step with a gradient."""
        called = name.lower() if m.framework == "jax" else name
        m.step(called)
        if m.framework == "torch":
            param = m.to(p).requires_grad_()
            optimizer = getattr(m, called)([param], **OPTIONS)

            def step(g):
                param.grad = g
                optimizer.step()

            return (lambda: param.detach()), step
        if m.framework == "numpy":
            params = {"p": m.to(p)}
            optimizer = getattr(m, called)(params, **OPTIONS)
            return (lambda: params["p"]), (lambda g: optimizer.step({"p": g}))
        betas, rest = OPTIONS["betas"], {key: x for key, x in OPTIONS.items() if key not in ("betas", "lr")}
        init, update = getattr(m, called)(OPTIONS["lr"], beta1=betas[0], beta2=betas[1], **rest)
        kept = [m.to(p)]
        kept.append(init(kept[0]))

        def whole(g, state, param):
            updates, state = update(g, state, param)
            return param + updates, state

        whole = m.compiled(whole)

        def jax_step(g):
            kept[:] = whole(g, kept[1], kept[0])
            return kept[0]

        return (lambda: kept[0]), jax_step

    def play(m, p, dp):
        now, step = made(m, p)
        for g in dp:
            step(m.to(g))
        return {"the parameter": m.array(now(), "the parameter")}

    def kernel(p, dp):
        return {"the parameter": kernels.trajectory(p, dp, **OPTIONS, decoupled=name == "AdamW")}

    def make(rng, n):
        return Scenario(name, {"p": rng.normal(size=n), "dp": rng.normal(size=(STEPS, n))}, play, kernel)

    def ready(m, p, dp):
        _, step = made(m, p)
        g = m.to(dp[0])
        step(g)
        return pure_step(m, p, g) if m.framework == "jax" else lambda: step(g)

    def pure_step(m, p, g):
        """One step of a function that is given the same state each time, which may be traced."""
        betas, rest = OPTIONS["betas"], {key: x for key, x in OPTIONS.items() if key not in ("betas", "lr")}
        init, update = getattr(m, name.lower())(OPTIONS["lr"], beta1=betas[0], beta2=betas[1], **rest)
        param = m.to(p)
        state = init(param)
        update = m.compiled(update)
        return lambda: update(g, state, param)

    return make, ready


def surface(x, y):
    """A curved valley: Rosenbrock's function, flattened."""
    return (1 - x) ** 2 + 8 * (y - x**2) ** 2


def slope(at):
    x, y = at
    return np.array([-2 * (1 - x) - 32 * x * (y - x**2), 16 * (y - x**2)])


def walk(m, title):
    """The way of one optimizer down the valley, a row a step."""
    options, name = RUNS[title], title.partition(",")[0]
    m.step(title)
    if name == "adam_step":
        way, at, first, second = [START], m.to(START), m.to(0 * START), m.to(0 * START)
        for t in range(1, PATH + 1):
            at, first, second = m.adam_step(at, m.to(slope(way[-1])), first, second, t, **options)
            way.append(m.array(at, "p", shape=(2,)).astype(np.float64))
        return np.array(way)
    return np.array(list(ways(m, name, options)))


def ways(m, name, options):
    at = m.to(START)
    yield START
    if m.framework == "jax":
        import jax

        init, update = getattr(m, name.lower())(options["lr"], **{k: x for k, x in options.items() if k != "lr"})
        state, update = init(at), jax.jit(update)
        for _ in range(PATH):
            moved, state = update(m.to(slope(np.asarray(at, np.float64))), state, at)
            at = at + moved
            yield m.array(at, "p", shape=(2,)).astype(np.float64)
        return
    params = [at.requires_grad_()] if m.framework == "torch" else {"p": at}
    optimizer = getattr(m, name)(params, **options)
    for _ in range(PATH):
        here = m.array(at.detach() if m.framework == "torch" else params["p"], "p", shape=(2,)).astype(np.float64)
        g = m.to(slope(here))
        if m.framework == "torch":
            at.grad = g
            optimizer.step()
        else:
            optimizer.step({"p": g})
        yield m.array(at.detach() if m.framework == "torch" else params["p"], "p", shape=(2,)).astype(np.float64)


def take(m, rng):
    titles = [title for title in RUNS if "amsgrad" not in title or m.framework in CLASSES]
    return {title: lambda title=title: walk(m, title) for title in titles}


def draw(figure, yours, reference):
    titles = list(reference or yours)
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    x, y = np.meshgrid(np.linspace(-1.4, 1.6, 140), np.linspace(-0.6, 2.2, 140))
    for ax, title in zip(axes, titles, strict=True):
        ax.contour(x, y, surface(x, y), levels=np.geomspace(0.05, 60, 11), colors=MUTED, linewidths=0.7, alpha=0.5)
        mine, right = (data.get(title) if data else None for data in (yours, reference))
        curves = [way[:, 1] if way is not None else None for way in (mine, right)]
        sides = {"yours": mine, "reference": right}
        across = {side: way[:, 0] for side, way in sides.items() if way is not None}
        both(ax, across, *curves, marks=False)
        ax.plot(*START, "o", color=MUTED, markersize=4)
        ax.plot(1, 1, "+", color=INK, markersize=8)
        ax.set(title=title, xlim=(-1.4, 1.6), ylim=(-0.6, 2.2), xticks=[], yticks=[], aspect="equal")


PROBES = (
    Probe("adam_step", "numbers", SIZES, one_step),
    Probe("Adam", "numbers", SIZES, *steps_of("Adam"), accurate=SIZES[:3]),
    Probe("AdamW", "numbers", SIZES, *steps_of("AdamW"), accurate=SIZES[:3]),
)
PICTURES = (
    Picture(
        "Down a curved valley",
        f"{PATH} steps on Rosenbrock's function, flattened, from the dot; the cross is the minimum. AdamW's decay "
        "pulls towards the origin, which is why it does not arrive.",
        "Contours of a curved valley with the paths of each optimizer, the attempt's on the reference's.",
        take,
        draw,
        size=(9.6, 2.9),
    ),
)
