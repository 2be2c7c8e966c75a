"""Grades many attempts at one kata in one process, for what measures the graders: the bug bank, the proofs.

Unlike `grade()` it does not protect one attempt from the next, and it stops at an attempt's first failure.
"""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from graders import backends
from graders.catalogue import ROOT, Kata
from graders.plugin import Request
from graders.report import Check
from graders.sandbox import Limits, Sandbox
from graders.session import RUN, run_checks

START_UP = 120.0
AT_ONCE, WHOLE_AT_ONCE = 50, 10  # jobs of one process: what JAX compiled for them is kept until it ends


@dataclass(frozen=True)
class Job:
    """One grading: the attempt's source, the seed, one check alone or all (up to a level), with a hint or without."""

    name: str
    source: str
    seed: int
    check: str | None = None
    level: int | None = None
    hint: bool = False
    device: str = "auto"
    lifted: bool = False
    examples: int | None = None  # drawn for a property (as many as the framework can afford)


def grade_each(
    kata: Kata, framework: str, jobs: Sequence[Job], *, at_most: float = math.inf, whole: bool = False
) -> Generator[tuple[Job, tuple[Check, ...]], None, None]:
    """The checks of each job as far as they ran: all passed, or the last one is the first failure.

    at_most: seconds that a check may take, if that is less than its own limit. whole: where calls can be compiled,
    they are, as in a run of pytest; without, jobs share what each operation was compiled to.
    """
    left = list(jobs)
    while left:
        now = left[: WHOLE_AT_ONCE if whole else AT_ONCE]
        box = Sandbox(_serve, (kata, framework, now, whole), limits=Limits(seconds=START_UP, total=1e9), method="spawn")
        checks: list[Check] = []
        name, level = "grading", 1
        try:
            for kind, value in box.messages():
                if kind == "start":
                    name, level, limit = value
                    box.limits.seconds = min(limit, at_most)
                elif kind == "check":
                    checks.append(value)
                elif kind == "end":
                    yield left.pop(0), tuple(checks)
                    checks = []
            if box.death:
                told = "\n".join([box.death.sentence, *box.output()])
                yield left.pop(0), (*checks, Check(name, level, "error" if box.death.ours else "failed", told))
            elif now[-1] in left:
                raise RuntimeError("\n".join(["the grading ended early", *box.output()]))
        finally:
            box.close()


def _serve(send: Callable[[Any], None], kata: Kata, framework: str, jobs: Sequence[Job], whole: bool) -> None:
    class Batch:
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(self, config: pytest.Config) -> None:
            config.stash[RUN] = lambda session, request, items: _each(send, jobs, whole, session, request, items)

    without = [word for name in ("warnings", "faulthandler", "logging") for word in ("-p", f"no:{name}")]
    options = ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-W", "ignore", *without]
    pytest.main([str(kata.grader), f"--framework={framework}", "--solution", *options], plugins=[Batch()])


def _each(
    send: Callable[[Any], None],
    jobs: Sequence[Job],
    whole: bool,
    session: pytest.Session,
    request: Request,
    items: list[pytest.Item],
) -> None:
    from graders.plugin import mark

    backend = backends.load(request.framework)
    by_id = {}
    for item in items:
        level, _, seconds = mark(item)
        by_id[item.nodeid] = item.name.removeprefix("test_"), level, seconds * backend.patience

    def tell(message: Any) -> None:
        if message[0] == "start":
            send(("start", by_id[message[1]]))
        if message[0] == "done":
            for data in message[2]:
                if "kata" in data:
                    send(("check", Check(**data["kata"])))

    path = Path("<attempt>")
    afforded = backend.examples
    with contextlib.nullcontext() if whole else backend.many():
        for job in jobs:
            backend.examples = job.examples or afforded
            session.config.option.seed = job.seed
            chosen = [
                item
                for item in items
                if item.name == f"test_{job.check}" or (job.check is None and mark(item)[0] <= (job.level or 99))
            ]
            asked = {name: getattr(job, name) for name in ("seed", "hint", "source", "device", "lifted")}
            this = replace(request, path=path, **asked)
            run_checks(tell, session, this, chosen, isolated=False, first=True)
            send(("end", job.name))
