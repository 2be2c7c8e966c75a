"""One person at one kata: what a save, a key and the passing of time do, with a clock or without.

Nothing here touches a terminal: keys and events come in, what is to be shown stands in the fields, and `news` holds
the same as lines, for where there is no screen.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

from graders import report
from graders.catalogue import Kata
from graders.errors import KataError
from graders.history import History, Round
from graders.practice import hints
from graders.practice.opening import Choice, this_process
from graders.practice.rounds import Timed, clock
from graders.practice.watching import Checking, Event, Gone, Graded, Hinted, Progress
from graders.report import Check, Line, Verdict

PAGE = 10  # lines
SCROLL = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE, "space": PAGE}


class Engine(Protocol):
    """What is asked of the engine; see graders.practice.watching."""

    def hint(self) -> None: ...

    def again(self) -> None: ...


@dataclass
class Practice:
    """The state of a practice. timed: None when there is no clock; kept: the round's record, once it began.

    verdict: the last one, hints: those given on it, given: all of them. checks: those of the grading that is under way,
    as far as they came. page: spec or card.
    """

    choice: Choice
    history: History
    origin: str
    engine: Engine
    timed: Timed | None = None
    kept: Round | None = None
    from_stub: bool = False  # whether the round begins with nothing written yet
    verdict: Verdict | None = None
    seconds: float = 0.0
    busy_since: float | None = None
    running: str = ""
    checks: dict[str, Check] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    rungs: list[str] | None = None
    page: str = "spec"
    scroll: int = 0
    note: str = ""
    over: bool = False
    phase: str = ""
    saved: float = float("-inf")
    news: list[Line] = field(default_factory=list)

    def event(self, event: Event, now: float) -> None:
        """What the engine tells."""
        if isinstance(event, Progress):
            self._progress(event.check)
            return
        if isinstance(event, Checking):
            self._checking(event, now)
            return
        self.busy_since, self.running = None, ""
        if isinstance(event, Graded):
            self._graded(event, now)
        elif self.timed:
            self.timed.released(now)
        if isinstance(event, Hinted):
            self._hinted(event)
        elif isinstance(event, Gone):
            self._say(f"{self.shown_path} is not there; it is graded when it is back")
        elif not isinstance(event, Graded):
            self._say(f"not graded: {event.text}")
        self.save(now)

    def key(self, key: str, now: float) -> None:
        """What the person pressed; an unknown key does nothing."""
        if key == "q":
            self.over = True
            if self.timed:
                self.timed.end(now, "stopped")
        elif key == "h":
            self._hint()
        elif key == "r":
            self.engine.again()
        elif key == "c":
            self.page, self.scroll = "card" if self.page == "spec" else "spec", 0
        elif key in SCROLL:
            self.scroll = max(self.scroll + SCROLL[key], 0)
        elif key == "p" and self.timed and self.timed.started:
            self.timed.pause(now)
            self._say("paused; p goes on" if self.timed.paused else "going on")
        elif key == "enter" and self.timed and not self.timed.started:
            self.begin(now)
        self.save(now)

    def begin(self, now: float) -> None:
        """Starts the clock, and the round's record if it has none. Raises KataError if that cannot be kept."""
        if self.timed is None or self.timed.started:
            return
        if self.kept is None:
            detail = {**self.timed.detail(), "from_stub": self.from_stub, "process": this_process()}
            where = self.kata.name, self.framework, self.shown_path
            self.kept = self.history.begin("timed", *where, self.timed.minutes, **detail)
        self.timed.start(now)
        self._say("the clock runs")
        self.tick(now)

    def rest(self, now: float) -> None:
        """Pauses, if there is a clock that runs: the person turned away."""
        if self.timed and self.timed.started:
            self.timed.pause(now, on=True)
            self.note = "paused; p goes on"
            self.save(now)

    def tick(self, now: float) -> None:
        """Lets time pass: the phase, the end of the time, and once a second what is kept."""
        if self.timed is None:
            return
        self.timed.tick(now)
        self.over = self.over or self.timed.outcome is not None
        if self.timed.started and not self.over and (phase := self.timed.phase(now)).name != self.phase:
            self.phase = phase.name
            self.news.append((f"{self.stamp(now)}{phase.name}, until {clock(phase.ends)}", {"bold": True}))
        if now - self.saved >= 1 and self.timed.since is not None:
            self.save(now)

    def save(self, now: float) -> None:
        """Keeps the round as it is; one that ended, as ended."""
        if self.timed is None or self.kept is None or self.kept.ended is not None:
            return
        self.saved = now
        detail = {**self.kept.detail, **self.timed.detail(), "process": this_process()}
        self.kept = replace(self.kept, active=self.timed.elapsed(now), minutes=self.timed.minutes, detail=detail)
        try:
            if self.timed.outcome is None:
                self.history.save(self.kept)
            else:
                self.kept = self.history.end(self.kept, self.timed.outcome)
        except KataError as problem:
            self._say(f"not kept: {problem}")

    def stamp(self, now: float) -> str:
        """The person's time so far, as the beginning of a line; nothing without a clock."""
        return f"{clock(self.timed.elapsed(now)):>7}  " if self.timed else ""

    @property
    def kata(self) -> Kata:
        return self.choice.kata

    @property
    def framework(self) -> str:
        return self.choice.framework

    @property
    def shown_path(self) -> str:
        return self.choice.shown_path

    @property
    def shown(self) -> Verdict | None:
        """What is shown: of the grading that is under way as soon as something failed in it, else the last verdict."""
        if self.busy_since is not None and any(check.outcome != "passed" for check in self.checks.values()):
            checks = tuple(self.checks.values())
            return Verdict(self.kata.name, self.shown_path, self.framework, "", 0, checks)
        return self.verdict

    def _say(self, text: str) -> None:
        self.note = text
        self.news.append((text, {}))

    def _checking(self, event: Checking, now: float) -> None:
        if self.timed:
            if event.saved:
                self.begin(now)
            self.timed.grade(now)
        self.busy_since = self.busy_since if self.busy_since is not None else now
        self.running, self.checks, self.note = "", {}, ""
        self.news.append((f"{self.stamp(now)}checking", {"light": True}))

    def _progress(self, check: Check) -> None:
        if check.outcome == "checking":
            self.running = check.name
            return
        self.checks[check.name] = check
        if check.outcome != "passed" and self.page == "spec":
            self.page, self.scroll = "card", 0

    def _graded(self, event: Graded, now: float) -> None:
        self.verdict, self.seconds = event.verdict, event.seconds
        self.rungs, self.hints, self.page, self.scroll = None, [], "card", 0
        if self.timed:
            self.timed.graded(now, event.verdict, saved=event.saved)
        if self.choice.path != self.kata.solution(self.framework):
            round = self.kept.id if self.kept else None
            try:
                self.history.record(
                    event.verdict, event.source, origin=self.origin, asked=self.choice.level, round=round
                )
            except KataError as problem:
                self._say(f"this run is not in the history: {problem}")
        first, *rest = report.render(event.verdict)
        self.news += [(f"{self.stamp(now)}{first[0]}, {event.seconds:.2f} s after the save", first[1]), *rest, ("", {})]

    def _hint(self) -> None:
        if self.verdict is None:
            self._say("save the file first: a hint looks at what fails")
        elif self.verdict.passed:
            self._say("nothing fails")
        elif self.rungs is None:
            self.note = "looking for the likely mistake"
            self.engine.hint()
        else:
            self._give()

    def _hinted(self, event: Hinted) -> None:
        if event.check is None:
            self._say("nothing fails")
            return
        rungs = hints.ladder(self.kata, self.framework, event.check, event.likely)
        self.rungs = [rung for rung in rungs[:-1] if rung not in self.given] + [rungs[-1]]
        self._give()

    def _give(self) -> None:
        """The next hint: shown, counted and kept; the ladder's end is no hint."""
        assert self.rungs
        if len(self.rungs) == 1:
            self._say(self.rungs[0])
            return
        text = self.rungs.pop(0)
        self.hints.append(text)
        self.given.append(text)
        self.page, self.scroll, self.note = "card", 0, ""
        self.news.append((f"hint  {text}", {"bold": True}))
        if self.timed:
            self.timed.hints += 1
        try:
            where = self.kept.id if self.kept else None
            self.history.note("hint", self.kata.name, self.framework, round=where, detail=text)
        except KataError as problem:
            self._say(f"this hint is not in the history: {problem}")
