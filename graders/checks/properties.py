"""Properties over drawn cases; what is shown is the shrunken one."""

from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from graders.errors import Mismatch


def for_all(
    strategy: Any, judge: Callable[[Any], None], *, seed: int, examples: int = 20, describe: Callable[[Any], str] = str
) -> None:
    """judge(case) for `examples` drawn cases; the Mismatch of the smallest that fails, with its description."""
    drawn: list[Any] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(strategy)
    def run(case: Any) -> None:
        drawn.append(case)
        judge(case)

    try:
        run()
    except Mismatch as problem:
        raise problem.with_details(("smallest", describe(drawn[-1]))) from None
