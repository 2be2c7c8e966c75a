"""From scratch: what the kata is about is written by the person, not called."""

from graders.attempt import Attempt
from graders.checks.cases import Case
from graders.checks.values import run
from graders.errors import Mismatch


def check_from_scratch(attempt: Attempt, *cases: Case) -> None:
    """None of the calls reaches a refused function, whatever name it was reached by."""

    def observe(other: Attempt) -> str:
        other.watch.used.clear()
        for case in cases:
            run(other, case)
        return ", ".join(use.path for use in other.watch.used)

    if observe(attempt):
        use = attempt.watch.used[0]
        name = use.path.rpartition(".")[2]
        line = f" on line {use.line}" if use.line else ""
        raise Mismatch(
            f"{cases[0].name} calls {name}{line}: write it from its parts, that is the kata",
            observe=observe,
            observed=", ".join(use.path for use in attempt.watch.used),
        ).with_details(("refused", use.path))
