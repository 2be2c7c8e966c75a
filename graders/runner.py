"""`grade()`: an attempt's Verdict, from a warm process that forks a child for each grading."""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from graders.catalogue import ROOT, find
from graders.report import Check, Verdict

GRACE = 10.0


def grade(
    kata: str,
    path: str | os.PathLike[str],
    *,
    framework: str | None = None,
    device: str = "auto",
    level: int | None = None,
    seed: int | None = None,
    timeout: float = 60.0,
    hint: bool = False,
) -> Verdict:
    """Grades a .py or .ipynb file and always returns a Verdict, whatever the attempt does.

    level: grade up to this level (all). seed: replay (drawn afresh). timeout: seconds for all of it.
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
    args = [str(found.grader), "--attempt", str(Path(path).resolve())]
    args += [f"--{name}={value}" for name, value in options.items() if value is not None]
    args += ["--hint"] if hint else []
    answer = _server(framework).ask({"args": args, "timeout": timeout})
    if isinstance(answer, Verdict):
        return answer
    fault = Check("grading", 1, "error", str(answer))
    return Verdict(kata, str(path), framework, device, seed or 0, (fault,))


class Server:
    """A warm process: imports everything, runs nothing, and forks for each request."""

    def __init__(self, framework: str) -> None:
        self.lock = threading.Lock()
        command = [sys.executable, "-P", "-m", "graders.runner", framework]
        environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": ""}
        environment.pop("PYTEST_ADDOPTS", None)
        environment.pop("PYTHONPATH")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> Verdict | str:
        """The Verdict, or what went wrong with the machinery."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.lock:
            try:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
                answer = json.loads(self.process.stdout.readline() or '{"fault": "the grading process ended"}')
            except (OSError, ValueError) as error:
                answer = {"fault": f"the grading process does not answer: {error}"}
        return Verdict.from_json(answer["verdict"]) if "verdict" in answer else str(answer["fault"])

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


def _serve(framework: str, requests: IO[str], answers: IO[str]) -> None:
    _warm(framework)
    for line in requests:
        request = json.loads(line)
        answers.write(_answer(request) + "\n")
        answers.flush()


def _warm(framework: str) -> None:
    """Imports what a grading needs, so that a forked child finds it there."""
    import gc

    import _pytest.assertion.rewrite
    import hypothesis.internal.conjecture.engine
    import hypothesis.strategies
    import pytest

    from graders import backends, session

    del pytest, session, hypothesis, _pytest
    backends.load(framework).warm()
    gc.collect()
    gc.freeze()


def _answer(request: dict[str, Any]) -> str:
    """Forks a child that runs pytest; the child watches its own child, this one watches the clock."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(request, write)
    os.close(write)
    text, late = _read(read, time.monotonic() + request["timeout"] + GRACE)
    os.close(read)
    if late:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if late:
        return json.dumps({"fault": f"grading did not end within {request['timeout'] + GRACE:g} s"})
    return text or json.dumps({"fault": "the grading process ended without a verdict"})


def _read(descriptor: int, deadline: float) -> tuple[str, bool]:
    parts = []
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return b"".join(parts).decode(), False
            parts.append(part)
    return "", True


def _run(request: dict[str, Any], write: int) -> None:
    """In the child: pytest over the kata's grader, its verdict into the pipe."""
    import pytest

    from graders.session import VERDICTS

    quiet = os.open(os.devnull, os.O_RDWR)
    log = os.memfd_create("log") if hasattr(os, "memfd_create") else os.dup(quiet)
    os.dup2(quiet, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    answer: dict[str, str] = {}

    class Keep:
        def pytest_configure(self, config: pytest.Config) -> None:
            config.option.kata_timeout = request["timeout"]

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(self, session: pytest.Session) -> None:
            for verdict in session.config.stash.get(VERDICTS, {}).values():
                answer["verdict"] = verdict.to_json()

    try:
        arguments = ["-p", "graders.plugin", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
        code = pytest.main([*arguments, "-p", "no:faulthandler", "-p", "no:warnings", *request["args"]], plugins=[Keep()])
        sys.stdout.flush()
        if not answer:
            said = os.pread(log, 4000, max(0, os.fstat(log).st_size - 4000)).decode(errors="replace")
            answer["fault"] = f"pytest ended with {code!r}:\n{said}"
    except BaseException as error:
        answer["fault"] = f"{type(error).__name__}: {error}"
    with os.fdopen(write, "w") as pipe:
        pipe.write(json.dumps(answer))
    os._exit(0)


if __name__ == "__main__":
    # What pytest prints must not reach the pipe that answers go through.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(sys.argv[1], sys.stdin, answers)
