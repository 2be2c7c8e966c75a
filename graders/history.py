"""What was practised, in SQLite: graded runs with the attempt's source, rounds, and what the person asked for.

Every write is one transaction, so that a process killed at any moment loses nothing that was recorded. The file is
`.katas/history.db`, or `history.db` in the folder that the environment variable KATAS_STATE names.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from graders.catalogue import ROOT
from graders.errors import KataError
from graders.report import Verdict, level_outcome

VERSION = 1
TABLES = """
CREATE TABLE source (hash TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE round (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, kata TEXT NOT NULL, framework TEXT NOT NULL, attempt TEXT NOT NULL,
    minutes REAL NOT NULL, began REAL NOT NULL, active REAL NOT NULL, ended REAL, outcome TEXT, detail TEXT NOT NULL
);
CREATE TABLE run (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, origin TEXT NOT NULL, kata TEXT NOT NULL, framework TEXT NOT NULL,
    attempt TEXT NOT NULL, device TEXT NOT NULL, seed INTEGER NOT NULL, asked INTEGER, outcome TEXT NOT NULL,
    levels TEXT NOT NULL, failure TEXT NOT NULL, seconds REAL NOT NULL, source TEXT NOT NULL REFERENCES source,
    round INTEGER REFERENCES round
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, kata TEXT NOT NULL, framework TEXT NOT NULL,
    round INTEGER REFERENCES round, detail TEXT NOT NULL
);
CREATE INDEX run_by_kata ON run (kata, framework);
"""


@dataclass(frozen=True)
class Run:
    """One graded run. outcome: passed, failed, not started, error, or not graded (a text that was kept at a reset).

    levels: the outcome of each level graded.
    asked: grade up to this level (None: all), so that a run of level 1 alone never counts as a pass of the kata.
    at: seconds since 1970; seconds: within the checks; failure: the first failing check and its sentence.
    """

    id: int
    at: float
    origin: str
    kata: str
    framework: str
    attempt: str
    device: str
    seed: int
    asked: int | None
    outcome: str
    levels: tuple[str, ...]
    failure: str
    seconds: float
    source: str
    round: int | None

    @property
    def passed(self) -> bool:
        """Every level of the kata passed."""
        return self.outcome == "passed" and self.asked is None


@dataclass(frozen=True)
class Round:
    """A timed round or a drill. active: seconds that count against the person; ended, outcome: None while it goes on.

    kind: "timed" or "drill". outcome: passed, out of time, stopped or interrupted, or "level 2 passed" of a timed round
    up to level 2. detail: what the kind keeps besides, such as the time to each level or the scores of the review.
    """

    id: int
    kind: str
    kata: str
    framework: str
    attempt: str
    minutes: float
    began: float
    active: float = 0.0
    ended: float | None = None
    outcome: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Something the person asked for: "hint", "give-up", "reset". detail: the hint's text, for one."""

    id: int
    at: float
    kind: str
    kata: str
    framework: str
    round: int | None
    detail: str


def state() -> Path:
    """The folder of what is kept between runs."""
    return Path(os.environ.get("KATAS_STATE") or ROOT / ".katas")


class History:
    """The history in one file, made if it is not there.

    Raises KataError if the file cannot be read, or is from a newer version of the suite; it is left as it is.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or state() / "history.db"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._transaction() as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in TABLES.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
        except OSError as error:
            raise KataError(f"{self.path}: the history cannot be used: {error}") from error
        if version > VERSION:
            raise KataError(f"{self.path}: the history was written by a newer version of the suite; update it")

    def record(
        self,
        verdict: Verdict,
        source: str,
        *,
        origin: str,
        asked: int | None = None,
        round: int | None = None,
    ) -> Run:
        """Keeps a verdict with the attempt's source. origin: pytest, timer, watch, notebook, debug or reset."""
        by_level = groupby(verdict.checks, key=lambda check: check.level)
        failure = verdict.first_failure
        run = Run(
            id=0,
            at=time.time(),
            origin=origin,
            kata=verdict.kata,
            framework=verdict.framework,
            attempt=verdict.attempt,
            device=verdict.device,
            seed=verdict.seed,
            asked=asked,
            outcome="passed" if verdict.passed else failure.outcome if failure else "not graded",
            levels=tuple(level_outcome(list(checks)) for _, checks in by_level),
            failure=f"{failure.name}: {failure.message.partition(chr(10))[0]}" if failure else "",
            seconds=sum(check.seconds for check in verdict.checks),
            source=hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest(),
            round=round,
        )
        with self._transaction() as db:
            text = source.encode("utf-8", "replace").decode()
            db.execute("INSERT OR IGNORE INTO source VALUES (?, ?)", (run.source, text))
            return replace(run, id=_insert(db, "run", run))

    def note(self, kind: str, kata: str, framework: str, *, round: int | None = None, detail: str = "") -> Event:
        """Keeps that the person asked for something."""
        event = Event(0, time.time(), kind, kata, framework, round, detail)
        with self._transaction() as db:
            return replace(event, id=_insert(db, "event", event))

    def begin(self, kind: str, kata: str, framework: str, attempt: str, minutes: float, **detail: Any) -> Round:
        """A new round, recorded as going on."""
        began = Round(0, kind, kata, framework, attempt, minutes, time.time(), detail=detail)
        with self._transaction() as db:
            return replace(began, id=_insert(db, "round", began))

    def save(self, round: Round) -> Round:
        """Keeps a round as it is now."""
        row = _row(round)
        with self._transaction() as db:
            changes = ", ".join(f"{name} = ?" for name in row)
            db.execute(f"UPDATE round SET {changes} WHERE id = ?", (*row.values(), round.id))
        return round

    def end(self, round: Round, outcome: str) -> Round:
        return self.save(replace(round, ended=time.time(), outcome=outcome))

    def runs(self, **where: Any) -> tuple[Run, ...]:
        """The runs in which these fields have these values, oldest first: `runs(kata="adam", round=3)`."""
        return tuple(Run(**{**row, "levels": tuple(json.loads(row["levels"]))}) for row in self._rows("run", where))

    def rounds(self, **where: Any) -> tuple[Round, ...]:
        """The rounds in which these fields have these values, oldest first; `ended=None` are those going on."""
        return tuple(Round(**{**row, "detail": json.loads(row["detail"])}) for row in self._rows("round", where))

    def events(self, **where: Any) -> tuple[Event, ...]:
        return tuple(Event(**row) for row in self._rows("event", where))

    def run(self, number: int) -> Run:
        """Raises KataError if there is no such run."""
        found = self.runs(id=number)
        if not found:
            raise KataError(f"there is no run {number} in the history; scripts/history.py lists them")
        return found[0]

    def text(self, run: Run) -> str:
        """The source that was graded."""
        ((text,),) = (row.values() for row in self._rows("source", {"hash": run.source}, columns="text", order="hash"))
        return str(text)

    def may_see_solution(self, kata: str, framework: str) -> bool:
        """After a pass of all levels or a give-up, in that framework; a drill's file is another's code."""
        where = {"kata": kata, "framework": framework}
        drilled = {round.attempt for round in self.rounds(kind="drill", **where)}
        own = [run for run in self.runs(**where) if run.origin != "debug" and run.attempt not in drilled]
        return any(run.passed for run in own) or bool(self.events(kind="give-up", **where))

    def _rows(self, table: str, where: dict[str, Any], columns: str = "*", order: str = "id") -> list[dict[str, Any]]:
        tests = " AND ".join(f"{name} IS ?" for name in where) or "1"
        with self._transaction() as db:
            found = db.execute(f"SELECT {columns} FROM {table} WHERE {tests} ORDER BY {order}", tuple(where.values()))
            names = [name for name, *_ in found.description]
            return [dict(zip(names, row, strict=True)) for row in found]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own each time: any thread, any process, nothing held open.

        Raises KataError if it fails (the disk is full, another process holds the file); nothing was changed then.
        """
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30.0, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
        except sqlite3.Error as error:
            advice = "" if isinstance(error, sqlite3.OperationalError) else "; move the file away to begin anew"
            raise KataError(f"{self.path}: the history cannot be used: {error}{advice}") from error


def _row(item: Any) -> dict[str, Any]:
    """A dataclass's fields as columns."""
    return {
        name: json.dumps(value) if isinstance(value, tuple | dict) else value
        for name, value in vars(item).items()
        if name != "id"
    }


def _insert(db: sqlite3.Connection, table: str, item: Any) -> int:
    row = _row(item)
    columns, marks = ", ".join(row), ", ".join("?" for _ in row)
    done = db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))
    return int(done.lastrowid or 0)
