"""`grade()`: an attempt's Verdict, from a warm process that forks a child for each grading."""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graders.catalogue import ROOT, find
from graders.report import Check, Verdict

TOTAL = 600.0  # seconds: a training among the checks takes a minute on a slow machine


def grade(
    kata: str,
    path: str | os.PathLike[str],
    *,
    framework: str | None = None,
    device: str = "auto",
    level: int | None = None,
    seed: int | None = None,
    timeout: float = TOTAL,
    hint: bool = False,
    check: str | None = None,
    progress: Callable[[Check], None] | None = None,
) -> Verdict:
    """Grades a .py or .ipynb file and always returns a Verdict, whatever the attempt does.

    level: grade up to this level (all). check: this check alone (all), by its name. seed: replay (drawn afresh).
    timeout: seconds for all of it; each check has a limit of its own. hint: name the likely mistake with the first
    failure.
    progress: called with each check as it begins, its outcome "checking", and as it ends.
    Raises KataError for a kata that does not exist, ValueError for a framework that it does not offer,
    FileNotFoundError for a file that is not there.
    """
    found = find(kata)
    framework = framework or found.frameworks[0]
    if framework not in found.frameworks:
        raise ValueError(f"{kata} is offered in {', '.join(found.frameworks)}, not in {framework}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    options = {"framework": framework, "device": device, "level": level, "seed": seed}
    grader = f"{found.grader}::test_{check}" if check else str(found.grader)
    args = [grader]
    args += ["--attempt", str(Path(path).resolve())] if Path(path).resolve() != found.stub(framework) else []
    args += [f"--{name}={value}" for name, value in options.items() if value is not None]
    args += ["--hint"] if hint else []
    settings = {name: value for name, value in os.environ.items() if name.startswith("KATAS_")}
    answer = _server(framework).ask({"args": args, "timeout": timeout, "settings": settings}, progress)
    if isinstance(answer, Verdict):
        return answer
    fault = Check("grading", 1, "error", str(answer))
    return Verdict(kata, str(path), framework, device, seed or 0, (fault,))


def warm(framework: str) -> None:
    """Starts what grades in this framework, so that the first `grade()` finds it warm; returns at once."""
    _server(framework)


def stop(framework: str) -> None:
    """Ends the grading that is under way, if one is: its `grade()` returns at once, with an error."""
    if server := _SERVERS.get((os.getpid(), framework)):
        server.stop()


class Server:
    """A warm process: imports everything, runs nothing, and forks for each request."""

    def __init__(self, framework: str) -> None:
        self.lock, self.writing = threading.Lock(), threading.Lock()
        self.number, self.busy = 0, False
        command = [sys.executable, "-P", "-m", "graders.server", framework]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment.pop("PYTEST_ADDOPTS", None)
        # In a process group of its own, for Ctrl-C is meant for whoever asks; it ends when they do.
        group = None if os.name == "nt" else 0
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            process_group=group,
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any], progress: Callable[[Check], None] | None = None) -> Verdict | str:
        """The Verdict, or what went wrong with the machinery."""
        assert self.process.stdout is not None
        with self.lock:
            try:
                with self.writing:
                    self.number, self.busy = self.number + 1, True
                    self._write({**request, "number": self.number, "progress": progress is not None})
                while True:
                    line = self.process.stdout.readline()
                    answer = json.loads(line or '{"fault": "the grading process ended"}')
                    if not line:
                        self.close()  # it is about to end: the next grading gets another
                    if "checking" not in answer:
                        break
                    if progress is not None:
                        progress(Check(**answer["checking"]))
            except (OSError, ValueError) as error:
                answer = {"fault": f"the grading process does not answer: {error}"}
            except BaseException:
                self.close()  # interrupted: what it would still answer must not be taken for the next answer
                raise
            finally:
                self.busy = False
        return Verdict.from_json(answer["verdict"]) if "verdict" in answer else str(answer["fault"])

    def stop(self) -> None:
        with self.writing, contextlib.suppress(OSError, ValueError):
            if self.busy:
                self._write({"stop": self.number})

    def _write(self, request: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


_SERVERS: dict[tuple[int, str], Server] = {}
_STARTING = threading.Lock()


def _server(framework: str) -> Server:
    """One warm process a framework and process of ours; a dead one is replaced."""
    with _STARTING:
        key = os.getpid(), framework
        if key not in _SERVERS or _SERVERS[key].process.poll() is not None:
            _SERVERS[key] = Server(framework)
        return _SERVERS[key]
