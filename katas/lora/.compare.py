"""What is compared of the LoRA kata."""

import numpy as np

from graders.checks import Case, Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import both
from graders.kernels import lora as kernels

RANK, ALPHA, ROWS = 8, 16.0, 32
WIDTHS = (64, 128, 256, 512)
BATCHES = (2, 8, 32, 128)
RANKS = (2, 4, 8)
WIDTH = 24  # of the layer in the pictures
TIMES = (0, 1, 2, 4, 8, 16, 32, 64)


def parts(rng, n):
    """An input, a base layer and an adapter whose B is not zero; a layer of n to n."""
    shapes = {"x": (ROWS, n), "w": (n, n), "a": (RANK, n), "b": (n, RANK), "bias": (n,)}
    return {name: rng.normal(size=shape) / np.sqrt(n) ** (name != "x") for name, shape in shapes.items()}


def layer(m, w, a, b, bias, alpha=ALPHA):
    """The person's LoRALinear with this base and this adapter."""
    import torch

    base = torch.nn.Linear(w.shape[1], w.shape[0], dtype=m.dtype, device=m.device)
    made = m.LoRALinear(base, len(a), alpha)
    with torch.no_grad():
        base.weight.copy_(m.to(w))
        base.bias.copy_(m.to(bias))
        made.lora_A.copy_(m.to(a))
        made.lora_B.copy_(m.to(b))
    return made.eval()


def wrapped(title, merged):
    def made(m, x, **given):
        m.step(f"LoRALinear of rank {RANK}, {'merged' if merged else 'not merged'}")
        found = layer(m, **given)
        if merged:
            found.merge()
        return found, m.to(x)

    def play(m, **arrays):
        found, x = made(m, **arrays)
        return {"out": m.array(found(x).detach(), "out")}

    def kernel(x, w, a, b, bias):
        if merged:
            return {"out": x @ kernels.merged(w, a, b, alpha=ALPHA).T + bias}
        return {"out": kernels.linear(x, w, bias, a, b, alpha=ALPHA)}

    def ready(m, **arrays):
        import torch

        found, x = made(m, **arrays)

        @torch.no_grad()
        def forward():
            return found(x)

        return forward

    def make(rng, n):
        return Scenario(title, parts(rng, n), play, kernel, draws=True)

    return Probe(title, "I = O", WIDTHS, make, ready, only=("torch",))


def functional(rng, n):
    given = parts(rng, n)
    args = tuple(given[name] for name in ("x", "w", "bias", "a", "b"))
    return Case("lora_linear", args, kernels.linear, options={"alpha": ALPHA})


def merge(rng, n):
    given = parts(rng, n)
    args = tuple(given[name] for name in ("w", "a", "b"))
    return Case("merge", args, kernels.merged, options={"alpha": ALPHA})


def batched(rng, n):
    count, width = 6, 64
    shapes = ((n, 4, width), (width, width), (count, RANK, width), (count, width, RANK))
    args = (*(rng.normal(size=shape) / 8 for shape in shapes), rng.integers(-1, count, size=n))
    return Case("batched_lora", args, kernels.batched, options={"scaling": rng.uniform(0.5, 2.0, size=count)})


def adapter(rng, rank):
    shapes = {"w": (WIDTH, WIDTH), "a": (rank, WIDTH), "b": (WIDTH, rank), "bias": (WIDTH,)}
    return {name: rng.normal(size=shape) / np.sqrt(WIDTH) for name, shape in shapes.items()}


def spectra(m, rng):
    """The singular values of what the adapter adds to the layer: its outputs for the unit vectors, less the base's."""
    found, one = {}, np.eye(WIDTH)
    for rank in RANKS:
        given = adapter(rng, rank)
        m.step(f"an adapter of rank {rank}")
        if m.framework == "torch":
            out = m.array(layer(m, **given)(m.to(one)).detach(), "out", shape=one.shape)
        else:
            args = (m.to(given[name]) for name in ("w", "bias", "a", "b"))
            out = m.array(m.lora_linear(m.to(one), *args, alpha=ALPHA), "out", shape=one.shape)
        added = out.astype(np.float64) - (given["w"].T + given["bias"])
        found[f"rank {rank}"] = np.linalg.svd(added, compute_uv=False)
    return found


def draw_spectra(figure, yours, reference):
    axes = figure.subplots(1, len(RANKS), sharey=True)
    for ax, rank in zip(axes, RANKS, strict=True):
        name = f"rank {rank}"
        curves = [np.maximum(data[name], 1e-9) if data else None for data in (yours, reference)]
        both(ax, np.arange(1, WIDTH + 1), *curves)
        ax.set(yscale="log", title=name, xlabel="singular value")
    axes[0].set_ylabel("size")


def drift(m, rng):
    """How far the weight is from what it was after merging and unmerging again and again."""
    import torch

    found = {}
    given = adapter(rng, RANK)
    for dtype in ("float32", "bfloat16"):
        made = layer(m, **given).to(getattr(torch, dtype))
        base = next(p for p in made.parameters() if p.shape == (WIDTH, WIDTH))
        before, off = base.detach().to(torch.float64).clone(), []
        for times in range(TIMES[-1] + 1):
            if times in TIMES:
                now = base.detach().to(torch.float64)
                off.append(float((now - before).abs().max() / before.abs().max()))
            m.step(f"merge and unmerge number {times + 1} in {dtype}")
            made.merge()
            made.unmerge()
        found[dtype] = np.array(off)
    return found


def draw_drift(figure, yours, reference):
    axes = figure.subplots(1, 2)
    for ax, dtype in zip(axes, ("float32", "bfloat16"), strict=True):
        curves = [data[dtype] if data else None for data in (yours, reference)]
        both(ax, np.arange(len(TIMES)), *curves)
        ax.set(title=dtype, xlabel="merged and unmerged, times", ylim=(0, None))
        ax.set_xticks(range(len(TIMES)), [str(t) for t in TIMES])
        ax.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes[0].set_ylabel("the weight's error, of its largest entry")


PROBES = (
    wrapped("LoRALinear", merged=False),
    wrapped("LoRALinear, merged", merged=True),
    Probe("lora_linear", "I = O", WIDTHS, functional, only=("jax",)),
    Probe("merge", "I = O", WIDTHS, merge, only=("jax",)),
    Probe("batched_lora", "B", BATCHES, batched),
)
PICTURES = (
    Picture(
        "What an adapter adds",
        f"The singular values of the update that a layer of {WIDTH} makes, taken from its outputs: as many as the "
        "rank, and rounding after them. A wrong scale moves the whole curve.",
        "Singular values of the adapter's update for ranks 2, 4 and 8, falling to rounding after the rank.",
        spectra,
        draw_spectra,
        size=(9.4, 2.9),
    ),
    Picture(
        "What merging leaves behind",
        "The weight after merging and unmerging again and again. Subtracting what was added leaves a rounding behind; "
        "a copy that is put back leaves none, and costs its memory.",
        "The error of the base weight by the number of merges and unmerges, in float32 and bfloat16.",
        drift,
        draw_drift,
        size=(9.4, 2.9),
        only=("torch",),
    ),
)
