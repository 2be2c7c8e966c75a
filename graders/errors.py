"""The two ways a grading can go wrong, kept apart: the attempt is wrong, or our files are."""

from collections.abc import Callable
from typing import Any


class Mismatch(Exception):
    """The attempt is wrong.

    The summary is the one sentence; details are (label, text) rows under it. `observed` is what the attempt
    gave, and `observe(attempt)` makes the same observation of another attempt: a mistake in the bug bank that
    gives the same is the likely mistake. `raised` is the attempt's own exception, if there was one.
    """

    def __init__(
        self,
        summary: str,
        *,
        details: tuple[tuple[str, str], ...] = (),
        observe: Callable[[Any], Any] | None = None,
        observed: Any = None,
        raised: BaseException | None = None,
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details = details
        self.observe = observe
        self.observed = summary if observed is None else observed
        self.raised = raised

    def with_details(self, *details: tuple[str, str]) -> "Mismatch":
        self.details = (*self.details, *details)
        return self

    def text(self) -> str:
        """The summary, then one aligned row a detail."""
        rows = [f"{label:<9} {body}" for label, text in self.details for label, body in _rows(label, text)]
        return "\n".join([self.summary, *rows])


def _rows(label: str, text: str) -> list[tuple[str, str]]:
    first, *rest = text.splitlines() or [""]
    return [(label, first), *(("", line) for line in rest)]


class NotStarted(Exception):
    """The attempt still has the stub's body where this check needs code."""


class KataError(Exception):
    """A file of the suite is wrong; the message names the file and the fix."""
