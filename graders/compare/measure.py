"""Compares an attempt with the reference in a child process; whatever the attempt does, there are findings."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from graders.catalogue import Kata
from graders.compare.child import Order, serve
from graders.compare.findings import Findings, Task
from graders.errors import KataError
from graders.sandbox import Limits, Sandbox

START_UP = 120.0
# One thread for both: what is compared is the work, and threads that wait for a core would be counted as working.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
STEP = 30.0  # seconds for one measurement of both sides


def measure(
    kata: Kata,
    framework: str,
    attempt: Path,
    source: str,
    *,
    seed: int,
    device: str = "auto",
    pictures: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Findings:
    """What was found. An attempt that does not return is stopped, and what is larger of the same call left out.

    tell is given, now and then, what is being done. Raises KataError for a device that is not here, and for a fault of
    the suite.
    """
    findings = Findings(kata.name, framework, attempt, seed)
    order: Order | None = Order(kata, framework, attempt, source, seed, device, pictures)
    with _environment(THREADS):
        while order is not None:
            order = _run(order, findings, tell)
    return findings


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """With these variables, for the children; what the person has set stays."""
    added = {name: value for name, value in more.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _run(order: Order, findings: Findings, tell: Callable[[str], None]) -> Order | None:
    """One child; the order for the next one if this one died."""
    limits = Limits.from_environment(total=3600.0)
    step = limits.override or STEP
    limits.seconds = START_UP
    box = Sandbox(serve, (order,), source=str(order.attempt), limits=limits, method="spawn")
    running: Task | None = None
    loading = ""
    done: set[Task] = set()
    try:
        for kind, *rest in box.messages():
            if kind == "refused":
                raise KataError(rest[0])
            if kind == "plan":
                findings.places, findings.dtypes, findings.probes, findings.pictures = rest
            elif kind == "load":
                (loading,) = rest
                box.limits.seconds = step
            elif kind == "unloadable":
                _unloadable(findings, *rest)
            elif kind == "start":
                if running:
                    done.add(running)
                running, seconds = rest
                box.limits.seconds = max(step, 2 * seconds)
                tell(_doing(running))
            else:
                task, side, result = rest
                findings.found[task, side] = result
        if box.death is None:
            return None
        if box.death.ours:
            raise KataError(f"the comparison of {order.kata.name} failed:\n{box.death.sentence}")
        if running is None:
            if loading != "yours":
                raise KataError("\n".join([f"the comparison did not start: {box.death.sentence}", *box.output()]))
            _unloadable(findings, "yours", f"{order.attempt.name} does not load: {box.death.sentence}")
            return replace(order, without=(*order.without, "yours"))
        findings.found[running, "yours"] = box.death.sentence
        given_up = {running, *(task for task in _planned(findings) if _is_larger(task, running))}
        if running in order.alone:  # it is the reference that died
            return replace(order, skip=order.skip | done | given_up)
        return replace(order, skip=order.skip | done, alone=order.alone | given_up)
    finally:
        box.close()


def _unloadable(findings: Findings, side: str, said: str) -> None:
    findings.found[Task("load", findings.kata), side] = said


def _planned(findings: Findings) -> list[Task]:
    """Every task of the probes, as the child makes them."""
    found = []
    for probe in findings.probes:
        for n in sorted({*probe.sizes, *probe.error_sizes}):
            for place in findings.places:
                found += [Task("error", probe.title, n, place, dtype) for dtype in findings.dtypes]
                found += [Task("time", probe.title, n, place)]
            found += [Task("cost", probe.title, n)]
    return found


def _is_larger(task: Task, dead: Task) -> bool:
    return task.of == dead.of and task.n >= dead.n


def _doing(task: Task) -> str:
    what = {"error": "errors", "cost": "cost", "time": "time", "picture": "picture"}[task.kind]
    return f"{task.of}: {what}" + (f", n = {task.n}" if task.n else "")
