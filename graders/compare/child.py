"""In the child: measures the attempt and the reference on the same inputs, both through the door."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graders import attempt as attempts
from graders import backends, stubs
from graders.attempt import Attempt
from graders.catalogue import Kata
from graders.checks.cases import Case, Results
from graders.checks.values import budget
from graders.compare.findings import Error, Shape, Task
from graders.compare.plan import Picture, Plan, Probe, load
from graders.compare.sides import Found, active, case_of, draws, said
from graders.compare.timing import measure_times
from graders.errors import KataError, Mismatch

Send = Callable[[Any], None]


@dataclass(frozen=True)
class Order:
    """What a child is to do: all tasks but those that are done or given up."""

    kata: Kata
    framework: str
    attempt: Path
    source: str
    seed: int
    device: str
    pictures: bool
    without: tuple[str, ...] = ()  # sides that do not load
    skip: frozenset[Task] = frozenset()
    alone: frozenset[Task] = frozenset()  # what the reference does alone, the attempt having died of it


def serve(send: Send, order: Order) -> None:
    """Sends ("plan", ...), then ("start", task) and ("found", task, side, result) for each; or ("refused", why)."""
    try:
        plan = load(order.kata, order.framework)
        backend = backends.load(order.framework)
        places = _places(backend, order.device)
    except KataError as error:
        send(("refused", str(error)))
        return
    dtypes = tuple(sorted(backend.dtypes, key=["float64", "float32", "bfloat16"].index))
    shapes = tuple(Shape(p.title, p.grows, p.sizes, p.error_sizes, p.usual) for p in plan.probes)
    pictures = tuple(picture.title for picture in plan.pictures) if order.pictures else ()
    send(("plan", places, dtypes, shapes, pictures))
    sides = _sides(send, order, backend)
    probes = {probe.title: probe for probe in plan.probes}
    for task in tasks(plan, places, dtypes, order.pictures):
        if task in order.skip:
            continue
        send(("start", task, next((p.seconds for p in plan.pictures if p.title == task.of), 0.0)))
        these = {side: a for side, a in sides.items() if side == "reference" or task not in order.alone}
        if task.kind == "picture":
            (picture,) = (p for p in plan.pictures if p.title == task.of)
            found = take(picture, these, order.seed)
        else:
            found = MEASURES[task.kind](probes[task.of], task, these, order.seed)
        for side, result in found:
            send(("found", task, side, result))


def _places(backend: backends.Backend, device: str) -> tuple[str, ...]:
    here = ("cpu", *backend.real_devices())
    if device not in ("auto", *here):
        raise KataError(f"--device {device}: {backend.name} has only {', '.join(here)} here")
    return here if device == "auto" else (device,)


def _sides(send: Send, order: Order, backend: backends.Backend) -> dict[str, Attempt]:
    """The sides that load, the reference first; what is wrong with one that does not is sent."""
    signatures = stubs.signatures(order.kata, order.framework)
    solution = order.kata.solution(order.framework)
    files = {"reference": (solution, None), "yours": (order.attempt, order.source)}
    found = {}
    for side, (path, source) in files.items():
        if side in order.without:
            continue
        send(("load", side))
        try:
            found[side] = attempts.load(path, order.kata.name, backend, order.kata.refused, signatures, source=source)
        except Mismatch as problem:
            send(("unloadable", side, problem.text()))
    return found


def tasks(plan: Plan, places: Collection[str], dtypes: Collection[str], pictures: bool) -> Iterator[Task]:
    """Probe by probe, small before large; the pictures first, since they are looked at first."""
    for picture in plan.pictures if pictures else ():
        yield Task("picture", picture.title)
    for probe in plan.probes:
        for n in probe.error_sizes:
            here = [dtype for dtype in dtypes if not probe.dtypes or dtype in probe.dtypes]
            yield from (Task("error", probe.title, n, place, dtype) for place in places for dtype in here)
        if _is_counted(probe):
            for n in probe.sizes:
                yield Task("cost", probe.title, n)
            for place in places:
                yield from (Task("time", probe.title, n, place) for n in probe.sizes)


def _is_counted(probe: Probe) -> bool:
    return probe.ready is not None or isinstance(probe.make(np.random.default_rng(0), probe.sizes[0]), Case)


def _errors(probe: Probe, task: Task, sides: dict[str, Attempt], seed: int) -> Found:
    case = case_of(probe, task.n, seed).cast(task.dtype)
    exact, rough = case.exact(), case.rough()
    for side, attempt in sides.items():
        with active(attempt):
            yield side, said(partial(_run_and_judge, case, attempt.on(task.place), exact, rough))


def _run_and_judge(case: Any, attempt: Attempt, exact: Results, rough: Results) -> Error:
    return _error(case.run(attempt), exact, rough)


def _error(got: Results, exact: Results, rough: Results) -> Error:
    size = own = 0.0
    within = True
    for name, right in exact.items():
        if name not in got or got[name].shape != np.shape(right):
            shape = f"shape {got[name].shape}, expected {np.shape(right)}" if name in got else "missing"
            raise Mismatch(f"{name}: {shape}")
        wide = np.asarray(right, np.float64)
        allowed = budget(wide, rough[name])
        largest = float(np.max(np.abs(wide), initial=0)) or 1.0
        with np.errstate(invalid="ignore"):
            off = np.abs(got[name].astype(np.float64) - wide)
        within &= bool((off <= allowed).all())
        size = float(np.maximum(size, np.max(off, initial=0) / largest))  # NaN stays
        own = max(own, float(np.max(np.abs(rough[name].astype(np.float64) - wide), initial=0)) / largest)
    return Error(size, own, within)


def _costs(probe: Probe, task: Task, sides: dict[str, Attempt], seed: int) -> Found:
    case = case_of(probe, task.n, seed).cast(probe.usual)
    for side, attempt in sides.items():

        def count(attempt: Attempt = attempt) -> Any:
            if isinstance(case, Case):
                return attempt.cost(case.name, case.args, case.options)
            ready = probe.ready
            assert ready is not None
            return attempt.play(
                case.name, lambda m: m.cost(ready(m, **case.arrays)), dtype=probe.usual, draws=case.draws
            )

        with active(attempt):
            yield side, said(count)


def take(picture: Picture, sides: dict[str, Attempt], seed: int) -> Found:
    """Arrays by name; where a part failed alone, the sentence stands in its place."""
    for side, attempt in sides.items():
        with active(attempt):
            yield side, said(partial(_taken, picture, attempt, draws(picture.title, seed)))


def _taken(picture: Picture, attempt: Attempt, rng: np.random.Generator) -> dict[str, Any]:
    def one(part: Any) -> Any:
        made = attempt.play(picture.title, lambda _: part(), draws=picture.draws) if callable(part) else part
        return np.array(made)

    found = attempt.play(picture.title, lambda m: picture.take(m, rng), draws=picture.draws)
    return {name: said(partial(one, part)) for name, part in found.items()}


MEASURES = {"error": _errors, "cost": _costs, "time": measure_times}
