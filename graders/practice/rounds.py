"""A timed round: a clock that counts only the person's own time, its phases, and what became of each level.

Nothing here reads a clock, a file or a key: `now` is given, in seconds from any origin, and `Timed.detail()` is what
is kept of it, from which `Timed.resumed` goes on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from graders.catalogue import Kata
from graders.history import Round, Run
from graders.report import Check, Line, Verdict, level_outcome

PHASES = (("read", 0.1), ("plan", 0.1), ("implement", 0.5), ("test", 0.2), ("edge cases", 0.1))


@dataclass(frozen=True)
class Phase:
    """A part of the round. begins, ends: seconds of the person's time."""

    name: str
    begins: float
    ends: float


def phases(minutes: float) -> tuple[Phase, ...]:
    """The phases of a round of that many minutes."""
    found, begins = [], 0.0
    for name, share in PHASES:
        found.append(Phase(name, begins, begins + 60 * minutes * share))
        begins = found[-1].ends
    return tuple(found)


@dataclass
class Timed:
    """A round as it goes on. The clock runs from `start`, except in a pause and while a grading is under way.

    level: up to which it is graded (None: all). outcome: "passed", "level 2 passed" of a round up to level 2, "out of
    time" or "stopped", once it ended. levels: the person's seconds when each level was first passed.
    """

    minutes: float
    level: int | None = None
    active: float = 0.0
    levels: dict[int, float] = field(default_factory=dict)
    runs: int = 0
    hints: int = 0
    pauses: int = 0
    outcome: str | None = None
    started: bool = False
    paused: bool = False
    grading: bool = False
    since: float | None = None  # when the clock last began to run; None while it stands

    def start(self, now: float) -> None:
        """Starts the clock; once is enough."""
        if not self.started:
            self.started = True
            self._set(now)

    def pause(self, now: float, *, on: bool | None = None) -> None:
        """Pauses, or goes on; on: which of the two."""
        on = not self.paused if on is None else on
        self.pauses += on and not self.paused
        self.paused = on
        self._set(now)

    def grade(self, now: float) -> None:
        """A grading began: the clock stands until `graded` or `released`."""
        self.grading = True
        self._set(now)

    def released(self, now: float) -> None:
        """The grading ended without a verdict."""
        self.grading = False
        self._set(now)

    def graded(self, now: float, verdict: Verdict, *, saved: bool = True) -> None:
        """The verdict: levels that it passes have their time from the first verdict that passed them.

        saved: it is on a save of this round, which counts as a run.
        """
        self.released(now)
        if any(check.outcome == "error" for check in verdict.checks):
            return  # a fault of the suite or the machine says nothing about the attempt
        self.runs += saved
        for level in passed_levels(verdict.checks):
            self.levels.setdefault(level, self.active)
        if verdict.passed:
            self.end(now, "passed" if self.level is None else f"level {self.level} passed")

    def tick(self, now: float) -> None:
        """Ends the round if the time is up. A grading that began in time is waited for."""
        if self.outcome is None and not self.grading and self.left(now) <= 0:
            self.end(now, "out of time")

    def end(self, now: float, outcome: str) -> None:
        self.outcome = self.outcome or outcome
        self._set(now)

    def elapsed(self, now: float) -> float:
        """The person's seconds so far."""
        return self.active + (max(now - self.since, 0.0) if self.since is not None else 0.0)

    def left(self, now: float) -> float:
        return max(60 * self.minutes - self.elapsed(now), 0.0)

    def phase(self, now: float) -> Phase:
        """The phase that the round is in; the last one from the end on."""
        found = phases(self.minutes)
        return next((phase for phase in found if self.elapsed(now) < phase.ends), found[-1])

    def detail(self) -> dict[str, Any]:
        """What is kept beside the round's own fields."""
        levels = {str(level): round(seconds, 1) for level, seconds in self.levels.items()}
        counts = {"runs": self.runs, "hints": self.hints, "pauses": self.pauses}
        return {"levels": levels, "level": self.level, **counts}

    @staticmethod
    def resumed(kept: Round) -> "Timed":
        """The round as it was when it was last kept; the clock stands until `start`."""
        detail = kept.detail
        return Timed(
            minutes=kept.minutes,
            level=detail["level"],
            active=kept.active,
            levels={int(level): seconds for level, seconds in detail["levels"].items()},
            **{name: detail[name] for name in ("runs", "hints", "pauses")},
        )

    def _set(self, now: float) -> None:
        """Adds up the time so far, and lets the clock run or stand as the state wants it."""
        self.active = self.elapsed(now)
        runs = self.started and not self.paused and not self.grading and self.outcome is None
        self.since = now if runs else None


def passed_levels(checks: Iterable[Check]) -> tuple[int, ...]:
    """The levels in which every check passed."""
    by_level: dict[int, list[Check]] = {}
    for check in checks:
        by_level.setdefault(check.level, []).append(check)
    return tuple(level for level, own in sorted(by_level.items()) if level_outcome(own) == "passed")


def personal_best(rounds: Sequence[Round], runs: Sequence[Run]) -> Round | None:
    """The quickest of one kata's passed rounds that began from an untouched stub, with a text that was new then."""
    first: dict[str, float] = {}
    for run in runs:
        if run.passed:
            first.setdefault(run.source, run.at)
    passes = {run.round: run.source for run in runs if run.passed and run.round is not None}
    own = [r for r in rounds if r.kind == "timed" and r.outcome == "passed" and r.detail.get("from_stub")]
    own = [r for r in own if r.id in passes and first[passes[r.id]] >= r.began]
    return min(own, key=lambda r: r.active, default=None)


def summary(kept: Round, kata: Kata, best: Round | None) -> list[Line]:
    """What became of a round. best: the personal best before it."""
    total = clock(60 * kept.minutes)
    style = {"green": True, "bold": True} if "passed" in str(kept.outcome) else {"yellow": True}
    lines: list[Line] = [(f"{kept.outcome}: {clock(kept.active)} of {total}", style)]
    levels: dict[str, float] = kept.detail["levels"]
    for number, title in enumerate(kata.levels_in(kept.framework)[: kept.detail["level"]], 1):
        reached = clock(levels[str(number)]) if str(number) in levels else "not passed"
        lines.append((f"  level {number}  {title:<24} {reached:>10}", {}))
    counted = (("run", "runs"), ("hint", "hints"), ("pause", "pauses"))
    counts = [(kept.detail[many], one if kept.detail[many] == 1 else many) for one, many in counted]
    lines.append((f"  {', '.join(f'{count} {name}' for count, name in counts)}", {}))
    return [*lines, (f"  {_beside(kept, best)}", {})]


def _beside(kept: Round, best: Round | None) -> str:
    on = f"{clock(best.active)} on {datetime.fromtimestamp(best.began):%d %b %Y}" if best else ""
    if kept.outcome != "passed":
        return f"personal best {on}" if best else "no personal best yet"
    if not kept.detail.get("from_stub"):
        return "no personal best: the file held work from before" + (f"; the best is {on}" if best else "")
    if best is None:
        return "personal best: the first one"
    if kept.active < best.active:
        return f"personal best, {clock(best.active - kept.active)} quicker than the {on}"
    return f"personal best {on}"


def clock(seconds: float) -> str:
    """12:05, or 1:02:05 from an hour on; whole seconds that are over."""
    whole = int(seconds + 1e-6)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
