"""Properties over drawn cases; what is shown is the shrunken one."""

from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from graders.attempt import Attempt
from graders.errors import Mismatch


def for_all(
    attempt: Attempt,
    strategy: Any,
    judge: Callable[[Any], None],
    *,
    seed: int,
    describe: Callable[[Any], str] = str,
    examples: int | None = None,
) -> None:
    """judge(case) for as many drawn cases as the framework can afford, or for so many examples.

    Raises the Mismatch of the smallest case that fails, with its description.
    """
    drawn: list[Any] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples or attempt.backend.examples,
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
