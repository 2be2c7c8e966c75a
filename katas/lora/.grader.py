"""The hidden grader of the LoRA kata."""

import contextlib
from dataclasses import replace
from functools import partial

import numpy as np

from graders import level
from graders.checks import (
    Case,
    Dims,
    Scenario,
    check_dtype,
    check_from_scratch,
    check_gradients,
    check_growth,
    check_parity,
    check_play,
    check_shape,
    check_values,
)
from graders.kernels import lora as kernels

AXES = Dims(B=2, T=3, I=5, O=7, R=4, N=6)
RANK, ALPHA = 4, 7.0
DRAWS, SEQUENCES = 4000, 40
TARGETS = ("q_proj", "v_proj")
IDS = np.array([2, -1, 0, 2, 5])
LARGE_RANK = 11  # above both widths
OTHER_INPUTS = ("I", "T I", "B N T I")  # of one axis, two and four


def arrays(rng, bias=True, x="B T I"):
    """An input, a base layer and an adapter whose B is not zero."""
    found = {name: rng.normal(size=AXES[axes]) for name, axes in {"x": x, "w": "O I", "a": "R I", "b": "O R"}.items()}
    return {**found, "bias": rng.normal(size=AXES["O"])} if bias else found


def base_layer(m, w, bias=None):
    """The nn.Linear to wrap, where the attempt is tried."""
    import torch

    base = torch.nn.Linear(w.shape[1], w.shape[0], bias=bias is not None, dtype=m.dtype)
    base = base.to(m.device)
    with torch.no_grad():
        base.weight.copy_(m.to(w))
        if bias is not None:
            base.bias.copy_(m.to(bias))
    return base


@contextlib.contextmanager
def nothing_left_over():
    """Memory that torch.empty gives holds NaN, not what lay there before, which may look random."""
    import torch

    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms does, which imports the compiler first
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def set_adapter(m, layer, a, b):
    import torch

    with torch.no_grad():
        layer.lora_A.copy_(m.to(a))
        layer.lora_B.copy_(m.to(b))


def wrapped(m, w, a, b, bias=None, dropout=0.0, **_):
    """A LoRALinear with this adapter."""
    m.step(f"LoRALinear of rank {RANK}, alpha {ALPHA:g}, dropout {dropout:g}")
    layer = m.LoRALinear(base_layer(m, w, bias), RANK, ALPHA, dropout)
    set_adapter(m, layer, a, b)
    return layer


def layer_scenario(rng, play, kernel=lambda **arrays: {}, bias=True, **more):
    name = f"LoRALinear of rank {RANK}, alpha {ALPHA:g}"
    return Scenario(name, {**arrays(rng, bias), **more}, play, kernel, draws=True)


def forward(m, x, turned=False, **given):
    """turned: x lies in memory with its axes in reverse order."""
    layer = wrapped(m, **given)
    m.step(f"forward with x {x.shape}{', transposed in memory' if turned else ''}")
    native = m.to(np.ascontiguousarray(x.T), "x").permute(*reversed(range(x.ndim))) if turned else m.to(x, "x")
    return {"out": m.array(layer(native).detach(), "out")}


def right_forward(x, w, a, b, bias=None):
    return {"out": kernels.linear(x, w, bias, a, b, alpha=ALPHA)}


@level(1, only=("torch",))
def test_adapter_shapes(attempt, rng):
    """lora_A is (R, I) and random, lora_B (O, R) and zero, in the base's dtype and on its device"""

    def play(m, x, w, a, b, bias):
        with nothing_left_over():
            layers = [m.LoRALinear(base_layer(m, w, bias), RANK, ALPHA) for _ in range(2)]
        first, second = (m.array(layer.lora_A.detach(), "lora_A", shape=a.shape) for layer in layers)
        zero = m.array(layers[0].lora_B.detach(), "lora_B", shape=b.shape)
        m.check(first.any(), "lora_A starts at zero")
        m.check(len(np.unique(first)) > first.size // 2, "lora_A does not start random: its numbers repeat")
        m.check(not np.array_equal(first, second), "two layers start with the same lora_A")
        m.check(np.array_equal(zero, np.zeros_like(zero)), "lora_B does not start at zero")
        wide = m.LoRALinear(base_layer(m, w, bias), LARGE_RANK, ALPHA)
        m.array(wide.lora_A.detach(), f"lora_A of rank {LARGE_RANK}", shape=(LARGE_RANK, w.shape[1]))
        return {}

    check_values(attempt, layer_scenario(rng, play), dtypes=attempt.backend.dtypes)


@level(1, only=("torch",))
def test_layer_values(attempt, rng):
    """base(x) + (alpha / rank) x A^T B^T, with a bias and without, for any x (..., I), in each dtype"""
    for bias in (True, False):
        check_values(attempt, layer_scenario(rng, forward, right_forward, bias), dtypes=attempt.backend.dtypes)
    for turned in (False, True):
        for x in OTHER_INPUTS:
            scenario = layer_scenario(rng, partial(forward, turned=turned), right_forward)
            check_values(attempt, replace(scenario, arrays=scenario.arrays | {"x": rng.normal(size=AXES[x])}))


@level(1, only=("torch",))
def test_layer_starts_as_base(attempt, rng):
    """before training the wrapped layer is the base"""

    def play(m, x, w, a, b, bias):
        layer = m.LoRALinear(base_layer(m, w, bias), RANK, ALPHA)
        return {"out": m.array(layer(m.to(x, "x")).detach(), "out")}

    check_values(attempt, layer_scenario(rng, play, lambda x, w, a, b, bias: {"out": x @ w.T + bias}))


@level(1, only=("torch",))
def test_layer_rank_one(attempt, rng):
    """a rank of 1 is a rank, an alpha of 0 a number; without a word on dropout there is none in training"""

    def play(m, x, w, a, b, bias, rank):
        m.step(f"LoRALinear of rank {rank} and alpha 0")
        off = m.LoRALinear(base_layer(m, w, bias), rank, 0.0)
        set_adapter(m, off, a[:rank], b[:, :rank])
        out, alone = (m.array(y.detach(), "out") for y in (off(m.to(x)), base_layer(m, w, bias)(m.to(x))))
        same = np.abs(out - alone).max() < 1e-3 * np.abs(alone).max()
        m.check(same, "with an alpha of 0 the adapter changes what the base gives")
        m.step(f"LoRALinear of rank {rank}, dropout left out, in training")
        layer = m.LoRALinear(base_layer(m, w, bias), rank, ALPHA)
        set_adapter(m, layer, a[:rank], b[:, :rank])
        return {"out": m.array(layer.train()(m.to(x, "x")).detach(), "out")}

    def kernel(x, w, a, b, bias, rank):
        return right_forward(x, w, a[:rank], b[:, :rank], bias)

    for rank in (1, 3):
        check_values(attempt, layer_scenario(rng, partial(play, rank=rank), partial(kernel, rank=rank)))


@level(1, only=("torch",))
def test_layer_frozen(attempt, rng):
    """the base's parameters are the same objects, frozen, and unchanged by an optimizer"""

    def play(m, x, w, a, b, bias):
        import torch

        base = base_layer(m, w, bias)
        own = {"weight": base.weight, "bias": base.bias}
        layer = m.LoRALinear(base, RANK, ALPHA)
        parameters = list(layer.parameters())
        trained = [p for p in parameters if p.requires_grad]
        adapter = (layer.lora_A, layer.lora_B)
        for name, p in own.items():
            m.check(any(p is other for other in parameters), f"the base's {name} is a copy, not the same object")
            m.check(not p.requires_grad, f"the base's {name} is not frozen")
        m.check(
            len(trained) == 2 and all(any(p is other for other in trained) for p in adapter),
            f"{len(trained)} parameters are trained, expected lora_A and lora_B",
        )
        m.step("one optimizer step")
        layer(m.to(x)).square().sum().backward()
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    p -= 0.1 * p.grad
        for name, p, before in (("weight", own["weight"], w), ("bias", own["bias"], bias)):
            m.check(p.grad is None, f"the base's {name} has a gradient")
            now = m.array(p.detach(), name)
            m.check(np.array_equal(now, before.astype(now.dtype)), f"the base's {name} changed")
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(1, only=("torch",))
def test_layer_gradients(attempt, rng):
    """lora_A, lora_B and x get their gradients"""

    def play(m, x, upstream, **given):
        layer = wrapped(m, **given)
        x = m.to(x).requires_grad_()
        m.step("backward")
        (layer(x) * m.to(upstream)).sum().backward()
        found = {"x": x, "lora_A": layer.lora_A, "lora_B": layer.lora_B}
        for name, p in found.items():
            m.check(p.grad is not None, f"{name} gets no gradient")
        return {f"the gradient of {name}": m.array(p.grad, name) for name, p in found.items()}

    def kernel(x, upstream, w, a, b, bias):
        dx, _, _, da, db = kernels.linear_backward(upstream, x, w, bias, a, b, alpha=ALPHA)
        return {f"the gradient of {name}": d for name, d in {"x": dx, "lora_A": da, "lora_B": db}.items()}

    upstream = rng.normal(size=AXES["B T O"])
    check_values(attempt, layer_scenario(rng, play, kernel, upstream=upstream))


def dropped(m, w, bias, training, p=0.25):
    """What the adapter adds to DRAWS rows of ones: its first row sums x[0] + 2 x[1], and alpha / rank is undone."""
    import torch

    a, b = np.zeros(AXES["R I"]), np.zeros(AXES["O R"])
    a[0, :2], b[0, 0] = (1, 2), 1
    base = base_layer(m, w, bias)
    layer = m.LoRALinear(base, RANK, ALPHA, p)
    set_adapter(m, layer, a, b)
    layer.train(training)
    x = np.ones((SEQUENCES, DRAWS // SEQUENCES, w.shape[1]))
    m.step(f"{DRAWS} rows with dropout {p}, {'training' if training else 'eval'}")
    with torch.no_grad():
        given = m.to(x, "x")
        added = m.array(layer(given), "out") - m.array(base(m.to(x)), "base(x)")
    m.unchanged()
    return added[..., 0].astype(np.float64) * RANK / ALPHA, added[..., 1:]


@level(1, only=("torch",))
def test_layer_dropout(attempt, rng):
    """dropout acts on the adapter's input alone, in training only"""

    def play(m, x, w, a, b, bias):
        kept = 0.75
        added, rest = dropped(m, w, bias, training=False)
        m.check(np.allclose(added, 3, rtol=1e-3), "dropout acts in eval too")
        added, rest = dropped(m, w, bias, training=True)
        m.check(np.abs(rest).max() < 1e-3, "dropout acts on the base's path too: only the adapter's input is dropped")
        m.check(not np.allclose(added, 3, rtol=1e-3), "there is no dropout in training")
        for axis, what in enumerate(("sequences of the batch", "positions of a sequence")):
            m.check((np.ptp(added, axis=axis) > 1e-3).any(), f"all {what} are dropped alike: they share a mask")
        values = added.ravel() * kept
        near = np.abs(values[:, None] - np.arange(4)) < 1e-2
        m.check(
            near.any(-1).all(),
            f"the adapter's outputs are {np.unique(np.round(added, 2))[:6]}, expected multiples of 1 / (1 - p): "
            "what is kept should be scaled by that",
        )
        share = near.mean(0)
        expected = np.array([0.25 * 0.25, 0.75 * 0.25, 0.25 * 0.75, 0.75 * 0.75])  # of 0, 1, 2, 3
        off = np.abs(share - expected) / np.sqrt(expected * (1 - expected) / DRAWS)
        m.check(
            (off < 6).all(),
            f"the sums 0, 1, 2, 3 of two inputs come in shares {np.round(share, 3)}, expected {np.round(expected, 3)}: "
            "each entry of x should be dropped by itself, with probability p",
        )
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(1, only=("torch",))
def test_layer_errors(attempt, rng):
    """rank < 1: ValueError, and the base is as it was"""

    def play(m, x, w, a, b, bias):
        for rank in (0, -2):
            base = base_layer(m, w)
            m.raises(ValueError, lambda rank=rank, base=base: m.LoRALinear(base, rank, ALPHA), f"a rank of {rank}")
            m.check(base.weight.requires_grad, f"the base was frozen although a rank of {rank} is refused")
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(1, only=("torch",))
def test_layer_parity(attempt, rng, places):
    """it gives the same in every place"""
    check_parity(attempt, layer_scenario(rng, forward, right_forward), places)


@level(1, only=("torch",))
def test_layer_from_scratch(attempt, rng):
    """the layer is made from its parts"""
    check_from_scratch(attempt, layer_scenario(rng, forward, right_forward))


def functional(rng, bias=True, x="B T I", rank=RANK):
    given = arrays(rng, bias, x)
    given |= {"a": given["a"][:rank], "b": given["b"][:, :rank]}
    args = tuple(given.get(name) for name in ("x", "w", "bias", "a", "b"))
    return Case("lora_linear", args, kernels.linear, kernels.linear_backward, {"alpha": ALPHA})


@level(1, only=("jax",))
def test_init_values(attempt, rng):
    """init_lora gives a (R, I), random, and b (O, R), zero, also of rank 1 or of one above I and O"""

    def play(m, x, w, a, b, bias):
        import jax

        for rank in (1, LARGE_RANK):
            for part, shape in zip(m.init_lora(jax.random.key(1), 5, 7, rank), ((rank, 5), (7, rank)), strict=True):
                m.array(part, f"an adapter of rank {rank}", shape=shape, dtype="any")
        pairs = [m.init_lora(jax.random.key(seed), w.shape[1], w.shape[0], RANK) for seed in (1, 2, 1)]
        m.check(all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs), "init_lora should return (a, b)")
        first, second, again = (m.array(pair[0], "a", shape=a.shape, dtype="any") for pair in pairs)
        zero = m.array(pairs[0][1], "b", shape=b.shape, dtype="any")
        m.check(first.any(), "a starts at zero")
        m.check(len(np.unique(first)) > first.size // 2, "a does not start random: its numbers repeat")
        m.check(np.array_equal(first, again), "the same key gives another a")
        m.check(not np.array_equal(first, second), "two keys give the same a")
        m.check(np.array_equal(zero, np.zeros_like(zero)), "b does not start at zero")
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(1, only=("jax",))
def test_init_errors(attempt, rng):
    """rank < 1: ValueError"""

    def play(m, w, **_):
        import jax

        out, into = w.shape
        for rank in (0, -2):
            m.raises(ValueError, lambda rank=rank: m.init_lora(jax.random.key(1), into, out, rank), f"a rank of {rank}")
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(1, only=("jax",))
def test_linear_shape(attempt, rng):
    """lora_linear returns (B, T, O)"""
    check_shape(attempt, functional(rng), AXES, "B T O")


@level(1, only=("jax",))
def test_linear_dtype(attempt, rng):
    """the result has the dtype of x"""
    check_dtype(attempt, functional(rng))


@level(1, only=("jax",))
def test_linear_values(attempt, rng):
    """x W^T + bias + (alpha / rank) x A^T B^T, with a bias and without, of any rank, for any x (..., I)"""
    check_values(attempt, functional(rng), dtypes=("float32", "float64"))
    check_values(attempt, functional(rng, bias=False))
    for x, rank in zip(OTHER_INPUTS, (1, 2, 3), strict=True):
        check_values(attempt, functional(rng, x=x, rank=rank))
    case = functional(rng)
    x, w, bias, a, b = case.args
    check_values(attempt, replace(case, args=(x, w[:1], bias[:1], a, b[:1])))
    check_values(attempt, replace(case, options={"alpha": 0.0}))


@level(1, only=("jax",))
def test_linear_gradients(attempt, rng):
    """all of x, weight, bias, a and b get their gradients"""
    check_gradients(attempt, functional(rng), rng)


@level(1, only=("jax",))
def test_linear_parity(attempt, rng, places):
    """it gives the same in every place"""
    check_parity(attempt, functional(rng), places)


@level(2, only=("torch",))
def test_merge_values(attempt, rng):
    """merged, the output is the same, in each dtype, with a bias and without, and x gets its gradient"""

    def play(m, x, upstream, **given):
        layer = wrapped(m, **given).eval()
        m.step("merge")
        layer.merge()
        m.check(bool(layer.merged), "after merge() `merged` is not True")
        x = m.to(x, "x").requires_grad_()
        m.step("forward, merged")
        out = layer(x)
        m.array(out.detach(), "out", shape=upstream.shape)
        m.check(out.requires_grad, "merged, x gets no gradient")
        (out * m.to(upstream)).sum().backward()
        m.check(x.grad is not None, "merged, x gets no gradient")
        return {"out": m.array(out.detach(), "out"), "the gradient of x": m.array(x.grad, "the gradient of x")}

    def kernel(x, upstream, w, a, b, bias=None):
        whole = kernels.merged(w, a, b, alpha=ALPHA)
        return {"out": x @ whole.T + (0 if bias is None else bias), "the gradient of x": upstream @ whole}

    upstream = rng.normal(size=AXES["B T O"])
    for bias in (True, False):
        scenario = layer_scenario(rng, play, kernel, bias, upstream=upstream)
        check_values(attempt, scenario, dtypes=attempt.backend.dtypes)


@level(2, only=("torch",))
def test_merge_cost(attempt, rng):
    """merged, the forward costs one matrix product"""

    def play(m, x, **given):
        layer = wrapped(m, **given).eval()
        base = base_layer(m, given["w"], given["bias"])
        layer.merge()
        x = m.to(x)
        alone, merged = m.cost(lambda: base(x)).flops, m.cost(lambda: layer(x)).flops
        m.step("forward, merged")
        m.check(merged <= alone, f"the merged forward costs {merged} FLOPs, the base alone {alone}")
        return {}

    check_play(attempt, layer_scenario(rng, play))


@level(2, only=("torch",))
def test_merge_twice(attempt, rng):
    """merging twice is merging once, and so with unmerging; merged again, the adapter is the present one"""

    def play(m, x, **given):
        layer = wrapped(m, **given).eval()
        m.check(not layer.merged, "`merged` is True before merge()")
        x, found = m.to(x, "x"), {}
        for does in ("unmerge", "merge", "merge", "unmerge", "unmerge"):
            m.step(f"{does} after {', '.join(found) or 'nothing'}")
            getattr(layer, does)()
            m.check(bool(layer.merged) == (does == "merge"), f"after {does}() `merged` is {layer.merged}")
            if len(found) == 1:
                m.step("train() and eval() after merge")
                layer.train().eval()
            found[f"{len(found) + 1}. {does}"] = m.array(layer(x).detach(), "out")
        set_adapter(m, layer, given["a"][::-1], given["b"])
        for does in ("merge", "unmerge"):
            m.step(f"{does} after {', '.join(found)} and a change of the adapter")
            getattr(layer, does)()
            found[f"{len(found) + 1}. {does}, of another adapter"] = m.array(layer(x).detach(), "out")
        return {f"out after {name}": out for name, out in found.items()}

    def kernel(x, w, a, b, bias):
        out, other = (x @ kernels.merged(w, y, b, alpha=ALPHA).T + bias for y in (a, a[::-1]))
        names = ("1. unmerge", "2. merge", "3. merge", "4. unmerge", "5. unmerge")
        changed = ("6. merge, of another adapter", "7. unmerge, of another adapter")
        return {f"out after {name}": out for name in names} | {f"out after {name}": other for name in changed}

    check_values(attempt, layer_scenario(rng, play, kernel))


def restored(m, layer, base, w, a, b):
    """Unmerged, the base's weight is back to a few ulp of the larger of W and W + BA."""
    layer.unmerge()
    now = m.array(base.weight.detach(), "the base's weight").astype(np.float64)
    before = np.array(w.astype(m.dtype_name), np.float64)
    summed = kernels.merged(before, a.astype(np.float64), b.astype(np.float64), alpha=ALPHA)
    largest = max(np.abs(before).max(), np.abs(summed).max())
    eps = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-7}[m.dtype_name]
    off = np.abs(now - before).max()
    m.check(off <= 4 * eps * largest, f"unmerged, the weight is off by {off:.3g}, {off / eps / largest:.1f} ulp")


@level(2, only=("torch",))
def test_unmerge_restores(attempt, rng):
    """unmerge restores the weight to a few ulp, and the weight is the same object all along"""

    def play(m, x, w, a, b, bias):
        base = base_layer(m, w, bias)
        weight = base.weight
        layer = m.LoRALinear(base, RANK, ALPHA)
        set_adapter(m, layer, a, b)
        m.step("merge and unmerge")
        layer.merge()
        restored(m, layer, base, w, a, b)
        m.check(base.weight is weight, "the base's weight was replaced by another object")
        m.check(not weight.requires_grad, "the base's weight is no longer frozen")
        return {}

    for dtype in attempt.backend.dtypes:
        scenario = layer_scenario(rng, play).cast(dtype)
        check_values(attempt, scenario, dtypes=(dtype,))


@level(2, only=("torch",))
def test_merge_loaded(attempt, rng):
    """base weights that are loaded after wrapping are honoured"""

    def play(m, x, w, a, b, bias, loaded):
        import torch

        base = base_layer(m, w, bias)
        layer = m.LoRALinear(base, RANK, ALPHA).eval()
        set_adapter(m, layer, a, b)
        m.step("load other base weights, then merge")
        with torch.no_grad():
            base.weight.copy_(m.to(loaded))
        before = m.array(layer(m.to(x)).detach(), "out")
        layer.merge()
        out = m.array(layer(m.to(x)).detach(), "out")
        m.step("unmerge")
        restored(m, layer, base, loaded, a, b)
        m.step("load other base weights again, merge and unmerge")
        with torch.no_grad():
            base.weight.copy_(m.to(w))
        layer.merge()
        restored(m, layer, base, w, a, b)
        return {"out": before, "out, merged": out}

    def kernel(x, w, a, b, bias, loaded):
        merged = x @ kernels.merged(loaded, a, b, alpha=ALPHA).T + bias
        return right_forward(x, loaded, a, b, bias) | {"out, merged": merged}

    check_values(attempt, layer_scenario(rng, play, kernel, loaded=rng.normal(size=AXES["O I"])))


@level(2, only=("torch",))
def test_merge_parity(attempt, rng, places):
    """it gives the same in every place"""

    def play(m, x, **given):
        layer = wrapped(m, **given).eval()
        layer.merge()
        return {"out": m.array(layer(m.to(x)).detach(), "out")}

    def kernel(x, w, a, b, bias):
        return {"out": x @ kernels.merged(w, a, b, alpha=ALPHA).T + bias}

    check_parity(attempt, layer_scenario(rng, play, kernel), places)


def merge_case(rng, rank=RANK):
    given = arrays(rng)
    args = given["w"], given["a"][:rank], given["b"][:, :rank]
    return Case("merge", args, kernels.merged, options={"alpha": ALPHA})


@level(2, only=("jax",))
def test_merged_weight(attempt, rng):
    """merge gives W + (alpha / rank) B A, (O, I), of any rank"""
    check_shape(attempt, merge_case(rng), AXES, "O I")
    check_dtype(attempt, merge_case(rng))
    check_values(attempt, merge_case(rng), dtypes=("float32", "float64"))
    check_values(attempt, merge_case(rng, rank=1))


def transformer(m, rng_seed=3):
    """A small decoder: two blocks with named projections, a head that two names share, and traps for names."""
    import torch
    from torch import nn

    C = 6

    class Output(nn.Linear):
        pass

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(C)
            self.attn = nn.ModuleDict({name: nn.Linear(C, C) for name in ("q_proj", "k_proj", "v_proj")})
            self.attn["out"] = Output(C, C)
            self.mlp = nn.Sequential(nn.Linear(C, 9), nn.GELU(), nn.Linear(9, C))

        def forward(self, x):
            y = self.norm(x)
            q, k, v = (self.attn[name](y) for name in ("q_proj", "k_proj", "v_proj"))
            x = x + self.attn["out"]((q @ k.mT / C**0.5).softmax(-1) @ v)
            return x + self.mlp(x)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.q_proj_norm = nn.Linear(C, C)  # no target: its name only begins like one
            self.v_proj = nn.Sequential(nn.Linear(C, C))  # no target: the Linear in it is called "0"
            self.head = nn.Linear(C, C)
            self.tied = nn.ModuleDict({"decoder": self.head})
            self.lora_norm = nn.LayerNorm(C)  # no adapter, whatever it is called
            self.twice = nn.ModuleDict({"first": nn.ModuleDict({"gate": nn.Linear(C, C)})})
            self.twice["second"] = self.twice["first"]

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            x = self.lora_norm(x + self.twice["first"]["gate"](x))
            return self.tied["decoder"](self.head(self.v_proj(self.q_proj_norm(x))))

    generator = np.random.default_rng(rng_seed)
    model = Model().to(m.dtype).to(m.device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(m.to(generator.normal(size=tuple(parameter.shape)) / 2))
    return model


def adapt(model, names, m, seed=5):
    """Gives the adapters under these names numbers that are not zero; the same for the same name."""
    for i, name in enumerate(names):
        layer = model.get_submodule(name)
        generator = np.random.default_rng([seed, i])
        a, b = (generator.normal(size=tuple(p.shape)) / 2 for p in (layer.lora_A, layer.lora_B))
        set_adapter(m, layer, a, b)


def injected(m, targets=TARGETS, **more):
    model = transformer(m)
    m.step(f"inject_lora into {targets}")
    names = m.inject_lora(model, targets, rank=2, alpha=ALPHA, **more)
    m.check(names is not None, "inject_lora returns None: expected the names that were replaced")
    return model, list(names)


def expected_names(targets):
    found = [f"blocks.{i}.attn.{name}" for i in (0, 1) for name in ("q_proj", "k_proj", "v_proj", "out")]
    found = [name for name in found if name.rpartition(".")[2] in targets]
    found += ["head", "tied.decoder"] if {"head", "decoder"} & set(targets) else []
    return found + (["twice.first.gate", "twice.second.gate"] if "gate" in targets else [])


def check_names(m, model, names, targets):
    right = sorted(expected_names(targets))
    m.check(sorted(names) == right, f"replaced {sorted(names)}, expected {right}")
    under = [n for n, module in model.named_modules(remove_duplicate=False) if type(module) is m.LoRALinear]
    m.check(sorted(under) == right, f"a LoRALinear stands under {sorted(under)}, expected {right}")


def model_scenario(play, kernel=lambda **arrays: {}, **arrays):
    return Scenario("inject_lora", arrays, play, kernel, draws=True)


@level(3, only=("torch",))
def test_inject_names(attempt):
    """every nn.Linear whose last name component is a target is wrapped, and its name returned"""

    def play(m):
        for targets in (TARGETS, ["out"], {"k_proj"}):
            model, names = injected(m, targets)
            check_names(m, model, names, targets)
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_inject_frozen(attempt):
    """the adapters are trained, all else is frozen"""

    def play(m):
        model, names = injected(m)
        trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
        right = sorted(f"{name}.{last}" for name in names for last in ("lora_A", "lora_B"))
        m.check(trained == right, f"trained: {trained}, expected {right}")
        return {}

    check_play(attempt, model_scenario(play))


def merged_by_hand(m, names):
    """The model with (alpha / rank) B A in its weights, made without the attempt."""
    import torch

    model = transformer(m)
    with torch.no_grad():
        for i, name in enumerate(names):
            layer = model.get_submodule(name)
            generator = np.random.default_rng([5, i])
            a, b = (generator.normal(size=shape) / 2 for shape in ((2, layer.in_features), (layer.out_features, 2)))
            layer.weight += m.to(ALPHA / 2 * (b @ a))
    return model


@level(3, only=("torch",))
def test_inject_values(attempt, rng):
    """the model computes what it did before, and then with its adapters"""

    def play(m, x):
        from graders.checks import budget, compare

        before = transformer(m)
        model, names = injected(m)
        x = m.to(x)
        for right, what in ((before, "before training"), (None, "with adapters")):
            if right is None:
                adapt(model, sorted(names), m)
                right = merged_by_hand(m, sorted(names))
            m.step(f"the model {what}")
            got, expected = (m.array(y(x).detach(), "out") for y in (model, right))
            wide = expected.astype(np.float64)
            rough = (wide * (1 + 64 * np.finfo(m.dtype_name).eps)).astype(m.dtype_name)  # some 64 roundings deep
            if wrong := compare(got, wide, budget(wide, rough), f"out {what}"):
                raise wrong
        return {}

    check_play(attempt, model_scenario(play, x=rng.normal(size=(2, 3, 6))))


@level(3, only=("torch",))
def test_inject_shared(attempt):
    """a module under two names stays shared: replaced under both if one matches, and both are returned"""

    def play(m):
        for targets in (["decoder"], ["head"], ["head", "decoder"], ["gate"]):
            model, names = injected(m, targets)
            check_names(m, model, names, targets)
            m.check(model.head is model.tied["decoder"], "the shared module became two")
            m.check(model.twice["first"] is model.twice["second"], "the shared module became two")
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_inject_again(attempt):
    """what is wrapped already stays as it is, trainable as it was"""

    def play(m):
        model, _ = injected(m, ["q_proj"])
        old = [model.blocks[i].attn["q_proj"] for i in (0, 1)]
        old[1].lora_A.requires_grad_(False)
        m.step("inject_lora a second time, into q_proj again, v_proj and whatever is called base or linear")
        m.inject_lora(model, ["q_proj", "v_proj", "base", "linear", "layer"], rank=3, alpha=ALPHA)
        now = [model.blocks[i].attn["q_proj"] for i in (0, 1)]
        m.check(now[0] is old[0] and now[1] is old[1], "a layer that was wrapped already was replaced")
        inside = [n for n, x in old[0].named_modules() if n and type(x) is m.LoRALinear]
        m.check(not inside, f"the layer inside a wrapped one was wrapped again: {inside}")
        kept = [p.requires_grad for layer in now for p in (layer.lora_A, layer.lora_B)]
        m.check(kept == [True, True, False, True], f"adapters that were there are trained {kept}, expected as before")
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_inject_errors(attempt):
    """nothing matches: ValueError, with nothing changed"""

    def play(m):
        model = transformer(m)
        m.raises(
            ValueError, lambda: m.inject_lora(model, ["proj", "norm"], rank=2, alpha=1.0), "targets that no layer has"
        )
        m.check(all(p.requires_grad for p in model.parameters()), "the model was frozen although nothing matched")
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_inject_options(attempt, rng):
    """rank, alpha and dropout reach the adapters"""

    def play(m, x):
        model, names = injected(m, dropout=0.5)
        layer = model.get_submodule(sorted(names)[0])
        m.array(layer.lora_A.detach(), "lora_A", shape=(2, 6))
        adapt(model, sorted(names)[:1], m)
        x = m.to(x)
        m.step("dropout 0.5, injected into a model in eval mode")
        one, two = (m.array(layer(x).detach(), "out") for _ in range(2))
        m.check(np.array_equal(one, two), "there is dropout in eval: the wrapper is not in the mode of what it wraps")
        m.step("train mode with dropout 0.5")
        layer.train()
        one, two = (m.array(layer(x).detach(), "out") for _ in range(2))
        m.check(not np.array_equal(one, two), "dropout did not reach the adapter")
        m.step("train mode, dropout left out")
        model, names = injected(m)
        adapt(model, sorted(names)[:1], m)
        layer = model.get_submodule(sorted(names)[0])
        trained = m.array(layer.train()(x).detach(), "out")
        right = m.array(layer.eval()(x).detach(), "out")
        m.check(np.array_equal(trained, right), "without a word on dropout there is some in training")
        return {}

    check_play(attempt, model_scenario(play, x=rng.normal(size=(20, 6))))


@level(3, only=("torch",))
def test_state_dict(attempt):
    """lora_state_dict: the adapters' tensors alone, keyed as in model.state_dict()"""

    def play(m):
        model, names = injected(m, [*TARGETS, "head", "gate"])
        adapt(model, sorted(names), m)
        model.head.lora_A.requires_grad_(False)
        model.lora_norm.requires_grad_(True)
        alone = m.LoRALinear(base_layer(m, np.ones((3, 2))), 1, ALPHA)
        for adapted, stands in ((model, [f"{name}." for name in names]), (alone, [""])):
            m.step(f"lora_state_dict of {'a model' if adapted is model else 'a LoRALinear alone'}")
            state = m.lora_state_dict(adapted)
            right = sorted(f"{path}{last}" for path in stands for last in ("lora_A", "lora_B"))
            m.check(sorted(state) == right, f"keys {sorted(state)}, expected {right}")
            whole = adapted.state_dict()
            for key, tensor in state.items():
                same = np.array_equal(m.array(tensor.detach(), key), m.array(whole[key], key))
                m.check(same, f"{key} is not the model's tensor")
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_load_state_dict(attempt, rng):
    """adapters loaded into a fresh model with the same base make it the same model"""

    def play(m, x):
        import copy

        import torch

        model, names = injected(m)
        adapt(model, sorted(names), m)
        state = {key: tensor.detach().clone() for key, tensor in copy.copy(m.lora_state_dict(model)).items()}
        fresh, _ = injected(m)
        m.step("load_lora_state_dict into a fresh model")
        m.load_lora_state_dict(fresh, state)
        got, right = (m.array(y(m.to(x)).detach(), "out") for y in (fresh, model))
        m.check(np.array_equal(got, right), "the model with loaded adapters gives other outputs")
        left = [p.requires_grad for name, p in fresh.named_parameters() if name.endswith(("lora_A", "lora_B"))]
        m.check(all(left), "loaded adapters are no longer trained")
        other = torch.float32 if m.dtype == torch.float64 else torch.float64
        m.step(f"load_lora_state_dict of a state in {other}")
        m.load_lora_state_dict(fresh, {key: tensor.to(other) for key, tensor in state.items()})
        for name, p in fresh.named_parameters():
            m.array(p.detach(), name)
        return {}

    check_play(attempt, model_scenario(play, x=rng.normal(size=(2, 3, 6))))


@level(3, only=("torch",))
def test_load_errors(attempt):
    """a missing or unexpected key: KeyError naming it, with nothing changed"""

    def play(m):
        model, _ = injected(m)
        right = {key: tensor.detach().clone() + 1 for key, tensor in m.lora_state_dict(model).items()}
        last = sorted(right)[-1]
        missing = {key: tensor for key, tensor in right.items() if key != last}
        wrong = [(missing, last, "missing")]
        for key in ("blocks.7.attn.q_proj.lora_A", "head.weight"):  # of no layer, and of a layer without an adapter
            m.check(key not in right, f"lora_state_dict has {key}, which is no adapter's")
            wrong.append(({**right, key: right[last]}, key, "unexpected"))
        for state, key, why in wrong:
            before = {name: m.array(x.detach(), name) for name, x in model.state_dict().items()}
            raised = m.raises(KeyError, partial(m.load_lora_state_dict, model, state), f"a state with {key} {why}")
            m.check(key in str(raised), f"the KeyError does not name {key}: {raised}")
            now = {name: m.array(x.detach(), name) for name, x in model.state_dict().items()}
            changed = [name for name in before if not np.array_equal(before[name], now[name])]
            m.check(not changed, f"with {key} {why}, {changed[:1]} changed all the same")
        return {}

    check_play(attempt, model_scenario(play))


@level(3, only=("torch",))
def test_inject_parity(attempt, rng, places):
    """it gives the same in every place"""

    def play(m, x):
        model, _ = injected(m)
        return {"out": m.array(model(m.to(x)).detach(), "out")}

    def kernel(x):
        return {"out": forward_of_transformer(x)}

    check_parity(attempt, model_scenario(play, kernel, x=rng.normal(size=(2, 3, 6))), places)


def forward_of_transformer(x):
    """The same model on the CPU, without the attempt."""
    import torch

    class Here:
        dtype, device = torch.from_numpy(x).dtype, torch.device("cpu")

        @staticmethod
        def to(array):
            return torch.from_numpy(np.asarray(array, x.dtype))

    with torch.no_grad():
        return transformer(Here)(torch.from_numpy(x)).numpy()


@level(3, only=("jax",))
def test_add_lora(attempt, rng):
    """add_lora: an adapter (a, b) for each 2-D leaf whose last path component is a target, each of its own key"""

    def play(m, w, q):
        import jax

        block = {"q_proj": m.to(w), "k_proj": m.to(q), "norm": m.to(q[0])}
        params = {"blocks": [block, {"q_proj": m.to(w), "mlp": {"v_proj": m.to(q)}}], "v_proj": m.to(q[0])}
        params |= {"stack": {"v_proj": m.to(np.stack([q, q]))}, "q_proj": {"scale": m.to(w)}, "rest": [m.to(w)]}
        params |= {"proj": m.to(w), "my_v_proj": m.to(w)}
        given = jax.tree.structure(params)

        def adapters(seed):
            m.step("add_lora for q_proj and v_proj")
            found = m.add_lora(jax.random.key(seed), params, ("q_proj", "v_proj"), rank=2)
            m.check(jax.tree.structure(params) == given, "add_lora changes params: its result is a pytree of its own")
            return [m.array(leaf, "an adapter", dtype="any") for leaf in jax.tree.leaves(found)]

        leaves = adapters(3)
        shapes = sorted(leaf.shape for leaf in leaves)
        (out, into), (out_q, into_q) = w.shape, q.shape
        right = sorted([(2, into), (out, 2)] * 2 + [(2, into_q), (out_q, 2)])
        m.check(shapes == right, f"the adapters' leaves have shapes {shapes}, expected {right}")
        random = [leaf for leaf in leaves if leaf.shape[0] == 2]
        zeros = [leaf for leaf in leaves if leaf.shape[0] != 2]
        m.check(all(not leaf.any() for leaf in zeros), "a b does not start at zero")
        m.check(all(leaf.all() for leaf in random), "an a does not start random")
        same = [leaf for leaf in random if leaf.shape == (2, into)]
        m.check(not np.array_equal(same[0], same[1]), "two adapters start with the same a: they share a key")
        equal = [np.array_equal(one, two) for one, two in zip(leaves, adapters(3), strict=True)]
        m.check(all(equal), "the same key gives other adapters")
        equal = [np.array_equal(one, two) for one, two in zip(leaves, adapters(4), strict=True) if one.any()]
        m.check(not any(equal), "two keys give the same a")
        return {}

    given = {"w": rng.normal(size=(7, 5)), "q": rng.normal(size=(9, 4))}
    check_play(attempt, Scenario("add_lora", given, play, lambda **arrays: {}))


@level(3, only=("jax",))
def test_add_errors(attempt, rng):
    """nothing matches: ValueError"""

    def play(m, w):
        import jax

        for name in ("v_proj", "proj", "Q_proj"):
            params = {"blocks": [{"q_proj": m.to(w), name: m.to(w[0])}]}
            m.raises(
                ValueError,
                lambda name=name, params=params: m.add_lora(jax.random.key(1), params, (name,), rank=2),
                f"a target {name!r}, for the leaves q_proj (7, 5) and {name} (5,),",
            )
        return {}

    check_play(attempt, Scenario("add_lora", {"w": rng.normal(size=(7, 5))}, play, lambda **arrays: {}))


def batched(rng, ids=IDS, T=3, widths=(5, 7)):
    into, out = widths
    dims = {"x": (len(ids), T, into), "weight": (out, into), "a": (6, 4, into), "b": (6, out, 4)}
    args = (*(rng.normal(size=shape) for shape in dims.values()), ids.copy())
    options = {"scaling": rng.uniform(0.5, 2.0, size=6)}
    return Case("batched_lora", args, kernels.batched, kernels.batched_backward, options)


@level(4)
def test_batched_shape(attempt, rng):
    """batched_lora returns (B, T, O)"""
    check_shape(attempt, batched(rng), Dims(B=len(IDS), T=3, O=7), "B T O")


@level(4)
def test_batched_dtype(attempt, rng):
    """the result has the dtype of x"""
    check_dtype(attempt, batched(rng))


@level(4)
def test_batched_values(attempt, rng):
    """each row of the batch goes through its own adapter, scaled by that adapter's factor"""
    check_values(attempt, batched(rng, np.array([2, 1, 0, 2, 5])), dtypes=("float32", "float64"))


@level(4)
def test_batched_none(attempt, rng):
    """-1 means no adapter, for one row and one token at a time too"""
    check_values(attempt, batched(rng))
    check_values(attempt, batched(rng, np.array([-1, -1, -1, -1, -1])))
    for ids, T in ((IDS, 1), (IDS[:1], 3)):
        check_values(attempt, batched(rng, ids, T))


@level(4)
def test_batched_gradients(attempt, rng):
    """x, weight, a and b get their gradients; rows with the same adapter add up"""
    check_gradients(attempt, batched(rng), rng)


@level(4)
def test_batched_parity(attempt, rng, places):
    """it gives the same in every place"""
    check_parity(attempt, batched(rng), places)


@level(4)
def test_batched_ops(attempt, rng):
    """the number of operations does not grow with the batch"""
    small, large = batched(rng, IDS[:2]), batched(rng, np.resize(IDS, 16))
    check_growth(attempt, small, large, what="ops", expected=1, unwanted=8, sentence="B went from 2 to 16")


@level(4)
def test_batched_memory(attempt, rng):
    """no row gets a weight of its own: the largest intermediate grows with I + O, not with I O"""
    small, large = (batched(rng, np.resize(IDS, 64), 1, (width, width)) for width in (16, 32))
    check_growth(attempt, small, large, what="largest", expected=2, unwanted=4, sentence="I and O doubled")
