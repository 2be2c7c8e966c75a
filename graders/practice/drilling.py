"""A debugging drill as it goes on: what a verdict says of each mistake, the time to fix it, and what is kept.

The clock counts the person's own time: it stands while a grading is under way.
"""

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from graders.catalogue import ROOT, Kata
from graders.errors import KataError
from graders.history import History, Round, state
from graders.practice.drill import Drill, Mistake
from graders.practice.opening import is_running, this_process
from graders.report import Verdict
from graders.runner import grade


@dataclass
class Drilling:
    """One drill under way. fixed: the person's seconds when each mistake was fixed; since: when the clock began."""

    kata: Kata
    history: History
    round: Round
    drill: Drill
    fixed: dict[str, float]
    since: float | None = None

    @property
    def path(self) -> Path:
        return ROOT / self.round.attempt

    def elapsed(self, now: float) -> float:
        """The person's seconds."""
        return self.round.active + (now - self.since if self.since is not None else 0.0)

    def run(self, now: float) -> None:
        """Lets the clock run."""
        self.since = now if self.since is None else self.since

    def stand(self, now: float) -> None:
        """Lets the clock stand, and keeps the round as it is."""
        self.keep(now)
        self.since = None

    def keep(self, now: float) -> None:
        """Keeps the round; whoever is killed afterwards resumes here."""
        detail = {**self.round.detail, "fixed": dict(self.fixed), "process": this_process()}
        self.round = self.history.save(replace(self.round, active=self.elapsed(now), detail=detail))
        self.since = now if self.since is not None else None

    def graded(self, verdict: Verdict, source: str) -> None:
        """Keeps the run, unless nothing was changed since the last one, and finds which mistakes are fixed."""
        before = self.history.runs(round=self.round.id)
        last = self.history.text(before[-1]) if before else self.drill.text
        if source != last:
            self.history.record(verdict, source, origin="debug", round=self.round.id)
        for mistake in self.drill.mistakes:
            now_fixed = self._is_fixed(mistake, verdict, source)
            if now_fixed:
                self.fixed.setdefault(mistake.name, round(self.round.active, 2))
            elif now_fixed is False:
                self.fixed.pop(mistake.name, None)

    def end(self, outcome: str, now: float) -> None:
        """Passed, stopped (given up), or interrupted (another drill was begun)."""
        self.keep(now)
        self.since = None
        self.round = self.history.end(self.round, outcome)

    def _is_fixed(self, mistake: Mistake, verdict: Verdict, source: str) -> bool | None:
        """Whether its level passes with the other mistakes out of the way; None if that cannot be told."""
        level = next((check.level for check in verdict.checks if check.name == mistake.check), None)
        if verdict.passed or all(check.outcome == "passed" for check in verdict.checks if check.level <= (level or 99)):
            return True
        try:
            ast.parse(source)
        except (SyntaxError, ValueError):
            return None
        alone = self.drill.repaired(source, but=[mistake.name])
        if level is None or any(check.outcome == "error" for check in verdict.checks):
            return None
        if alone.splitlines() == source.splitlines():
            return False
        with TemporaryDirectory(prefix="kata-") as folder:
            path = Path(folder) / self.path.name
            path.write_text(alone, encoding="utf-8")
            found = grade(self.kata.name, path, framework=self.round.framework, level=level)
        return None if any(check.outcome == "error" for check in found.checks) else found.passed


def begin(kata: Kata, framework: str, drill: Drill, path: Path, history: History) -> Drilling:
    """Keeps the drill, then writes its file."""
    path = path.resolve()
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    kept = history.begin("drill", kata.name, framework, shown, 0.0, drill=drill.kept(), fixed={})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drill.text, encoding="utf-8")
    return Drilling(kata, history, kept, drill, {})


def resume(kata: Kata, framework: str, history: History) -> Drilling | None:
    """The drill that was not ended; its file is written again if it is gone, as it was last graded."""
    going = history.rounds(kind="drill", kata=kata.name, framework=framework, ended=None)
    if not going:
        return None
    kept = going[-1]
    if is_running(kept):
        pid = int(kept.detail["process"][0])
        raise KataError(f"a drill of {kata.name} is going on in another terminal, process {pid}; end that one first")
    drilling = Drilling(kata, history, kept, Drill.of(kept.detail["drill"]), dict(kept.detail["fixed"]))
    if not drilling.path.exists():
        runs = history.runs(round=kept.id)
        drilling.path.parent.mkdir(parents=True, exist_ok=True)
        drilling.path.write_text(history.text(runs[-1]) if runs else drilling.drill.text, encoding="utf-8")
    return drilling


def place(kata: Kata, framework: str) -> Path:
    """A file for a new drill that is not there yet; its name tells pytest the framework."""
    folder = state() / "drills"
    for number in range(1, 10_000):
        path = folder / f"{kata.name}-{number}_{framework}.py"
        if not path.exists():
            return path
    raise KataError(f"{folder}: there are too many drills; delete some")


def refuse(path: Path) -> None:
    """Raises KataError if a drill there would overwrite a stub, a solution, or the suite's own code."""
    where = path.resolve()
    if any(where.is_relative_to(ROOT / name) for name in ("katas", "solutions", "graders", "scripts", "tests")):
        raise KataError(f"{path}: a drill is written beside the katas, not over them; choose another file")
    if where.suffix != ".py":
        raise KataError(f"{path}: a drill's name ends in .py")
    if not where.parent.is_dir():
        raise KataError(f"{path}: there is no such folder")
