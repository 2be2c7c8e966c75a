"""Runs a practice on a terminal, or by lines where there is none; leaves the terminal as it was, however it ends."""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

from graders.practice.keys import Answers, cbreak, read_keys
from graders.practice.loop import Practice
from graders.practice.screen import Page, styled
from graders.practice.watching import Event
from graders.report import Line

TICK = 0.25


class Ended(BaseException):
    """A signal asked this process to end, wherever it was: no `except Exception` is to take it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


class Desk:
    """Where a person sits: keys and events arrive in `inbox`, as strings and Events.

    Without a terminal at both ends they are typed lines, of which the first letter is the key; None is their end.
    `answers` is to be entered around questions.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.inbox: queue.SimpleQueue[str | Event | None] = queue.SimpleQueue()  # a signal's handler may put
        self.answers = Answers()
        self.ended: Ended | None = None
        both = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
        self.single = both and console.is_terminal and not console.is_dumb_terminal
        self.fresh = self.suspended = self.at_end = False

    def play(self, practice: Practice, begin: Callable[[], Any]) -> None:
        """Until the practice is over. begin: called once this is ready for events."""
        with _signals(self):
            if self.single:
                self._on_screen(practice, begin)
            else:
                self._by_lines(practice, begin)

    def ask(self, question: str) -> str | None:
        """One typed line; None when there will be no more. Raises KeyboardInterrupt."""
        self.console.print(question, end="", markup=False, highlight=False)
        if self.single:
            return self.answers.read()
        while not self.at_end:
            if self.answers.pressed.is_set():
                raise KeyboardInterrupt
            with contextlib.suppress(queue.Empty):
                item = self.inbox.get(timeout=TICK)
                self.at_end = item is None
                if isinstance(item, str):
                    self.console.print(item, markup=False, highlight=False)
                    return item
        self.console.print()
        return None

    def _on_screen(self, practice: Practice, begin: Callable[[], Any]) -> None:
        live = Live(console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        with cbreak() as as_before, live, read_keys(self.inbox):
            begin()
            drawn, self.fresh = -1, True
            while not practice.over:
                self._take(practice)
                if self.suspended:
                    self.suspended = False
                    practice.rest(time.monotonic())
                    live.stop()
                    with as_before():
                        os.kill(os.getpid(), signal.SIGSTOP)
                    live.start()
                now = time.monotonic()
                second = int(practice.timed.elapsed(now)) if practice.timed else 0
                if self.fresh or practice.busy_since is not None or second != drawn:
                    live.update(Page(practice, now), refresh=True)
                drawn, self.fresh = second, False

    def _by_lines(self, practice: Practice, begin: Callable[[], Any]) -> None:
        threading.Thread(target=self._read_lines, daemon=True).start()
        begin()
        while not practice.over:
            self._take(practice)
            self.tell(practice.news)
            practice.news.clear()
        self.tell(practice.news)

    def tell(self, lines: list[Line]) -> None:
        """Prints lines of a report."""
        for text in styled(lines):
            self.console.print(text, soft_wrap=not self.console.is_terminal, highlight=False)

    def _take(self, practice: Practice) -> None:
        """Everything that has arrived, or a tick's wait."""
        if self.ended:
            raise self.ended  # again: a callback swallowed it
        with contextlib.suppress(queue.Empty):
            item = self.inbox.get(timeout=TICK)
            while True:
                self.fresh = True
                now = time.monotonic()
                if isinstance(item, str):
                    practice.key(item if self.single else item[:1].lower() or "enter", now)
                elif item is None:
                    self.at_end = True
                else:
                    practice.event(item, now)
                if practice.over:
                    break  # what was typed after that answers the review
                item = self.inbox.get_nowait()
        practice.tick(time.monotonic())

    def _read_lines(self) -> None:
        """Lines of standard input, read past Python's buffers: a thread may wait in them while the program ends."""
        left = b""
        with contextlib.suppress(OSError, AttributeError, ValueError):
            descriptor = sys.stdin.fileno()
            while part := os.read(descriptor, 4096):
                *whole, left = (left + part).split(b"\n")
                for line in whole:
                    self.inbox.put(line.decode(errors="replace").strip())
        if left:
            self.inbox.put(left.decode(errors="replace").strip())
        self.inbox.put(None)


@contextlib.contextmanager
def _signals(desk: Desk) -> Iterator[None]:
    """Ends tidily when asked to; a change of the window's size is drawn at once."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        desk.ended = Ended(number)
        raise desk.ended

    def drawn(number: int, frame: FrameType | None) -> None:
        del number, frame
        desk.inbox.put("")

    def suspend(number: int, frame: FrameType | None) -> None:
        del number, frame
        desk.suspended = True
        desk.inbox.put("")

    wanted: dict[str, Any] = {"SIGINT": end, "SIGTERM": end, "SIGHUP": end}
    if desk.single:
        wanted |= {"SIGWINCH": drawn, "SIGTSTP": suspend}
    before = {getattr(signal, n): signal.signal(getattr(signal, n), f) for n, f in wanted.items() if hasattr(signal, n)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
