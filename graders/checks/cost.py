"""Cost, counted at two sizes: what is judged is how it grows."""

import math

from graders.attempt import Attempt
from graders.checks.cases import Case
from graders.errors import Mismatch


def check_growth(
    attempt: Attempt, small: Case, large: Case, *, what: str, expected: float, unwanted: float, sentence: str
) -> None:
    """`what` (flops, largest, peak, ops) grows `expected`-fold from the small case to the large one.

    The line is drawn at the geometric mean of that and of the growth that is unwanted. `sentence` says what was
    changed: "T and S doubled".
    """

    def observe(other: Attempt) -> float:
        before, after = (getattr(other.cost(case.name, case.args, case.options), what) for case in (small, large))
        return float(after) / max(float(before), 1.0)

    grew = observe(attempt)
    if not grew <= math.sqrt(expected * unwanted):
        label = {"largest": "the largest intermediate", "peak": "memory held", "ops": "operations"}.get(what, what)
        raise Mismatch(
            f"{sentence}: {label} grew {grew:.1f}x, expected {expected:g}x", observe=observe, observed=grew
        ).with_details(("measured", f"{small.name} at {_sizes(small)} and at {_sizes(large)}"))


def _sizes(case: Case) -> str:
    return ", ".join(str(x.shape) for x in case.args)
