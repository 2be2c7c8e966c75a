"""Shape, dtype and values, against a float64 kernel within a budget derived from the kernel itself."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from graders.attempt import Attempt
from graders.checks.cases import Case, Dims, Results, Scenario
from graders.errors import Mismatch

Near = Callable[[tuple[int, ...]], str]

SLACK = 10.0  # right reorderings of a formula stay under 3.5 times the kernel's own error
FLOOR = 8.0  # ulp of the largest entry: below this, rounding alone differs


def budget(exact: np.ndarray, rough: np.ndarray, scale: float = 0.0) -> float:
    """How far a right answer may be from the exact one: 10 x the kernel's own error in the working dtype.

    Floored at a few ulp of the largest entry, or of `scale`: the size of what cancels where the exact answer is zero.
    """
    if not exact.size:
        return 0.0
    ulp = float(ml_dtypes.finfo(rough.dtype).eps) * max(float(np.max(np.abs(exact))), scale)
    return max(SLACK * float(np.max(np.abs(rough.astype(np.float64) - exact))), FLOOR * ulp)


def compare(
    got: np.ndarray,
    exact: np.ndarray,
    allowed: float,
    what: str = "out",
    near: Near | None = None,
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
        times = (
            f", {error[worst] / allowed:,.0f} x the budget of {allowed:.1e}" if allowed > 0 else ", expected exactly"
        )
        summary = f"{int(wrong.sum())} of {wide.size} entries of {what} are off, the worst by {error[worst]:.3g}{times}"
    expected, came = told_apart(exact[worst], wide[worst])
    return Mismatch(summary, observed=got).with_details(("expected", f"{expected}  at {entry}{special}"), ("got", came))


def told_apart(a: float, b: float) -> tuple[str, str]:
    """Two numbers with six digits, or with as many as it takes to see that they differ."""
    for digits in range(6, 18):
        texts = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def run(attempt: Attempt, case: Any) -> Results:
    """What a case or scenario gives, by name; a Mismatch on the way can be observed again."""
    place = attempt.place
    with observable(lambda other: run(other.on(place), case)):
        found: Results = case.run(attempt)
    return found


def again(case: Any) -> Callable[[Attempt], Results]:
    """The same observation of another attempt."""
    return lambda other: run(other, case)


def differences(
    got: Results,
    exact: Results,
    rough: Results,
    near: Near | None = None,
    scales: Mapping[str, float] = MappingProxyType({}),
) -> Mismatch | None:
    """The first result by name that is not within its budget. scales: the size of what cancels in it, where given."""
    for name, right in exact.items():
        if name not in got:
            return Mismatch(f"{name} is missing", observed=got)
        allowed = budget(np.asarray(right, np.float64), rough[name], scales.get(name, 0.0))
        if problem := compare(got[name], np.asarray(right, np.float64), allowed, name, near):
            return problem
    return None


@contextlib.contextmanager
def observable(observe: Callable[[Attempt], Any]) -> Iterator[None]:
    """Gives a Mismatch that comes up the way to make the same observation of another attempt."""
    try:
        yield
    except Mismatch as problem:
        problem.observe = problem.observe or observe
        raise


def refuse(problem: Mismatch, attempt: Attempt, case: Any, observe: Callable[[Attempt], Any]) -> Mismatch:
    """A comparison's Mismatch with the call and the way to see it again."""
    problem.observe = observe
    problem.details = (case.called(attempt), *problem.details)
    return problem


def check_shape(attempt: Attempt, case: Case, dims: Dims, *axes: str) -> None:
    """Each result has its named axes, in order."""
    if [x.shape for x in _outline(attempt, case)] == [dims[each] for each in axes]:
        return
    attempt = attempt.directly
    found = run(attempt, case)
    for (name, got), expected in zip(found.items(), axes, strict=True):
        if got.shape != dims[expected]:
            problem = Mismatch(f"{case.name}: {name} {dims.complaint(got.shape, expected)}", observed=found)
            raise refuse(problem, attempt, case, lambda other: run(other.on(attempt.place), case))


def check_dtype(attempt: Attempt, case: Case, dtypes: Sequence[str] | None = None) -> None:
    """Each result has the dtype of the inputs."""
    for dtype in dtypes or attempt.backend.dtypes:
        typed = case.cast(dtype)
        if [x.dtype for x in _outline(attempt, typed)] == [typed.dtype for _ in typed.results]:
            continue
        found = run(attempt, typed)
        for name, got in found.items():
            if got.dtype != typed.dtype:
                problem = Mismatch(f"{case.name}: {dtype} in, {name} is {got.dtype}; expected {dtype}", observed=found)
                raise refuse(problem, attempt, typed, again(typed))


def _outline(attempt: Attempt, case: Case) -> list[Any]:
    return attempt.outline(case.name, case.args, case.options, len(case.results))


def check_values(attempt: Attempt, case: Any, *, dtypes: Sequence[str] | None = None) -> None:
    """The results of a case or scenario are the kernel's, in each dtype, within the derived budget."""
    for dtype in dtypes or attempt.backend.value_dtypes:
        typed = case.cast(dtype)
        got = run(attempt, typed)
        if problem := differences(got, typed.exact(), typed.rough(), typed.near, typed.scales()):
            problem.observed = got
            raise refuse(problem, attempt, typed, again(typed))


def check_play(attempt: Attempt, scenario: Scenario) -> None:
    """The scenario goes through: whatever it checks on the way holds, in each dtype."""
    for dtype in attempt.backend.value_dtypes:
        run(attempt, scenario.cast(dtype))
