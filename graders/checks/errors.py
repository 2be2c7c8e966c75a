"""Inputs that the contract refuses."""

from graders.attempt import Attempt
from graders.checks.cases import Case
from graders.errors import Mismatch


def check_raises(attempt: Attempt, case: Case, error: type[Exception], why: str) -> None:
    """The call raises that error; `why` says what is wrong with the input."""

    def observe(other: Attempt) -> str:
        try:
            case.trace(other)
        except Mismatch as problem:
            if problem.raised is None:
                raise
            return type(problem.raised).__name__
        return "a result"

    seen = observe(attempt)
    if seen != error.__name__:
        verb = "returns" if seen == "a result" else "raised"
        raise Mismatch(
            f"{case.name}: {why}: expected {error.__name__}, {verb} {seen}", observe=observe, observed=seen
        ).with_details(case.called(attempt))
