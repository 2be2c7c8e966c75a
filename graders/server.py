"""The warm process behind `grade()`: imports everything, runs no operation, and forks for each request."""

import contextlib
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import IO, Any

import psutil

from graders.catalogue import ROOT

GRACE = 10.0
Tell = Callable[[str], None]


class Requests:
    """The lines of a pipe, as JSON objects."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.left = descriptor, b""

    def next(self) -> dict[str, Any] | None:
        """Waits for a request; None when there will be no more."""
        while b"\n" not in self.left:
            part = os.read(self.descriptor, 65536)
            if not part:
                return None
            self.left += part
        line, _, self.left = self.left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


def _serve(framework: str, requests: Requests, tell: Tell) -> None:
    _warm(framework)
    while (request := requests.next()) is not None:
        if "stop" not in request:  # it came too late: what it meant is done
            _answer(request, requests, tell)


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


def _answer(request: dict[str, Any], requests: Requests, tell: Tell) -> None:
    """Forks a child that runs pytest; the child watches its own child, this one the clock and who asked."""
    if not hasattr(os, "fork"):
        tell(_run(request, tell))
        return
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            say = _teller(pipe)
            say(_run(request, say))
        os._exit(0)
    os.close(write)
    fault = _relay(read, request, requests, tell)
    os.close(read)
    if fault:
        _end(child)
    os.waitpid(child, 0)
    if fault:
        tell(json.dumps({"fault": fault}))


def _relay(descriptor: int, request: dict[str, Any], requests: Requests, tell: Tell) -> str:
    """Passes the child's lines on as they come, up to the verdict; what went wrong, or "" if nothing did."""
    deadline = time.monotonic() + request["timeout"] + GRACE
    left = b""
    while (seconds := deadline - time.monotonic()) > 0:
        ready = select.select([descriptor, requests.descriptor], [], [], seconds)[0]
        if descriptor in ready:
            part = os.read(descriptor, 65536)
            if not part:
                return "the grading process ended without a verdict"
            *lines, left = (left + part).split(b"\n")
            for line in lines:
                tell(line.decode())
                if not line.startswith(b'{"checking"'):
                    return ""
        elif ready and ((other := requests.next()) is None or other.get("stop") == request["number"]):
            return "stopped by whoever asked for it"
    return f"grading did not end within {request['timeout'] + GRACE:g} s"


def _end(child: int) -> None:
    """Ends a grading process, and all that it and the attempt started."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(child).children(recursive=True):
            with contextlib.suppress(OSError):
                if os.getpgid(process.pid) == process.pid:
                    os.killpg(process.pid, signal.SIGKILL)
                os.kill(process.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)


def _teller(file: IO[str]) -> Tell:
    def tell(line: str) -> None:
        file.write(line + "\n")
        file.flush()

    return tell


def _run(request: dict[str, Any], tell: Tell) -> str:
    """pytest over the kata's grader, and the verdict that comes of it; what pytest prints is kept for a fault.

    Tells each check as it begins and as it ends, if that is wanted.
    """
    import pytest

    from graders.session import RECORDED, VERDICTS, checking

    for name in [name for name in os.environ if name.startswith("KATAS_")]:
        del os.environ[name]  # this process may have been started under other settings
    os.environ.update(request["settings"])
    answer: dict[str, str] = {}

    class Keep:
        def pytest_configure(self, config: pytest.Config) -> None:
            config.option.kata_timeout = request["timeout"]
            config.stash[RECORDED] = False

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            self.items = {item.nodeid: item for item in session.items}

        def pytest_runtest_logstart(self, nodeid: str) -> None:
            if request["progress"]:
                tell(json.dumps({"checking": vars(checking(self.items[nodeid]))}))

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            check = getattr(report, "kata", None)
            if request["progress"] and check and check["outcome"] != "waiting":
                tell(json.dumps({"checking": check}))

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(self, session: pytest.Session) -> None:
            for verdict in session.config.stash.get(VERDICTS, {}).values():
                answer["verdict"] = verdict.to_json()

    without = [word for name in ("faulthandler", "warnings", "logging") for word in ("-p", f"no:{name}")]
    arguments = ["-p", "graders.plugin", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", *without]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = pytest.main([*arguments, *request["args"]], plugins=[Keep()])
        answer = answer or {"fault": f"pytest ended with {code!r}:\n{printed.getvalue()[-4000:]}"}
    except BaseException as error:
        answer = {"fault": f"{type(error).__name__}: {error}"}
    return json.dumps(answer)


if __name__ == "__main__":
    # What pytest prints must not reach the pipe that answers go through, nor an attempt read what is asked.
    requests, answers = Requests(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # whoever asked is gone
        _serve(sys.argv[1], requests, _teller(answers))
    os._exit(0)
