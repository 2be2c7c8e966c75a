"""Single keys from a terminal, read in a thread of their own; the terminal is left as it was."""

import contextlib
import os
import queue
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
def read_keys(inbox: "queue.Queue[Any]") -> Iterator[None]:
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


def _posix_keys(inbox: "queue.Queue[Any]", over: threading.Event) -> None:
    import select

    descriptor = sys.stdin.fileno()
    while not over.is_set():
        if not select.select([descriptor], [], [], 0.1)[0]:
            continue
        try:
            text = os.read(descriptor, 64).decode(errors="replace")
        except OSError:
            return
        if not text:
            return
        for key in _keys(text):
            inbox.put(key)


def _keys(text: str) -> Iterator[str]:
    """The keys in what a terminal sent at once; sequences that are not known are dropped."""
    while text:
        known = next((code for code in NAMES if text.startswith(code)), None)
        if known is None and text.startswith("\x1b"):
            return
        yield NAMES[known] if known else text[0].lower()
        text = text[len(known or " ") :]


def _windows_keys(inbox: "queue.Queue[Any]", over: threading.Event) -> None:
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
