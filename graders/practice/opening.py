"""What a practice begins with: the kata and the file that were asked for, and the round that was left unfinished."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from graders import notebook, stubs
from graders.catalogue import FRAMEWORKS, ROOT, Kata, find
from graders.errors import KataError, Mismatch
from graders.history import History, Round


@dataclass(frozen=True)
class Choice:
    """What is practised. level: up to which it is graded, None for all; untouched: nothing is written in it yet."""

    kata: Kata
    framework: str
    path: Path
    level: int | None

    @property
    def shown_path(self) -> str:
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else str(self.path)

    @property
    def untouched(self) -> bool:
        try:
            return stubs.is_untouched(notebook.source(self.path), self.kata.name)
        except (OSError, Mismatch):
            return False


def choose(name: str, framework: str | None, attempt: Path | None, level: int | None) -> Choice:
    """Raises KataError, in one line, for what is not there or not offered."""
    kata = find(name)
    framework = framework or (kata.framework_of(attempt) if attempt else kata.frameworks[0])
    if framework not in kata.frameworks:
        raise KataError(f"{name} is offered in {', '.join(kata.frameworks)}, not in {framework}")
    levels = len(kata.levels_in(framework))
    if level is not None and not 1 <= level <= levels:
        raise KataError(f"there is no level {level}: {name} has {levels} in {FRAMEWORKS[framework]}")
    path = (attempt or kata.stub(framework)).resolve()
    if not path.is_file():
        advice = "" if attempt else f"; python scripts/reset.py {name} restores it"
        raise KataError(f"{attempt or path}: there is no such file{advice}")
    return Choice(kata, framework, path, None if level == levels else level)


def this_process() -> list[float]:
    """What tells this process from any other on this machine, before or after."""
    return [os.getpid(), psutil.Process().create_time()]


def is_running(kept: Round) -> bool:
    """Whether another process that last kept this round still runs."""
    pid, began = kept.detail.get("process", [0, 0.0])
    try:
        return int(pid) not in (0, os.getpid()) and abs(psutil.Process(int(pid)).create_time() - began) < 1
    except psutil.Error:
        return False


def unfinished(history: History, choice: Choice) -> Round | None:
    """The last round of this file that was begun and never ended. Raises KataError if another process is at it."""
    name = choice.kata.name
    where: dict[str, Any] = {"kind": "timed", "kata": name, "framework": choice.framework, "ended": None}
    rounds = history.rounds(**where, attempt=choice.shown_path)
    found = [kept for kept in rounds if kept.detail.get("level") == choice.level]
    if found and is_running(found[-1]):
        pid = int(found[-1].detail["process"][0])
        raise KataError(f"a round of {name} is going on in another terminal, process {pid}; end that one first")
    return found[-1] if found else None
