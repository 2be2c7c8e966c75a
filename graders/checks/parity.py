"""The same call in every place there is: devices, the stand-in, JAX's transformations."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graders.attempt import Attempt
from graders.checks.cases import Case, Results, Scenario
from graders.checks.gradients import right_gradients
from graders.checks.values import compare, differences, refuse, run
from graders.errors import Mismatch

Fused = Callable[[str], dict[str, np.ndarray]]


def check_parity(attempt: Attempt, case: Any, places: tuple[str, ...], fused: Fused | None = None) -> None:
    """In float32, in each place: forward and gradient agree with the float64 kernel, and places with each other.

    `fused(device)` gives the results of PyTorch's own kernels there, by name, for attempts in PyTorch.
    """
    case = case.cast("float32")
    exact, rough = case.exact(), case.rough()
    home = run(attempt, case)
    for place in places:
        if place == "vmap" and isinstance(case, Scenario):
            continue
        there = attempt.on(place)

        def observe(other: Attempt, place: str = place) -> Results:
            return run(other.on(place), case)

        try:
            got = run(there, case)
        except Mismatch as problem:
            raise _explained(problem, place, observe) from None
        against = {"the reference": exact, f"the same call on {attempt.place}": home}
        if fused and attempt.framework == "torch":
            against |= {name: {"out": out} for name, out in fused("cpu" if place == "stand-in" else place).items()}
        for name, expected in against.items():
            if wrong := differences(got, expected, rough, case.near, case.scales()):
                wrong.summary = f"{place} differs from {name}: {wrong.summary}"
                wrong.observed = got
                raise refuse(wrong, there, case, observe)
        if isinstance(case, Case) and case.backward is not None and place != "vmap":
            _backward(there, case)


def _backward(there: Attempt, case: Case) -> None:
    shape = case.exact()["out"].shape
    upstream = np.cos(np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)
    try:
        got = there.vjp(case.name, case.args, upstream, wrt=case.wrt(), **case.options)
    except Mismatch as problem:
        raise _explained(problem, there.place, None) from None
    exact, allowed = right_gradients(case, upstream)
    for mine, right, limit in zip(got, exact, allowed, strict=True):
        if wrong := compare(mine, right, limit, f"a gradient on {there.place}"):
            raise wrong


def _explained(problem: Mismatch, place: str, observe: Callable[[Attempt], Results] | None) -> Mismatch:
    """Why a call that is right on the CPU fails elsewhere."""
    said = problem.summary
    problem.observe = observe
    if "same device" in said or "on the CPU" in said:
        problem.summary = f"right on the CPU, fails on {place}: a tensor is made there without device="
    elif "is on" in said or "are on" in said:
        problem.summary = f"right on the CPU, fails on {place}: the result does not stay on its inputs' device"
    elif "Tracer" in said or "trace" in said.lower():
        problem.summary = f"right eagerly, fails under {place}: the value of an array decides what Python does"
    else:
        problem.summary = f"right on the CPU, fails {'under' if place in ('jit', 'vmap') else 'on'} {place}"
    return problem.with_details(("because", said))
