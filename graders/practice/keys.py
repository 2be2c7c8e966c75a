"""Keys and typed lines from a terminal; keys are read in a thread of their own, the terminal is left as it was."""

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

NAMES = {
    "\r": "enter", "\n": "enter", " ": "space",
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1bOA": "up", "\x1bOB": "down",
    "\xe0H": "up", "\xe0P": "down", "\xe0I": "page up", "\xe0Q": "page down",
}  # fmt: skip
LOOK = 0.1  # seconds after which it is seen that the reading is over


class Answers:
    """Typed lines. While this is entered, Ctrl-C raises KeyboardInterrupt in `read` and nowhere else.

    Python raises it wherever the program is: a callback may swallow it, or what was to be kept is kept by half; and
    between input()'s prompt and its wait for a key, Ctrl-C is noticed with the next key alone.
    """

    def __init__(self) -> None:
        self.pressed = threading.Event()

    def __enter__(self) -> "Answers":
        self.before = signal.signal(signal.SIGINT, lambda *_: self.pressed.set())
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def read(self) -> str | None:
        """One line from the terminal; None when there will be no more. Raises KeyboardInterrupt."""
        waits = os.name != "nt" and sys.stdin.isatty()
        while waits and not self.pressed.is_set() and not _ready(sys.stdin.fileno()):
            pass
        try:
            line = None if self.pressed.is_set() else input()
        except EOFError:
            return None
        if line is None or self.pressed.is_set():
            raise KeyboardInterrupt
        return line


def agreed(question: str) -> bool:
    """Whether a person at the terminal says y or yes. Raises KeyboardInterrupt."""
    with Answers() as answers:
        print(f"{question} [y/N] ", end="", flush=True)
        return (answers.read() or "").strip().lower() in ("y", "yes")


@contextlib.contextmanager
def cbreak() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Single keys without echo, on POSIX. Gives what brings the terminal back to what it was for a while."""
    try:
        import termios
        import tty
    except ImportError:
        yield contextlib.nullcontext
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    @contextlib.contextmanager
    def as_before() -> Iterator[None]:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        yield
        tty.setcbreak(descriptor)

    try:
        tty.setcbreak(descriptor)
        yield as_before
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def read_keys(inbox: "queue.SimpleQueue[Any]") -> Iterator[None]:
    """Puts the name of each key that is pressed, from a thread."""
    over = threading.Event()
    read = _posix_keys if os.name != "nt" else _windows_keys
    thread = threading.Thread(target=read, args=(inbox, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)


def _posix_keys(inbox: "queue.SimpleQueue[Any]", over: threading.Event) -> None:
    descriptor = sys.stdin.fileno()
    while not over.is_set():
        if not _ready(descriptor):
            continue
        try:
            text = os.read(descriptor, 64).decode(errors="replace")
        except OSError:
            return
        if not text:
            return
        for key in _keys(text):
            inbox.put(key)


def _ready(descriptor: int) -> bool:
    """Whether something was typed, after a short wait; on POSIX."""
    import select

    return bool(select.select([descriptor], [], [], LOOK)[0])


def _keys(text: str) -> Iterator[str]:
    """The keys in what a terminal sent at once; sequences that are not known are dropped."""
    while text:
        known = next((code for code in NAMES if text.startswith(code)), None)
        if known is None and text.startswith("\x1b"):
            return
        yield NAMES[known] if known else text[0].lower()
        text = text[len(known or " ") :]


def _windows_keys(inbox: "queue.SimpleQueue[Any]", over: threading.Event) -> None:
    import importlib

    msvcrt: Any = importlib.import_module("msvcrt")
    while not over.is_set():
        if not msvcrt.kbhit():
            time.sleep(0.05)
            continue
        text = msvcrt.getwch()
        text += msvcrt.getwch() if text in "\x00\xe0" else ""
        for key in _keys(text.replace("\x00", "\xe0")):
            inbox.put(key)
