"""The hidden grader of the Adam kata."""

import copy
from collections import namedtuple
from dataclasses import replace
from functools import partial

import numpy as np

from graders import level
from graders.checks import (
    Case,
    Dims,
    Scenario,
    budget,
    check_dtype,
    check_from_scratch,
    check_parity,
    check_play,
    check_shape,
    check_values,
    compare,
)
from graders.kernels import adam as kernels

CLASSES = ("torch", "numpy")
AXES = Dims(I=3, O=4)
RESULTS = ("p", "m", "v")
STEPS = 50
LONG = 300  # a count of eight bits, or one in bfloat16, does not reach it
TINY = 1e-8  # of the size of the default eps, so that it shows
LARGE = 1e6
NOTHING = (10, 11)  # the steps in which every gradient is zero
STRONG = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 0.1}
DECAY = {**STRONG, "weight_decay": 0.3}
Layer = namedtuple("Layer", ["weight", "bias"])
TREES = ({"a": 0, "more": [0], "none": None}, Layer(0, ({"b": 0},)))  # pytrees of two leaves
SCHEDULES = (
    {"warmup": 4, "total": 20, "peak": 0.3, "floor": 0.05},
    {"warmup": 4, "total": 20, "peak": 2.0},
    {"warmup": 0, "total": 15, "peak": 0.3},
)
ZEROS = {"lr": 0.0, "betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.0}
BAD = (
    {"lr": -0.1},
    {"betas": (1.0, 0.9)},
    {"betas": (0.9, 1.0)},
    {"betas": (-0.1, 0.9)},
    {"betas": (0.9, -0.1)},
    {"eps": -1e-8},
    {"weight_decay": -0.1},
)


def one_step(rng, t, **options):
    """A call of `adam_step` with moments that are not zero."""
    p, g, m = (rng.normal(size=AXES["I O"]) for _ in range(3))
    v = rng.uniform(0.1, 2.0, size=AXES["I O"])
    return Case("adam_step", (p, g, m, v, t), kernels.adam_step, options=options, results=RESULTS)


def numbers(rng, steps=STEPS, size=1.0, shape=(5,), transposed=False):
    """Two parameters of different shapes and a gradient of each for every step, of changing size.

    shape: the second's. transposed: the first one's axes stand swapped in memory.
    """
    at = np.arange(steps)
    sizes = size * np.where(at % 7 == 3, 4.0, 0.5) * ~np.isin(at, NOTHING)
    p = rng.normal(size=(4, 3)).T if transposed else rng.normal(size=(3, 4))
    q = np.asarray(rng.normal(size=shape))
    gradients = [rng.normal(size=(steps, *x.shape)) * sizes.reshape(-1, *[1] * x.ndim) for x in (p, q)]
    return {"p": p, "q": q, "dp": gradients[0], "dq": gradients[1]}


def torch_steps(m, name, options, p, q, dp, dq, without=(), end=None):
    """The parameters after training with the person's class, by steps; `without`: those in which p has no gradient."""
    pair = [m.to(p).requires_grad_(), m.to(q).requires_grad_()]
    m.step(f"{name}({shown(options)})")
    optimizer = getattr(m, name)(pair, **options)
    run_torch(m, optimizer, pair, dp, dq, range(end or len(dp)), without)
    return pair, optimizer


def run_torch(m, optimizer, pair, dp, dq, steps, without=()):
    for t in steps:
        m.step(f"step {t + 1}")
        pair[0].grad = None if t in without else m.to(dp[t])
        pair[1].grad = m.to(dq[t, ...])
        optimizer.step()


def numpy_steps(m, name, options, p, q, dp, dq, without=()):
    params = {"p": m.to(p), "q": m.to(q)}
    m.step(f"{name}({shown(options)})")
    optimizer = getattr(m, name)(params, **options)
    for t in range(len(dp)):
        m.step(f"step {t + 1}")
        missing = {} if t % 2 else {"p": None}
        optimizer.step({"q": m.to(dq[t, ...], "q's gradient"), **(missing if t in without else {"p": m.to(dp[t])})})
    return params["p"], params["q"]


def jax_steps(m, name, options, p, q, dp, dq, tree):
    import jax

    options = {**options}
    if "betas" in options:
        options["beta1"], options["beta2"] = options.pop("betas")
    m.step(f"{name}({shown(options)})")
    init, update = getattr(m, name)(options.pop("lr", 1e-3), **options)
    if tree:
        init = m.compiled(init)
    tree = jax.tree.structure(TREES[tree])
    params = turned(jax.tree.unflatten(tree, [m.to(p), m.to(q)]))
    state, update = init(params), m.compiled(update)
    for t in range(len(dp)):
        m.step(f"update {t + 1}")
        gradients = turned(jax.tree.unflatten(tree, [m.to(dp[t]), m.to(dq[t, ...])]))
        updates, state = update(gradients, state, params)
        found = jax.tree.structure(updates)
        m.check(found == tree, f"the updates are not a pytree like params: {found}, expected {tree}")
        params = turned(jax.tree.map(lambda x, dx: x + dx, params, updates))
    return jax.tree.leaves(params)


def turned(tree):
    """A dict with its keys in another order than JAX has them in."""
    return dict(reversed(tree.items())) if isinstance(tree, dict) else tree


def shown(options):
    return ", ".join(f"{name}={value}" for name, value in options.items())


def training(rng, name, options, *, decay=0.0, without=(), tree=0, **drawn):
    """STEPS steps with the person's optimizer, and the kernel's; decay: what the kernel takes for the default.

    tree: which of TREES holds the parameters in JAX.
    """

    def play(m, **arrays):
        if m.framework == "torch":
            (p, q), _ = torch_steps(m, name, options, **arrays, without=without)
            same = q.grad is not None and bool((q.grad == m.to(arrays["dq"][-1, ...])).all())
            m.check(same, "a step changes the gradient, which is not its own: the caller may go on with it")
            p, q = p.detach(), q.detach()
        elif m.framework == "jax":
            p, q = jax_steps(m, name, options, **arrays, tree=tree)
        else:
            p, q = numpy_steps(m, name, options, **arrays, without=without)
        found = {"the first parameter": p, "the second parameter": q}
        return {which: m.array(x, which) for which, x in found.items()}

    right = {"weight_decay": decay, "decoupled": name.lower() == "adamw", **options}

    def both(what, p, q, dp, dq):
        first, second = what(p, dp, **right, without=without), what(q, dq, **right)
        return {"the first parameter": first, "the second parameter": second}

    kernel, sizes = partial(both, kernels.trajectory), partial(both, kernels.rounded)
    return Scenario(name, numbers(rng, **drawn), play, kernel, sizes=sizes)


def optimizer_name(attempt, name):
    return name.lower() if attempt.framework == "jax" else name


def train(attempt, rng, name, options, **more):
    return training(rng, optimizer_name(attempt, name), options, **more)


@level(1)
def test_step_shape(attempt, rng):
    """adam_step returns (p, m, v), each of the shape of p"""
    check_shape(attempt, one_step(rng, 1), AXES, "I O", "I O", "I O")


@level(1)
def test_step_dtype(attempt, rng):
    """the results have the dtype of the parameter"""
    check_dtype(attempt, one_step(rng, 3, weight_decay=0.1))


@level(1)
def test_step_values(attempt, rng):
    """p - lr m_hat / (sqrt(v_hat) + eps), and the new moments"""
    every = attempt.backend.dtypes
    check_values(attempt, one_step(rng, 4, lr=0.05, beta1=0.8, beta2=0.95, eps=0.1), dtypes=every)
    check_values(attempt, one_step(rng, 1, lr=0.3, beta1=0.6, beta2=0.7, eps=0.5))
    check_values(attempt, one_step(rng, 500, lr=0.05, beta1=0.99, beta2=0.98, eps=0.1))
    check_values(attempt, one_step(rng, 2000, lr=0.05, beta1=0.9, beta2=0.999, eps=0.1))


@level(1)
def test_step_defaults(attempt, rng):
    """lr 1e-3, beta1 0.9, beta2 0.999, eps 1e-8, no decay"""
    check_values(attempt, one_step(rng, 2))
    for options in ({}, {"lr": 1.0, "beta1": 0.5, "beta2": 0.75}):  # 0.999 is 1 in bfloat16
        tiny = one_step(rng, 2, **options)
        p, _, _, v, t = tiny.args
        small = replace(tiny, args=(0 * p, 0 * p + 1e-9, 0 * p + 1e-9, v * 1e-18, t))
        check_values(attempt, small, dtypes=attempt.backend.dtypes if options else None)


@level(1)
def test_step_weight_decay(attempt, rng):
    """weight_decay is L2: weight_decay * p is added to the gradient, for both moments"""
    check_values(attempt, one_step(rng, 3, lr=0.05, weight_decay=0.3))


@level(1, only=("torch", "jax"))
def test_step_parity(attempt, rng, places):
    """it gives the same in every place"""
    check_parity(attempt, one_step(rng, 3, lr=0.05, weight_decay=0.3), places)


@level(1)
def test_step_from_scratch(attempt, rng):
    """the step is made from its parts"""
    check_from_scratch(attempt, one_step(rng, 3))


@level(2)
def test_adam_trajectory(attempt, rng):
    """50 steps over two parameters, with its own moments and step count for each"""
    check_values(attempt, train(attempt, rng, "Adam", STRONG))
    short = train(attempt, rng, "Adam", STRONG, steps=3, shape=(), tree=1)
    check_values(attempt, short, dtypes=("float64", "float32"))
    check_values(attempt, train(attempt, rng, "Adam", STRONG, steps=3, shape=(3, 4)), dtypes=("float64",))


@level(2)
def test_adam_defaults(attempt, rng):
    """betas (0.9, 0.999), eps 1e-8, no decay; lr 1e-3 where it may be left out"""
    check_values(attempt, train(attempt, rng, "Adam", {}))
    check_values(attempt, train(attempt, rng, "Adam", {}, size=TINY))
    check_values(attempt, train(attempt, rng, "Adam", {}, size=LARGE, steps=5))


@level(2)
def test_adam_weight_decay(attempt, rng):
    """weight_decay is L2, added to the gradient"""
    check_values(attempt, train(attempt, rng, "Adam", DECAY))


def grouped(rng, name):
    """Two groups, one of which turns off what the defaults turn on."""
    defaults = {"lr": 0.05, "eps": 0.1, "weight_decay": 0.3}
    first, second = {"lr": 0.2, "weight_decay": 0.4}, {"betas": (0.5, 0.6), "weight_decay": 0.0}

    def play(m, p, q, dp, dq):
        pair = [m.to(p).requires_grad_(), m.to(q).requires_grad_()]
        groups = [{"params": [pair[0]], **first}, {"params": [pair[1]], **second}]
        m.step(f"{name} with two groups")
        run_torch(m, getattr(m, name)(groups, **defaults), pair, dp, dq, range(len(dp)))
        return {"the first group": m.array(pair[0].detach(), "p"), "the second group": m.array(pair[1].detach(), "q")}

    def kernel(p, q, dp, dq):
        decoupled = {"decoupled": name == "AdamW"}
        return {
            "the first group": kernels.trajectory(p, dp, **{**defaults, **first, **decoupled}),
            "the second group": kernels.trajectory(q, dq, **{**defaults, **second, **decoupled}),
        }

    return Scenario(name, numbers(rng, 10), play, kernel)


@level(2, only=("torch",))
def test_adam_groups(attempt, rng):
    """a group overrides what it names, and the rest are the defaults"""
    check_values(attempt, grouped(rng, "Adam"))


@level(2, only=CLASSES)
def test_adam_no_gradient(attempt, rng):
    """a parameter without a gradient is left alone, its moments and its step count too"""
    without = (0, 1, 5, 6, 7, 20)
    check_values(attempt, train(attempt, rng, "Adam", DECAY, without=without))


@level(2, only=CLASSES)
def test_adam_in_place(attempt, rng):
    """parameters are updated in place, however they stand in memory, and stay leaves, with no graph"""

    def play(m, p, q, dp, dq):
        if m.framework == "torch":
            made = m.to(p).requires_grad_()
            alias = made.detach()
            made.grad = m.to(dp[0])
            m.Adam([made]).step()
            m.check(made.is_leaf and made.grad_fn is None, "after a step the parameter is not a leaf: the graph grew")
            m.check(made.requires_grad, "after a step the parameter does not require a gradient")
            now = m.array(made.detach(), "p")
        else:
            params = {"p": m.to(p)}
            alias = params["p"]
            m.Adam(params).step({"p": m.to(dp[0])})
            now = m.array(params["p"], "p")
        m.check(np.array_equal(m.array(alias, "p"), now), "the step put other storage in the parameter's place")
        return {}

    check_play(attempt, Scenario("Adam", numbers(rng, 1), play, lambda **arrays: {}))
    check_values(attempt, train(attempt, rng, "Adam", STRONG, steps=2, transposed=True))


@level(2, only=("torch",))
def test_adam_zero_grad(attempt, rng):
    """zero_grad forgets the gradients: None or zeros"""

    def play(m, p, q, dp, dq):
        pair, optimizer = torch_steps(m, "Adam", {}, p, q, dp, dq)
        m.step("zero_grad")
        optimizer.zero_grad()
        left = [x.grad for x in pair if x.grad is not None and bool((x.grad != 0).any())]
        m.check(not left, f"after zero_grad {len(left)} of 2 parameters still have a gradient")
        return {}

    check_play(attempt, Scenario("Adam", numbers(rng, 1), play, lambda **arrays: {}))


@level(2, only=CLASSES)
def test_adam_errors(attempt, rng):
    """negative lr, eps or weight_decay, and betas outside [0, 1), of a group as well: ValueError; zeros are allowed"""

    def play(m, p, q, dp, dq):
        given = {"p": m.to(p)} if m.framework == "numpy" else [m.to(p).requires_grad_()]
        m.step(f"Adam({shown(ZEROS)}), which no bound forbids")
        m.Adam(given, **ZEROS)
        for bad in BAD:
            given = {"p": m.to(p)} if m.framework == "numpy" else [m.to(p).requires_grad_()]
            m.raises(ValueError, lambda given=given, bad=bad: m.Adam(given, **bad), f"Adam with {shown(bad)}")
            if m.framework == "torch":
                groups = [{"params": [m.to(q).requires_grad_()]}, {"params": given, **bad}]
                what = f"Adam with {shown(bad)} in its second group"
                m.raises(ValueError, lambda groups=groups: m.Adam(groups), what)
        return {}

    check_play(attempt, Scenario("Adam", numbers(rng, 1), play, lambda **arrays: {}))


@level(2, only=("torch", "jax"))
def test_adam_parity(attempt, rng, places):
    """training gives the same in every place"""
    scenario = train(attempt, rng, "Adam", DECAY, steps=5)
    check_parity(attempt, scenario, places)
    if "cuda" in places and attempt.framework == "torch":
        arrays = scenario.cast("float32").arrays
        right = kernels.pytorch("cuda", "Adam", arrays["p"], arrays["dp"], **DECAY)
        got = scenario.cast("float32").run(attempt.on("cuda"))["the first parameter"]
        for name, expected in right.items():
            rough = kernels.trajectory(arrays["p"], arrays["dp"], **DECAY)
            wide = kernels.trajectory(*(arrays[key].astype(np.float64) for key in ("p", "dp")), **DECAY)
            if wrong := compare(got, expected.astype(np.float64), budget(wide, rough), f"against {name}, p"):
                raise wrong


@level(2)
def test_adam_many_steps(attempt, rng):
    """after 300 steps the step count, and so the bias correction, is still right"""
    where = attempt.on("jit") if attempt.framework == "jax" else attempt  # eagerly, each count is a program of its own
    falling = {**STRONG, "betas": (0.9, 0.6)}
    check_values(where, train(attempt, rng, "Adam", falling, steps=LONG, shape=()), dtypes=("float64",))


@level(2, only=("torch", "jax"))
def test_adam_from_scratch(attempt, rng):
    """the optimizer is made from its parts"""
    check_from_scratch(attempt, train(attempt, rng, "Adam", DECAY, steps=2).cast("float32"))


@level(3)
def test_adamw_trajectory(attempt, rng):
    """decoupled decay: p <- p (1 - lr weight_decay) before the step, none in the gradient"""
    check_values(attempt, train(attempt, rng, "AdamW", DECAY))
    check_values(attempt, train(attempt, rng, "AdamW", {**DECAY, "lr": 1e-3}, steps=5))


@level(3, only=CLASSES)
def test_adamw_no_gradient(attempt, rng):
    """what has no gradient is left alone: it does not decay either"""
    check_values(attempt, train(attempt, rng, "AdamW", DECAY, without=(0, 1, 5, 6, 7, 20)))


@level(3, only=("torch",))
def test_adamw_groups(attempt, rng):
    """the decay of each group is its own: often biases have none"""
    check_values(attempt, grouped(rng, "AdamW"))


@level(3)
def test_adamw_defaults(attempt, rng):
    """the decay is 1e-2 if it is left out, the rest as in Adam"""
    check_values(attempt, train(attempt, rng, "AdamW", {"lr": 0.1}, decay=1e-2))
    check_values(attempt, train(attempt, rng, "AdamW", {}, decay=1e-2, size=TINY))


@level(3, only=CLASSES)
def test_amsgrad(attempt, rng):
    """amsgrad divides by the running maximum of the raw v, whose bias is corrected afterwards"""
    for name in ("Adam", "AdamW"):
        check_values(attempt, train(attempt, rng, name, {**DECAY, "amsgrad": True}))


@level(3, only=("torch", "jax"))
def test_adamw_parity(attempt, rng, places):
    """training gives the same in every place"""
    check_parity(attempt, train(attempt, rng, "AdamW", DECAY, steps=5), places)


def resumed(rng, name, options, without=()):
    """Training stopped after 6 steps of 15 and resumed from a state_dict, beside training that was not."""

    def play(m, p, q, dp, dq):
        (whole, second), _ = torch_steps(m, name, options, p, q, dp, dq, without)
        early, first = torch_steps(m, name, options, p, q, dp, dq, without, end=6)
        m.step("state_dict after 6 steps")
        state = copy.deepcopy(first.state_dict())
        late = [x.detach().clone().requires_grad_() for x in early]
        m.step("load_state_dict into a new optimizer")
        second_run = getattr(m, name)(late, **options)
        second_run.load_state_dict(state)
        run_torch(m, second_run, late, dp, dq, range(6, len(dp)), without)
        m.step("the optimizer whose state_dict was taken goes on")
        run_torch(m, first, early, dp, dq, range(6, len(dp)), without)
        for pair, how in ((late, "resumed from its state_dict"), (early, "gone on after a state_dict was taken")):
            for x, y, which in zip(pair, (whole, second), ("first", "second"), strict=True):
                m.check(
                    np.array_equal(m.array(x.detach(), "p"), m.array(y.detach(), "p")),
                    f"{how}, the {which} parameter is not bit-equal to training without a stop",
                )
        return {}

    return Scenario(name, numbers(rng, 15), play, lambda **arrays: {})


@level(4, only=("torch",))
def test_resume(attempt, rng):
    """training resumed from a state_dict is bit-equal to training that was not interrupted"""
    check_play(attempt, resumed(rng, "Adam", DECAY))
    check_play(attempt, resumed(rng, "Adam", DECAY, without=range(8)))


@level(4, only=("torch",))
def test_resume_amsgrad(attempt, rng):
    """AMSGrad's running maximum is part of the state"""
    check_play(attempt, resumed(rng, "AdamW", {**DECAY, "amsgrad": True}))


def clipping(rng, max_norm, size=1.0):
    """Two gradients of different sizes, or of zeros, and a parameter without one, clipped together."""

    def play(m, p, q, dp, dq):
        params = [m.to(p).requires_grad_(), m.to(q).requires_grad_(), m.to(q).requires_grad_()]
        params[0].grad, params[1].grad = m.to(dp[0]), m.to(dq[0])
        m.step(f"clip_grad_norm with max_norm={max_norm}")
        norm = m.clip_grad_norm(params, max_norm)
        m.check(norm is not None, "clip_grad_norm returns None: it should be the norm before clipping")
        m.check(params[2].grad is None, "clip_grad_norm gave a gradient to a parameter that had none")
        found = [m.array(x.grad, "a gradient") for x in params[:2]]
        right = [x.astype(np.float64) for x in (dp[0], dq[0])]
        total = float(kernels.norm(right))
        closest = None
        for added in (0.0, 1e-6):  # PyTorch adds 1e-6 to the norm that it divides by; both are right
            scale = min(1.0, max_norm / (total + added)) if total else 1.0
            closest = same(found, [x * scale for x in right], m.dtype_name)
            if closest is None:
                break
        if closest:
            raise closest
        return {"the norm": np.asarray(float(norm))}

    def kernel(p, q, dp, dq):
        return {"the norm": kernels.norm([dp[0], dq[0]])}

    return Scenario("clip_grad_norm", numbers(rng, 1, size), play, kernel)


def same(found, right, dtype):
    """The first Mismatch of gradients that a factor in the working dtype should give."""
    for got, exact, which in zip(found, right, ("first", "second"), strict=True):
        rough = exact.astype(dtype)
        if problem := compare(got, exact, budget(exact, rough), f"the {which} gradient"):
            return problem
    return None


@level(4, only=("torch",))
def test_clip_values(attempt, rng):
    """all gradients together are scaled to max_norm; returns the norm before clipping"""
    check_values(attempt, clipping(rng, 0.7))


@level(4, only=("torch",))
def test_clip_below(attempt, rng):
    """gradients below max_norm stay as they are, also if all are zero"""
    for size in (1.0, 0.0):
        check_values(attempt, clipping(rng, 100.0, size))


@level(4, only=("torch",))
def test_schedule(attempt):
    """linear from 0 to peak at step = warmup, cosine to floor at total, floor after"""
    steps = (0, 1, 3, 4, 5, 9, 15, 19, 20, 35)
    for options in SCHEDULES:

        def play(m, options=options):
            m.step(f"warmup_cosine({shown(options)})")
            rates = [m.warmup_cosine(step, **options) for step in steps]
            m.check(all(rate is not None for rate in rates), "warmup_cosine returns None")
            return {f"the rates at steps {steps}": np.array([float(rate) for rate in rates])}

        def kernel(options=options):
            return {f"the rates at steps {steps}": kernels.warmup_cosine(steps, **{"floor": 0.0, **options})}

        check_values(attempt, Scenario("warmup_cosine", {}, play, kernel), dtypes=("float64",))
