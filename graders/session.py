"""A grading within pytest: each kata's checks run in a child process, their reports come back to this one."""

import contextlib
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from graders import attempt as attempts
from graders import backends, bugs, notebook, stubs
from graders.catalogue import ROOT
from graders.errors import KataError, Mismatch, NotStarted
from graders.history import History
from graders.plugin import ATTEMPT, PLACES, SECONDS, Request, is_check, mark
from graders.report import Check, Verdict
from graders.runner import TOTAL
from graders.sandbox import Limits, Sandbox

# Plugins that would take the child's output away, or blame a check for what the attempt left unclosed.
MEDDLING = ("capturemanager", "unraisableexception", "threadexception")
START_UP = 60.0  # seconds that imports may take before the attempt is loaded
# What runs the checks in this very process, if anything does: run(session, request, items).
RUN: pytest.StashKey[Callable[[pytest.Session, Request, list[pytest.Item]], None]] = pytest.StashKey()
# Whether runs go into the history: those of the command line do, those of grade() only if its caller records them.
RECORDED: pytest.StashKey[bool] = pytest.StashKey()
VERDICTS: pytest.StashKey[dict[str, Verdict]] = pytest.StashKey()


class Grading:
    """Takes the kata checks out of pytest's own loop, and gives their reports back to it."""

    def __init__(self, session: pytest.Session, requests: dict[str, Request]) -> None:
        self.requests = requests
        session.config.stash[VERDICTS] = {}
        if hasattr(session.config, "workerinput"):
            raise pytest.UsageError("katas are graded in one process each: run them without -n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.config.option.collectonly or session.testsfailed:
            return None
        checks = [item for item in session.items if is_check(item)]
        if run := session.config.stash.get(RUN, None):
            run(session, next(iter(self.requests.values())), checks)
            return True
        capture = session.config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=True)
        for name, items in itertools.groupby(checks, key=lambda item: item.path.parent.name):
            grade_kata(session, self.requests[name], list(items))
            _record(session.config, self.requests[name])
        capture.resume_global_capture()
        session.items = [item for item in session.items if not is_check(item)]
        return None if session.items else True


def grade_kata(session: pytest.Session, request: Request, items: list[pytest.Item]) -> None:
    """Runs one kata's checks in a sandbox and reports each; a death is a failure of the check it happened in."""
    config = session.config
    home_device(request)
    patience = backends.load(request.framework).patience
    seconds = {item.nodeid: mark(item)[2] * patience for item in items}
    by_id = {item.nodeid: item for item in items}
    found: dict[str, Check] = {}
    limits = Limits.from_environment(total=getattr(config.option, "kata_timeout", TOTAL))
    limits.seconds = START_UP
    if _method() == "fork":
        backends.load(request.framework)
        box = Sandbox(run_checks, (session, request, items), source=str(request.path), limits=limits)
    else:
        box = Sandbox(start_anew, (request.arguments(),), source=str(request.path), limits=limits, method="spawn")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    box.idle = getattr(reporter, "tick", box.idle)
    running, places = items[0].nodeid, ("cpu",)
    starts = {running: 0}  # how much had been printed when each check began
    debugging = config.option.usepdb or config.option.trace
    messages: Any = _here(session, request, items) if debugging else box.messages()
    try:
        for kind, *rest in messages:
            if kind == "places":
                places = rest[0]
                box.limits.seconds = limits.override or SECONDS * patience
            elif kind == "start":
                running, starts[rest[0]] = rest
                box.limits.seconds = limits.override or seconds[running]
                config.hook.pytest_runtest_logstart(nodeid=running, location=by_id[running].location)
            else:
                for data in rest[1]:
                    report = config.hook.pytest_report_from_serializable(config=config, data=data)
                    if check := getattr(report, "kata", None):
                        found[rest[0]] = Check(**check)
                    config.hook.pytest_runtest_logreport(report=report)
                config.hook.pytest_runtest_logfinish(nodeid=rest[0], location=by_id[rest[0]].location)
        if box.death:
            outcome = "error" if box.death.ours else "failed"
            found[running] = _check(by_id[running], outcome, box.death.sentence)
            _emit(config, by_id[running], found[running])
        for item in items:
            if item.nodeid not in found:
                found[item.nodeid] = _check(item, "waiting", "")
                _emit(config, item, found[item.nodeid])
        printed = _printed_in_the_first_failure(box, starts, found)
    finally:
        box.close()
    config.stash[VERDICTS][request.kata.name] = Verdict(
        kata=request.kata.name,
        attempt=_short(request, config),
        framework=request.framework,
        device=" + ".join(places),
        seed=request.seed,
        checks=tuple(found[item.nodeid] for item in items),
        replay=request.replay,
        output=printed,
    )


def _record(config: pytest.Config, request: Request) -> None:
    """Keeps the run in the history, unless the reference solution was graded, or a selection of the checks."""
    selected = config.option.keyword or config.option.markexpr or any("::" in argument for argument in config.args)
    if selected or not config.stash.get(RECORDED, True) or request.path == request.kata.solution(request.framework):
        return
    try:
        source = notebook.source(request.path)
    except Mismatch:
        source = ""  # what does not read is not kept
    try:
        History().record(config.stash[VERDICTS][request.kata.name], source, origin="pytest", asked=request.level)
    except KataError as problem:
        sys.stderr.write(f"this run is not in the history: {problem}\n")


def _printed_in_the_first_failure(box: Sandbox, starts: dict[str, int], found: dict[str, Check]) -> tuple[str, ...]:
    ends = [*list(starts.values())[1:], None]
    for (nodeid, start), end in zip(starts.items(), ends, strict=True):
        if found[nodeid].outcome in ("failed", "error"):
            return tuple(box.output(start, end))
    return ()


def _method() -> str:
    """fork where it is safe: not on Windows, and not on macOS, whose libraries break in forked children."""
    return os.environ.get("KATAS_START") or ("fork" if sys.platform == "linux" else "spawn")


def _short(request: Request, config: pytest.Config) -> str:
    path = request.path
    return str(path.relative_to(config.rootpath)) if path.is_relative_to(config.rootpath) else str(path)


def run_checks(
    send: Callable[[Any], None],
    session: pytest.Session,
    request: Request,
    items: list[pytest.Item],
    *,
    isolated: bool = True,
    first: bool = False,
) -> None:
    """In the child: every check of a level, then the next level if all passed; or up to the first failure."""
    config = session.config
    for name in MEDDLING if isolated else ():
        config.pluginmanager.unregister(name=name)
    printed = 0
    prepare(config, request, send)
    for _, group in itertools.groupby(items, key=lambda item: mark(item)[0]):
        level = list(group)
        passed = True
        for i, item in enumerate(level):
            send(("start", item.nodeid, printed))
            reports = runtestprotocol(item, log=False, nextitem=level[i + 1] if i + 1 < len(level) else None)
            data = [config.hook.pytest_report_to_serializable(config=config, report=r) for r in reports]
            passed &= all(report.passed for report in reports)
            printed = _printed()
            send(("done", item.nodeid, data))
            if getattr(reports[0], "kata", None) and reports[0].failed:
                return
            if first and not passed:
                return
        if not passed:
            return


def _printed() -> int:
    """How many bytes the attempt has printed; 0 if it closed or moved its output."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return os.fstat(1).st_size
    return 0


def start_anew(send: Callable[[Any], None], arguments: list[str]) -> None:
    """In a child that was not forked: the same pytest run, whose checks report to `send`."""

    class Child:
        @pytest.hookimpl(tryfirst=True)
        def pytest_configure(self, config: pytest.Config) -> None:
            config.stash[RUN] = lambda session, request, items: run_checks(send, session, request, items)

    quiet = ["-p", "no:warnings", "-p", "no:faulthandler", "-q", "-q", f"--rootdir={ROOT}"]
    pytest.main([*arguments, *quiet, "-c", str(ROOT / "pyproject.toml"), "-W", "ignore"], plugins=[Child()])


def home_device(request: Request) -> str:
    """Where the attempt runs beside the places that parity takes it to. Raises UsageError if that is not here."""
    if request.device == "auto":
        return "cpu"
    backend = backends.load(request.framework)
    offered = ("cpu", *backend.real_devices(), *(["stand-in"] if request.framework == "torch" else []))
    if request.device not in offered:
        raise pytest.UsageError(f"--device {request.device}: {request.framework} has only {', '.join(offered)} here")
    return request.device


def prepare(config: pytest.Config, request: Request, send: Callable[[Any], None]) -> None:
    """Loads the attempt, or keeps what is wrong with it for the first check that asks."""
    backend = backends.load(request.framework)
    home = home_device(request)
    elsewhere = backend.places() if request.device == "auto" else tuple({"cpu", home} - {home})
    if request.framework == "jax":
        elsewhere = tuple(dict.fromkeys(["jit", "vmap", *elsewhere]))
    send(("places", (home, *elsewhere)))
    config.stash[PLACES] = elsewhere
    outcome: Any
    try:
        signatures = stubs.signatures(request.kata, request.framework)
        source, refused = request.source, () if request.lifted else request.kata.refused
        outcome = attempts.load(request.path, request.kata.name, backend, refused, signatures, source=source).on(home)
    except Mismatch as problem:
        outcome = problem

    def give() -> Any:
        if isinstance(outcome, Mismatch):
            raise outcome
        return outcome

    config.stash[ATTEMPT] = give
    if config.pluginmanager.hasplugin("kata-outcomes"):
        config.pluginmanager.unregister(name="kata-outcomes")
    config.pluginmanager.register(Outcomes(request), "kata-outcomes")


class Outcomes:
    """In the child: turns what a check raised into the Check that travels with its report."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.passed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        report = yield
        if call.when == "call" or call.excinfo:
            error = call.excinfo.value if call.excinfo else None
            outcome, message = self.read(error, item)
            seconds = call.duration
            report.kata = vars(_check(item, outcome, message, seconds))
            if error is not None:
                report.longrepr = message
            elif call.when == "call":
                self.passed.add(report.kata["name"])
        return report

    def read(self, error: BaseException | None, item: pytest.Item) -> tuple[str, str]:
        if error is None:
            return "passed", ""
        if isinstance(error, NotStarted):
            return "not started", f"`{error}` still has the stub's body"
        if isinstance(error, Mismatch):
            text = error.text()
            if self.request.hint:
                likely = bugs.likely(error, item, self.request, self.passed)
                text += "".join(f"\n{'or' if i else 'likely':<9} {said}" for i, said in enumerate(likely))
            return "failed", text
        return "error", _fault(error)


def _fault(error: BaseException) -> str:
    """A fault of the suite: the error, then the frames of our own files."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(ROOT)]
    frames = [
        f"{Path(f.filename).relative_to(ROOT)}:{f.lineno}: {f.line}" for f in own if "site-packages" not in f.filename
    ]
    return "\n".join([f"a fault of the suite, not of the attempt: {type(error).__name__}: {error}", *frames])


def _check(item: pytest.Item, outcome: str, message: str, seconds: float = 0.0) -> Check:
    sentence = (getattr(item, "obj", None).__doc__ or "").strip().splitlines()
    name = item.name.removeprefix("test_")
    return Check(name, mark(item)[0], outcome, message, round(seconds, 4), sentence[0] if sentence else "")


def checking(item: pytest.Item) -> Check:
    """A check that has begun."""
    return _check(item, "checking", "")


def _emit(config: pytest.Config, item: pytest.Item, check: Check) -> None:
    """A report for a check that did not run to its end."""
    waiting = check.outcome == "waiting"
    longrepr: Any = (str(item.path), 0, "waiting for an earlier level") if waiting else check.message
    report = pytest.TestReport(
        item.nodeid, item.location, {}, "skipped" if waiting else "failed", longrepr, "call", kata=vars(check)
    )
    config.hook.pytest_runtest_logreport(report=report)


def _here(session: pytest.Session, request: Request, items: list[pytest.Item]) -> Iterator[Any]:
    """In this process, for a debugger: no limits, no protection."""
    kept: list[Any] = []
    run_checks(kept.append, session, request, items, isolated=False)
    yield from kept
