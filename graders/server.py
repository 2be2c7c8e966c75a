"""The warm process behind `grade()`: imports everything, runs no operation, and forks for each request."""

import contextlib
import io
import json
import os
import select
import signal
import sys
import time
from typing import IO, Any

from graders.catalogue import ROOT

GRACE = 10.0


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
    if not hasattr(os, "fork"):
        return _run(request)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            pipe.write(_run(request))
        os._exit(0)
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
    parts: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            if not part:
                return b"".join(parts).decode(), False
            parts.append(part)
    return "", True


def _run(request: dict[str, Any]) -> str:
    """pytest over the kata's grader, and the verdict that comes of it; what pytest prints is kept for a fault."""
    import pytest

    from graders.session import RECORDED, VERDICTS

    for name in [name for name in os.environ if name.startswith("KATAS_")]:
        del os.environ[name]  # this process may have been started under other settings
    os.environ.update(request["settings"])
    answer: dict[str, str] = {}

    class Keep:
        def pytest_configure(self, config: pytest.Config) -> None:
            config.option.kata_timeout = request["timeout"]
            config.stash[RECORDED] = False

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
    # What pytest prints must not reach the pipe that answers go through.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(sys.argv[1], sys.stdin, answers)
