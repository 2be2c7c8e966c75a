"""The review of a round: seven signals that interviewers score, what a 1, a 3 and a 5 look like, what to drill next."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Signal:
    """What is scored from 1 to 5. anchors: what a 1, a 3 and a 5 look like; drill: what to do for a 2 or less."""

    name: str
    anchors: tuple[str, str, str]
    drill: str

    @property
    def line(self) -> str:
        """The anchors in one line."""
        return " · ".join(f"{score} {anchor}" for score, anchor in zip((1, 3, 5), self.anchors, strict=True))


SIGNALS = (
    Signal(
        "correctness",
        (
            "no working solution",
            "passes the examples and obvious edge cases",
            "also rigorous edge cases, own tests, complexity stated",
        ),
        "a timed kata a day, with your own tests written before the first save: python scripts/timer.py {kata}",
    ),
    Signal(
        "communication",
        (
            "silent, or hard to follow",
            "says what is being done as it is done",
            "says why, names the alternatives, checks that the listener follows",
        ),
        "a round of {kata} aloud and recorded: state the contract, the plan and each decision; listen to it afterwards",
    ),
    Signal(
        "abstraction",
        (
            "one block that repeats itself",
            "functions with clear jobs and names",
            "small interfaces that took the next level without a rewrite",
        ),
        "rewrite your {kata} so that each level reuses the one before, then compare: python scripts/compare.py {kata}",
    ),
    Signal(
        "debugging",
        (
            "changes lines until it works",
            "reads the error and bisects to the cause",
            "forms a hypothesis, predicts, tests it on the smallest case, keeps the test",
        ),
        "two mistakes to find, without hints: python scripts/debug.py {kata} --bugs 2",
    ),
    Signal(
        "mathematical intuition",
        (
            "formulas copied without their meaning",
            "derives the main formula, knows its shapes and limits",
            "predicts gradients, scales and failure at extremes, and says how to check",
        ),
        "derive the gradients of {kata} on paper, then verify them numerically with central differences in float64",
    ),
    Signal(
        "experiment design",
        (
            "runs it and looks",
            "one change at a time against a baseline",
            "states what would refute it, controls seeds, reports spread and cost",
        ),
        "write down for {kata} one claim, its baseline, what would refute it and five seeds; then run it",
    ),
    Signal(
        "collaboration",
        (
            "defends the first idea, misses hints",
            "takes hints and asks when the task is unclear",
            "asks early, builds on suggestions, says what is unknown",
        ),
        "a round of {kata} with a partner who interrupts: repeat each remark, say what it changes, then go on",
    ),
)
LOW = 2


def weakest(scores: Mapping[str, int]) -> tuple[Signal, ...]:
    """The two signals that were scored lowest, lowest first; those of one score in the order of the list."""
    scored = [signal for signal in SIGNALS if signal.name in scores]
    return tuple(sorted(scored, key=lambda signal: scores[signal.name])[:2])


def drills(scores: Mapping[str, int], kata: str) -> tuple[tuple[Signal, str], ...]:
    """What to do next for each signal scored 2 or less, the lowest first."""
    low = [signal for signal in SIGNALS if scores.get(signal.name, LOW + 1) <= LOW]
    low.sort(key=lambda signal: scores[signal.name])
    return tuple((signal, signal.drill.format(kata=kata)) for signal in low)


def score(text: str) -> int | None:
    """A score as typed; None for an empty line, which skips. Raises ValueError for anything but 1 to 5."""
    text = text.strip()
    if not text:
        return None
    if text not in {"1", "2", "3", "4", "5"}:
        raise ValueError(f"a score is a number from 1 to 5, not {text!r}; Enter skips")
    return int(text)
