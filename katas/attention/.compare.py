"""What is compared of the attention kata."""

import numpy as np

from graders.checks import Case
from graders.compare import Picture, Probe
from graders.compare.drawing import panels, shade
from graders.kernels import attention as kernels

H, D = 4, 16
BLOCK = 32
SIZES = (32, 64, 128, 256)
SEEN = 16  # positions in the picture
HEADS = ("the same", "one back", "every fourth", "all alike")


def inputs(rng, n):
    return tuple(rng.normal(size=(1, H, n, D)) for _ in range(3))


def plain(rng, n):
    q, k, v = inputs(rng, n)
    mask = rng.random((n, n)) < 0.8
    mask[n // 2] = False
    return Case("attention", (q, k, v), kernels.attention, options={"mask": mask})


def causal(rng, n):
    return Case("causal_attention", inputs(rng, n), kernels.causal_attention)


def multi_head(rng, n):
    width, kv_heads = H * D, 2
    shapes = ((1, n, width), (width, width), (width, kv_heads * D), (width, kv_heads * D), (width, width))
    x, *weights = (rng.normal(size=shape) for shape in shapes)
    options = {"n_heads": H, "n_kv_heads": kv_heads, "causal": True}
    args = (x, *(w / np.sqrt(width) for w in weights))
    return Case("multi_head_attention", args, kernels.multi_head_attention, options=options)


def blockwise(rng, n):
    options = {"block_size": BLOCK, "causal": True}
    return Case("blockwise_attention", inputs(rng, n), kernels.blockwise_attention, options=options)


def heads():
    """Queries and keys whose heads look in four ways: at the same place, one back, at every fourth, at all alike."""
    place = np.arange(SEEN)

    def waves(at, periods):
        angles = 2 * np.pi * at[:, None] / np.asarray(periods)
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)

    fine, fourth = (2.5, 5, 11, 23), (4, 4, 4, 4)
    q = np.stack([waves(place, fine), waves(place - 1, fine), waves(place, fourth), 0 * waves(place, fine)])
    k = np.stack([waves(place, fine), waves(place, fine), waves(place, fourth), waves(place, fine)])
    return 3.0 * q[None], k[None]


def take(m, rng):
    """With the identity for values, what comes out are the weights."""
    q, k = heads()
    v = np.broadcast_to(np.eye(SEEN), (1, len(HEADS), SEEN, SEEN)).copy()
    mask = np.ones((SEEN, SEEN), bool)
    mask[:, 12:] = mask[5] = False
    calls = {
        "masked": lambda: m.attention(m.to(q), m.to(k), m.to(v), mask=m.to(mask)),
        "causal": lambda: m.causal_attention(m.to(q), m.to(k), m.to(v)),
    }
    shape = (1, len(HEADS), SEEN, SEEN)
    return {name: lambda name=name, call=call: m.array(call(), name, shape=shape)[0] for name, call in calls.items()}


def draw(figure, yours, reference):
    rows = [("masked", "yours", yours), ("masked", "reference", reference)]
    rows += [("causal", "yours", yours), ("causal", "reference", reference)]
    axes = panels(figure, len(rows), len(HEADS))
    for (name, side, data), line in zip(rows, axes, strict=True):
        line[0].set_ylabel(f"{name}\n{side}")
        for i, ax in enumerate(line):
            if data and name in data:
                shade(ax, data[name][i], side)
    for ax, head in zip(axes[0], HEADS, strict=True):
        ax.set_title(head)


PROBES = (
    Probe("attention", "T = S", SIZES, plain),
    Probe("causal_attention", "T = S", SIZES, causal),
    Probe("multi_head_attention", "T", SIZES, multi_head),
    Probe("blockwise_attention", "T = S", SIZES, blockwise),
)
PICTURES = (
    Picture(
        "Attention weights",
        "Row i is where query i looks. With the identity for values, the result of attention is its weights. Above "
        "with a mask that hides the last four keys from all queries and every key from query 5; below causal. The "
        "heads are made to look at the same place, one back, at every fourth place, and at all alike.",
        "Grids of attention weights: four heads, masked and causal, the attempt's above the reference's.",
        take,
        draw,
        size=(9.0, 9.2),
    ),
)
