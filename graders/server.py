"""The warm process behind `grade()`: imports everything, runs no operation, and forks for each request."""

import contextlib
import gc
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

import psutil

from graders.catalogue import ROOT
from graders.sandbox import die_with_parent

GRACE = 10.0
ENDED = "the grading process ended without a verdict"
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
    """Answers each request. Who watches asks for the same again and again, so that a child is kept ready for it."""
    _warm(framework)
    spare: Child | None = None
    while (request := requests.next()) is not None:
        if "stop" in request:
            continue  # it came too late: what it meant is done
        if not hasattr(os, "fork"):
            tell(_run(request, tell))
            continue
        if spare and not spare.is_ready_for(request):
            spare.end(at_once=True)
            spare = None
        fault = _graded(spare or Child(request), request, requests, tell)
        if spare and fault == ENDED:  # it may have been lost while it waited
            fault = _graded(Child(request), request, requests, tell)
        if fault:
            tell(json.dumps({"fault": fault}))
        spare = Child(request) if request["progress"] else None


def _graded(child: "Child", request: dict[str, Any], requests: Requests, tell: Tell) -> str:
    """Lets a child grade; what went wrong, or "" once the verdict was told."""
    child.go()
    fault = _relay(child.answers, request, requests, tell)
    child.end(at_once=bool(fault))
    return fault


class Child:
    """A forked process that runs pytest over one request up to where the checks begin, and waits there for `go`."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.key = _key(request)
        self.answers, write = os.pipe()
        begin, self.begin = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.answers)
            os.close(self.begin)
            die_with_parent()
            with os.fdopen(write, "w") as pipe:
                say = _teller(pipe)
                say(_run(request, say, lambda: os.read(begin, 1) or os._exit(0)))
            os._exit(0)
        os.close(write)
        os.close(begin)

    def is_ready_for(self, request: dict[str, Any]) -> bool:
        """Whether it waits for just this request, over the grader as it is now."""
        return self.key == _key(request) and not select.select([self.answers], [], [], 0)[0]

    def go(self) -> None:
        with contextlib.suppress(OSError):  # if it is gone already, so much is seen when its answer is read
            os.write(self.begin, b"1")

    def end(self, *, at_once: bool) -> None:
        """Waits for its end; at_once: or brings it about, with all that it and the attempt started."""
        if at_once:
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(self.pid).children(recursive=True):
                    with contextlib.suppress(OSError):
                        if os.getpgid(process.pid) == process.pid:
                            os.killpg(process.pid, signal.SIGKILL)
                        os.kill(process.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.answers)
        os.close(self.begin)


def _key(request: dict[str, Any]) -> str:
    """What two requests have in common if they are the same, and the files that a child has read when it waits."""
    grader = Path(request["args"][0].partition("::")[0])
    times = [path.stat().st_mtime_ns for path in (grader, grader.parent / "spec.md") if path.exists()]
    return json.dumps([{**request, "number": 0}, times])


def _warm(framework: str) -> None:
    """Imports what a grading needs, so that a forked child finds it there."""
    import _pytest.assertion.rewrite
    import hypothesis.internal.conjecture.engine
    import hypothesis.strategies
    import pytest

    from graders import backends, session

    del pytest, session, hypothesis, _pytest
    backends.load(framework).warm()
    gc.collect()
    gc.freeze()


def _relay(descriptor: int, request: dict[str, Any], requests: Requests, tell: Tell) -> str:
    """Passes the child's lines on as they come, up to the verdict; what went wrong, or "" if nothing did."""
    deadline = time.monotonic() + request["timeout"] + GRACE
    left = b""
    while (seconds := deadline - time.monotonic()) > 0:
        ready = select.select([descriptor, requests.descriptor], [], [], seconds)[0]
        if descriptor in ready:
            part = os.read(descriptor, 65536)
            if not part:
                return ENDED
            *lines, left = (left + part).split(b"\n")
            for line in lines:
                tell(line.decode())
                if not line.startswith(b'{"checking"'):
                    return ""
        elif ready and ((other := requests.next()) is None or other.get("stop") == request["number"]):
            return "stopped by whoever asked for it"
    return f"grading did not end within {request['timeout'] + GRACE:g} s"


def _teller(file: IO[str]) -> Tell:
    def tell(line: str) -> None:
        file.write(line + "\n")
        file.flush()

    return tell


def _run(request: dict[str, Any], tell: Tell, wait: Callable[[], object] = lambda: None) -> str:
    """pytest over the kata's grader, and the verdict that comes of it; what pytest prints is kept for a fault.

    Tells each check as it begins and as it ends, if that is wanted. wait: called once the checks are collected.
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

        @pytest.hookimpl(wrapper=True)
        def pytest_runtestloop(self) -> Generator[None, bool, bool]:
            gc.freeze()
            wait()
            return (yield)

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
