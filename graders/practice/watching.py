"""Watches one file and grades it at each save, in threads of its own, so that whoever shows it is never blocked."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graders import notebook, runner
from graders.catalogue import Kata
from graders.errors import KataError, Mismatch
from graders.report import Check, Verdict

LOOK = 500  # ms after which the file is looked at even if nothing was heard of it
QUIET = 10  # ms without a further change after which a save is complete


@dataclass(frozen=True)
class Checking:
    """A grading began. saved: the file is not as it was when the watching began."""

    saved: bool


@dataclass(frozen=True)
class Progress:
    """A check began or ended, in the grading that is under way."""

    check: Check


@dataclass(frozen=True)
class Graded:
    """The verdict on exactly this source. seconds: since the save was noticed; saved: as in Checking."""

    verdict: Verdict
    source: str
    seconds: float
    saved: bool = True


@dataclass(frozen=True)
class Hinted:
    """The first failure of the last verdict, and the mistakes that give the same; None if nothing fails."""

    check: Check | None
    likely: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gone:
    """The file is not there; it is graded when it is back."""


@dataclass(frozen=True)
class Trouble:
    """Nothing could be graded: a fault of the suite."""

    text: str


Event = Checking | Progress | Graded | Hinted | Gone | Trouble


@dataclass(frozen=True)
class Content:
    """What a file held at one moment. stamp: changes with each write; at: when it was seen."""

    data: bytes
    stamp: tuple[int, int, int]
    at: float


def look(path: Path) -> Content | None:
    """What the file holds now; None if it is not there."""
    try:
        before, data = path.stat(), path.read_bytes()
    except OSError:
        return None
    return Content(data, (before.st_mtime_ns, before.st_ino, before.st_size), time.monotonic())


class Watching:
    """Tells each Event of one file, from threads of its own: `tell` must not take long.

    The newest content is what is graded: a save ends the grading that is under way, and only a verdict on what
    the file held from before the grading until after it is told. first: grade what is there to begin with.
    """

    def __init__(
        self,
        kata: Kata,
        path: Path,
        framework: str,
        tell: Callable[[Event], None],
        *,
        level: int | None = None,
        first: bool = True,
        timeout: float = runner.TOTAL,
    ) -> None:
        self.kata, self.path, self.framework, self.level, self.timeout = kata, path, framework, level, timeout
        self.tell = tell
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.newest = look(path)
        self.opened = self.newest.stamp if self.newest else None
        self.settled = None if first or self.newest is None else self.newest.data  # what needs no grading
        self.under_way: Content | None = None
        self.failure: tuple[Check | None, int] = None, 0  # of the last verdict, and its seed
        self.hinting = False
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._watch, self._work)]

    def start(self) -> "Watching":
        runner.warm(self.framework)
        for thread in self.threads:
            thread.start()
        return self

    def hint(self) -> None:
        """Asks for a hint on the last verdict, or on the one that is about to come."""
        with self.changed:
            self.hinting = True
            self.changed.notify()

    def again(self) -> None:
        """Asks to grade the file though it did not change."""
        with self.changed:
            self.settled = None
            self.changed.notify()

    def close(self) -> None:
        """Ends the watching and what is being graded."""
        self.closing.set()
        with self.changed:
            self.changed.notify()
        deadline = time.monotonic() + 2
        for thread in self.threads:
            while thread.is_alive() and time.monotonic() < deadline:
                runner.stop(self.framework)  # again: one that comes before the grading began stops nothing
                thread.join(0.1)

    def _watch(self) -> None:
        import watchfiles

        folder = self.path.resolve().parent  # a save by rename puts another file in this one's place
        while not self.closing.is_set():
            try:
                for _ in watchfiles.watch(
                    folder,
                    watch_filter=None,
                    debounce=100,
                    step=QUIET,
                    rust_timeout=LOOK,
                    yield_on_timeout=True,
                    stop_event=self.closing,
                    recursive=False,
                    raise_interrupt=False,
                ):
                    self._look()
            except (OSError, RuntimeError):  # no such folder for now, or no notification to be had: looking is enough
                self._look()
                self.closing.wait(LOOK / 1000)

    def _look(self) -> None:
        found = look(self.path)
        with self.changed:
            gone = found is None and self.newest is not None
            if found is None or self.newest is None or found.stamp != self.newest.stamp:
                self.newest = found
            self.settled = None if gone else self.settled
            stale = bool(self.under_way and found and found.data != self.under_way.data)
            self.changed.notify()
        if gone and not self.closing.is_set():
            self.tell(Gone())
        if stale:
            runner.stop(self.framework)

    def _work(self) -> None:
        while not self.closing.is_set():
            with self.changed:
                self.under_way, fresh = self.newest, bool(self.newest and self.newest.data != self.settled)
                if self.under_way is None or not (fresh or self.hinting):
                    self.under_way = None
                    self.changed.wait()
                    continue
            self.tell(Checking(self._saved(self.under_way)))
            try:
                if fresh:
                    self._grade(self.under_way)
                else:
                    self._hint(self.under_way)
            except (KataError, OSError, ValueError) as problem:
                if self._unchanged(self.under_way):
                    self.settled, self.hinting = self.under_way.data, False
                    self.tell(Trouble(str(problem)))
            self.under_way = None

    def _unchanged(self, content: Content) -> bool:
        """Whether it was this content that was graded from beginning to end, and somebody still wants to know."""
        self._look()
        with self.changed:
            return not self.closing.is_set() and self.newest is not None and self.newest.stamp == content.stamp

    def _saved(self, content: Content) -> bool:
        return content.stamp != self.opened

    def _grade(self, content: Content) -> None:
        try:
            source = notebook.source(self.path)
        except Mismatch:
            source = ""  # the verdict says why it does not read
        verdict = runner.grade(
            self.kata.name,
            self.path,
            framework=self.framework,
            level=self.level,
            timeout=self.timeout,
            progress=lambda check: self.tell(Progress(check)),
        )
        if self._unchanged(content):
            self.settled = content.data
            self.failure = verdict.first_failure, verdict.seed
            self.tell(Graded(verdict, source, time.monotonic() - content.at, self._saved(content)))

    def _hint(self, content: Content) -> None:
        failing, seed = self.failure
        likely: tuple[str, ...] = ()
        if failing and failing.outcome == "failed":
            verdict = runner.grade(
                self.kata.name,
                self.path,
                framework=self.framework,
                check=failing.name,
                seed=seed,
                timeout=self.timeout,
                hint=True,
            )
            likely = tuple(said for check in verdict.checks for said in check.likely)
        if self._unchanged(content):
            self.hinting = False
            self.tell(Hinted(failing, likely))
