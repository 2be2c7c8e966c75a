"""Gradients: numerically, entry by entry, and against the kernel's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graders.attempt import Attempt
from graders.backends import same_shape
from graders.checks.cases import Case, carried
from graders.checks.values import budget, compare, observable, refuse

STEP = 1e-6


def _upstream(case: Case, rng: np.random.Generator) -> np.ndarray:
    """Random and non-uniform: a sum's gradient of ones hides what a row's entries exchange."""
    return rng.normal(size=case.exact()["out"].shape).astype(case.dtype)


def check_gradients(
    attempt: Attempt, case: Case, rng: np.random.Generator, *, dtypes: Sequence[str] | None = None
) -> None:
    """Every input's gradient is the kernel's, in each dtype."""
    for dtype in dtypes or attempt.backend.value_dtypes:
        typed = case.cast(dtype)
        upstream = _upstream(typed, rng)
        exact, allowed = right_gradients(typed, upstream)
        _judge(attempt, typed, upstream, exact, allowed)


def right_gradients(case: Case, upstream: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """The kernel's gradients in float64, and the budget of each.

    A gradient may be exactly zero where its parts cancel, as behind a softmax over one key; the parts are of the
    size of the upstream gradient and of the other gradients, and a right formula may leave a few ulp of those.
    """
    exact = case.cast("float64").gradients(upstream.astype(np.float64))
    rough = case.gradients(upstream)
    if case.dtype == np.float64:
        narrow, seed = case.cast("float32"), upstream.astype(np.float32)
        with np.errstate(all="ignore"):
            narrow_rough, wide = narrow.gradients(seed), narrow.cast("float64").gradients(seed.astype(np.float64))
        rough = [carried(*each) for each in zip(exact, narrow_rough, wide, strict=True)]
    scale = max(float(np.max(np.abs(x), initial=0)) for x in (upstream.astype(np.float64), *exact))
    return exact, [budget(e, r.astype(case.dtype), scale) for e, r in zip(exact, rough, strict=True)]


def check_numerical_gradients(attempt: Attempt, case: Case, rng: np.random.Generator) -> None:
    """Every entry of every input's gradient is the central difference of the attempt's own forward.

    In float64 with a step of 1e-6. The budget is 10 x the error that the same differences make on the kernel.
    """
    case = case.cast("float64")
    upstream = _upstream(case, rng)
    exact = case.gradients(upstream)
    method = _differences(lambda calls: [case.kernel(*args, **case.options) for args in calls], case, upstream)

    def forward(other: Attempt) -> list[np.ndarray]:
        return _differences(lambda calls: other.sweep(case.name, calls, **case.options), case, upstream)

    with observable(forward):
        own = forward(attempt)
    allowed = [
        max(10 * float(np.max(np.abs(m - e), initial=0)), 1e-8 * float(np.max(np.abs(e), initial=1)))
        for m, e in zip(method, exact, strict=True)
    ]
    _judge(attempt, case, upstream, own, allowed)


def _judge(
    attempt: Attempt, case: Case, upstream: np.ndarray, expected: list[np.ndarray], allowed: list[float]
) -> None:
    names = case.parameters(attempt)

    def observe(other: Attempt) -> Any:
        with observable(observe):
            return tuple(other.vjp(case.name, case.args, upstream, wrt=case.wrt(), **case.options))

    got = observe(attempt)
    for position, mine, right, limit in zip(case.wrt(), got, expected, allowed, strict=True):
        if problem := compare(mine, right, limit, f"the gradient of {names[position]}"):
            problem.observed = got
            raise refuse(problem, attempt, case, observe)


def _differences(forward: Callable[[Any], Any], case: Case, upstream: np.ndarray) -> list[np.ndarray]:
    """Central differences of sum(upstream * out) in every entry of every float argument, made in one sweep."""
    calls = []
    for position in case.wrt():
        for index in np.ndindex(case.args[position].shape):
            for step in (STEP, -STEP):
                moved = np.array(case.args[position])
                moved[index] += step
                calls.append([*case.args[:position], moved, *case.args[position + 1 :]])
    totals = []
    for out in forward(calls):
        same_shape(out, upstream)
        totals.append(float(np.sum(out * upstream)))
    slopes = iter((above - below) / (2 * STEP) for above, below in zip(totals[::2], totals[1::2], strict=True))
    shapes = [case.args[position].shape for position in case.wrt()]
    return [np.array([next(slopes) for _ in range(int(np.prod(shape)))]).reshape(shape) for shape in shapes]
