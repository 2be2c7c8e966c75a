"""Shape, dtype and values, against a float64 kernel within a budget derived from the kernel itself."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from graders.attempt import Attempt, call_text
from graders.checks.cases import Case, Dims
from graders.errors import Mismatch

SLACK = 10.0  # right reorderings of a formula stay under 3.5 times the kernel's own error
FLOOR = 8.0  # ulp of the largest entry: below this, rounding alone differs


def budget(exact: np.ndarray, rough: np.ndarray) -> float:
    """How far a right answer may be from the exact one: 10 x the kernel's own error in the working dtype.

    Floored at a few ulp of the largest entry.
    """
    if not exact.size:
        return 0.0
    ulp = float(ml_dtypes.finfo(rough.dtype).eps) * float(np.max(np.abs(exact)))
    return max(SLACK * float(np.max(np.abs(rough.astype(np.float64) - exact))), FLOOR * ulp)


def compare(
    got: np.ndarray,
    exact: np.ndarray,
    allowed: float,
    what: str = "out",
    near: Callable[[tuple[int, ...]], str] | None = None,
) -> Mismatch | None:
    """The Mismatch between what came and what is right, or None. NaN is never within the budget."""
    if got.shape != exact.shape:
        return Mismatch(f"{what} has shape {got.shape}, expected {exact.shape}", observed=got)
    wide = got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(wide - exact)
    wrong = ~(error <= allowed)
    if not wrong.any():
        return None
    odd = ~np.isfinite(wide) & np.isfinite(exact)
    worst = _first(odd) if odd.any() else tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
    entry = f"{what}[{', '.join(map(str, worst))}]" if worst else what
    special = f" ({said})" if near and (said := near(worst)) else ""
    if odd.any():
        kind = "NaN" if np.isnan(wide[worst]) else "infinite"
        summary = f"{int(odd.sum())} of {wide.size} entries of {what} are {kind}, the first at {entry}{special}"
    else:
        times = f", {error[worst] / allowed:,.0f} x the budget of {allowed:.1e}" if allowed > 0 else ", expected exactly"
        summary = f"{int(wrong.sum())} of {wide.size} entries of {what} are off, the worst by {error[worst]:.3g}{times}"
    return Mismatch(summary, observed=got).with_details(
        ("expected", f"{exact[worst]:.6g}  at {entry}{special}"), ("got", f"{wide[worst]:.6g}")
    )


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def called(attempt: Attempt, case: Case) -> tuple[str, str]:
    given = {**dict(zip(parameters(attempt, case), case.args, strict=False)), **case.options}
    return "called", f"{call_text(case.name, given)} on {attempt.place}"


def parameters(attempt: Attempt, case: Case) -> list[str]:
    """The contract's names of the case's positional arguments."""
    signature = attempt.signatures.get(case.name, "")
    inner = signature.partition("(")[2].rpartition(")")[0]
    names = [part.split("=")[0].split(":")[0].strip() for part in inner.split(",")]
    return names if len(names) >= len(case.args) else [f"argument {i}" for i in range(len(case.args))]


def run(attempt: Attempt, case: Case) -> np.ndarray:
    """The case's result; a Mismatch on the way can be observed again."""
    place = attempt.place
    with observable(lambda other: run(other.on(place), case)):
        out: np.ndarray = attempt.call(case.name, *case.args, **case.options)
    return out


@contextlib.contextmanager
def observable(observe: Callable[[Attempt], Any]) -> Iterator[None]:
    """Gives a Mismatch that comes up the way to make the same observation of another attempt."""
    try:
        yield
    except Mismatch as problem:
        problem.observe = problem.observe or observe
        raise


def refuse(problem: Mismatch, attempt: Attempt, case: Case, observe: Callable[[Attempt], Any]) -> Mismatch:
    """A comparison's Mismatch with the call and the way to see it again."""
    problem.observe = observe
    problem.details = (called(attempt, case), *problem.details)
    return problem


def check_shape(attempt: Attempt, case: Case, dims: Dims, axes: str) -> None:
    """The result has the named axes, in order."""
    attempt = attempt.directly
    got = run(attempt, case)
    if got.shape != dims[axes]:
        problem = Mismatch(f"{case.name}: out {dims.complaint(got.shape, axes)}", observed=got)
        raise refuse(problem, attempt, case, lambda other: run(other.on(attempt.place), case))


def check_dtype(attempt: Attempt, case: Case, dtypes: Sequence[str] | None = None) -> None:
    """The result has the dtype of the inputs."""
    for dtype in dtypes or attempt.backend.dtypes:
        typed = case.cast(dtype)
        got = run(attempt, typed)
        if got.dtype != typed.dtype:
            problem = Mismatch(f"{case.name}: {dtype} in, {got.dtype} out; expected {dtype}", observed=got)
            raise refuse(problem, attempt, typed, lambda other, typed=typed: run(other, typed))


def check_values(attempt: Attempt, case: Case, *, dtypes: Sequence[str] | None = None) -> None:
    """The values are the kernel's, in each dtype, within the derived budget."""
    for dtype in dtypes or attempt.backend.value_dtypes:
        typed = case.cast(dtype)
        _judge(attempt, typed, run(attempt, typed))


def _judge(attempt: Attempt, case: Case, got: np.ndarray) -> None:
    exact = case.exact()
    problem = compare(got, exact, budget(exact, case.rough()), near=case.near)
    if problem:
        raise refuse(problem, attempt, case, lambda other: run(other, case))


def check_same(got: np.ndarray, expected: np.ndarray, allowed: float, what: str, why: str) -> None:
    """Two results of the attempt agree; `why` is the sentence if they do not."""
    if problem := compare(got, expected, allowed, what):
        problem.summary = f"{why}: {problem.summary}"
        raise problem
