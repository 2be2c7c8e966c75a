"""Runs a function in a child process and keeps its parent safe: wall time, memory, output, and how it ended.

The child sends messages; whatever it does, the parent sees each message that was sent, then `finished` or one
sentence on why there are no more.
"""

import contextlib
import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

GIB = 2**30
POLL = 0.05
SHOWN = 20  # lines of output kept at each end
END = 64 * 1024  # bytes of output read at each end


@dataclass
class Limits:
    """seconds is for one step (what lies between two messages), total for all of them; memory, output in bytes.

    What the child waits for a processor, because others use it, does not count where the system tells (Linux).

    The environment variables KATAS_SECONDS and KATAS_MEMORY_GB override them, for a slow or a small machine.
    """

    seconds: float = 10.0
    total: float = 600.0
    memory: int = 4 * GIB
    output: int = 8 * 2**20
    override: float = 0.0

    @staticmethod
    def from_environment(total: float) -> "Limits":
        seconds = _setting("KATAS_SECONDS", 0.0)
        memory = int(_setting("KATAS_MEMORY_GB", 4.0) * GIB)
        return Limits(seconds=seconds or 10.0, total=total, memory=memory, override=seconds)


def _setting(name: str, default: float) -> float:
    """A positive number from the environment."""
    text = os.environ.get(name)
    if not text:
        return default
    with contextlib.suppress(ValueError):
        if (number := float(text)) > 0:
            return number
    raise pytest.UsageError(f"{name} should be a positive number, is {text!r}")


@dataclass
class Death:
    """Why a child ended before it was done, and where it was."""

    sentence: str
    line: int | None = None
    ours: bool = False  # the suite's own fault, not the attempt's


@dataclass
class Sandbox:
    """`for message in sandbox.messages()` runs target(send, *args) in a child; `death` tells how it ended.

    target is called in the child with a function that sends one picklable message to the parent. With the
    start method "spawn" it must be picklable itself. idle is called again and again between messages.
    """

    target: Callable[..., None]
    args: tuple[Any, ...] = ()
    source: str = ""
    limits: Limits = field(default_factory=Limits)
    method: str = "fork"
    death: Death | None = None
    idle: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kata-"))
        self.out, self.trace = self.folder / "out", self.folder / "trace"
        self.out.touch()
        self.trace.touch()

    def messages(self) -> Iterator[Any]:
        context: Any = multiprocessing.get_context(self.method)
        receive, send = context.Pipe(duplex=False)
        child = context.Process(
            target=_child, args=(send, self.target, self.args, str(self.out), str(self.trace)), daemon=False
        )
        sys.stdout.flush()
        sys.stderr.flush()
        child.start()
        send.close()
        try:
            yield from self._follow(child, receive)
        finally:
            _end(child)
            receive.close()

    def _follow(self, child: Any, receive: Connection) -> Iterator[Any]:
        start = step = time.monotonic()
        waited, watched = 0.0, _process(child.pid)
        while True:
            if multiprocessing.connection.wait([receive, child.sentinel], POLL) and receive.poll():
                try:
                    message = receive.recv()
                except (EOFError, OSError):
                    child.join()
                    self.death = self._ended(child.exitcode)
                    return
                if message is _Finished:
                    return
                if isinstance(message, _Fault):
                    self.death = Death(message.text, ours=True)
                    return
                yield message
                step, waited = time.monotonic(), _waited(child.pid)
                continue
            if not child.is_alive() and not receive.poll():
                self.death = self._ended(child.exitcode)
                return
            now = time.monotonic()
            self.idle()
            queued = _waited(child.pid)
            if why := self._overrun(now - start - queued, now - step - (queued - waited), watched):
                line = self._where(child)
                self.death = Death(f"stopped: {why}{self._at(line)}", line)
                return

    def _overrun(self, total: float, step: float, child: psutil.Process | None) -> str | None:
        limits = self.limits
        if step > limits.seconds:
            return f"no result after {limits.seconds:g} s"
        if total > limits.total:
            return f"not done after {limits.total:g} s in all"
        if self.out.stat().st_size > limits.output:
            return f"it printed more than {limits.output / 2**20:.0f} MB"
        if child and _memory(child) > limits.memory:
            return f"it used more than {limits.memory / GIB:.1f} GB of memory"
        return None

    def _ended(self, code: int | None) -> Death:
        line = self._line()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            said = {"SIGSEGV": "crashed with a segmentation fault", "SIGABRT": "crashed: it was aborted"}
            if name == "SIGKILL":
                return Death("killed from outside, most likely for want of memory" + self._at(line), line)
            return Death(f"{said.get(name, f'crashed with {name}')}{self._at(line)}", line)
        return Death(f"ended the whole process with exit code {code} (os._exit?)", line)

    def _where(self, child: Any) -> int | None:
        """Asks the child for its traceback; the handler is in C, so it answers from any loop."""
        if hasattr(signal, "SIGUSR1") and child.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGUSR1)
            deadline = time.monotonic() + 0.5
            while not self._line() and time.monotonic() < deadline:
                time.sleep(0.01)
        return self._line()

    def _line(self) -> int | None:
        """The innermost line of the attempt in the last traceback that faulthandler wrote."""
        found = re.search(rf'File "{re.escape(self.source)}", line (\d+)', self.trace.read_text(errors="replace"))
        return int(found[1]) if found and self.source else None

    def _at(self, line: int | None) -> str:
        if line is None:
            return ""
        import linecache

        text = linecache.getline(self.source, line).strip()
        return f", at line {line}" + (f": {text}" if text else "")

    def output(self, start: int = 0, end: int | None = None) -> list[str]:
        """What the attempt printed from byte `start` to byte `end`: the first and the last lines."""
        end = self.out.stat().st_size if end is None else end
        with self.out.open("rb") as file:
            file.seek(start)
            head = file.read(min(END, end - start))
            file.seek(max(file.tell(), end - END))
            tail = file.read(end - file.tell())
        lines = (head + tail).decode(errors="replace").splitlines()
        cut = len(lines) > 2 * SHOWN
        kept = [*lines[:SHOWN], "[...]", *lines[-SHOWN:]] if cut else lines
        return [line[:200] for line in kept]

    def close(self) -> None:
        for path in (self.out, self.trace):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


class _Finished:
    """Sent when the target returned."""


@dataclass(frozen=True)
class _Fault:
    """Sent when the target itself raised: a fault of the suite."""

    text: str


def _child(send: Connection, target: Callable[..., None], args: tuple[Any, ...], out: str, trace: str) -> None:
    if hasattr(os, "setsid"):
        os.setsid()
    die_with_parent()
    traces = Path(trace).open("w")  # noqa: SIM115 - faulthandler writes to it until the end
    faulthandler.enable(file=traces)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, file=traces, all_threads=True)
    _redirect(out)
    signal.signal(signal.SIGINT, _ignore)
    try:
        target(send.send, *args)
    except BaseException:
        send.send(_Fault(traceback.format_exc()))
    else:
        sys.stdout.flush()
        send.send(_Finished)
    send.close()
    os._exit(0)


def _ignore(signum: int, frame: FrameType | None) -> None:
    del signum, frame


def _redirect(out: str) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123


def die_with_parent() -> None:
    """On Linux the kernel ends the child when its parent is killed; elsewhere its next message fails."""
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _process(pid: int) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid)
    return None


def _waited(pid: int) -> float:
    """Seconds that a process was ready to run and did not get a processor."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return 0.0


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _end(child: Any) -> None:
    """Ends the child and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.join()
    child.close()
