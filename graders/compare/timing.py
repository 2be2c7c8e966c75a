"""Times: both sides in turns, in one run, so that what disturbs the machine disturbs both."""

import gc
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from graders import backends
from graders.attempt import Attempt
from graders.checks.cases import Case
from graders.compare.findings import Task, Time
from graders.compare.plan import Probe
from graders.compare.sides import Found, active, case_of, said
from graders.errors import Mismatch

SAMPLE = 2e-3  # seconds that one sample of a time should take at least
SET_UPS = 3
BUDGET = 0.12  # seconds for the samples of one set-up
PAIRS = (3, 25)  # samples of each side in one set-up, at least and at most
CLOCKS = {"cpu": time.process_time}  # what others do on the machine does not count there; elsewhere the wall's


def measure_times(probe: Probe, task: Task, sides: dict[str, Attempt], seed: int) -> Found:
    """Both in turns, after a warm-up of each.

    The calls are set up several times, now one first and now the other: where in memory things lie is luck.
    """
    case = case_of(probe, task.n, seed).cast(probe.usual)
    clock = CLOCKS.get(task.place, time.perf_counter)
    samples: dict[str, list[float]] = {side: [] for side in sides}
    backends.load(next(iter(sides.values())).framework).for_speed()
    order = list(sides.items())
    for _ in range(SET_UPS):
        calls: dict[str, Callable[[], None]] = {}
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            for side, attempt in order:
                with active(attempt):
                    made = said(partial(_call, probe, case, attempt, task.place, stack))
                if not isinstance(made, str):
                    calls[side] = made
                elif side in samples:
                    yield side, made
                    del samples[side]
            try:
                for side, more in _in_turns(calls, clock).items():
                    samples[side] += more
            except BaseException as error:
                yield "yours", f"raised {type(error).__name__} when it was called again: {error}"
                return
        order = [(side, attempt) for side, attempt in reversed(order) if side in samples]
    yield from _compared(samples)


def _compared(samples: dict[str, list[float]]) -> Found:
    seconds = {side: statistics.median(sample) for side, sample in samples.items()}
    if len(seconds) < 2:
        yield from ((side, Time(value)) for side, value in seconds.items())
        return
    ratios = [a / b for a, b in zip(samples["yours"], samples["reference"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    yield "yours", Time(seconds["yours"], middle, low, high)
    yield "reference", Time(seconds["reference"])


def _call(probe: Probe, case: Any, attempt: Attempt, place: str, stack: ExitStack) -> Callable[[], None]:
    """The call to be timed, tried once; under `jit` in JAX, unless it does not trace."""
    backend = attempt.backend
    if backend.name == "jax" and place == "cpu":
        try:
            return _call_in(probe, case, attempt, "jit", stack)
        except Mismatch:
            return _call_in(probe, case, attempt, backend.direct, stack)
    return _call_in(probe, case, attempt, place, stack)


def _call_in(probe: Probe, case: Any, attempt: Attempt, place: str, stack: ExitStack) -> Callable[[], None]:
    backend, there = attempt.backend, attempt.on(place)
    if isinstance(case, Case):
        case.run(there)
        function = attempt.find(case.name)
        args = [there.to(x) for x in case.args]
        options = {name: there.to(x) for name, x in case.options.items()}

        def work() -> Any:
            return backend.run(function, args, options, place)
    else:
        assert probe.ready is not None
        ready, arrays = probe.ready, case.arrays
        work = there.play(case.name, lambda m: ready(m, **arrays), dtype=probe.usual, draws=case.draws)
    given = case.args if isinstance(case, Case) else case.arrays.values()
    stack.enter_context(backend.scope([x for x in given if isinstance(x, np.ndarray)], place))

    def call() -> None:
        backend.finish(work(), place)

    try:
        call()
    except BaseException as error:
        raise Mismatch(f"{case.name} raised {type(error).__name__}: {error}") from None
    return call


def _in_turns(calls: dict[str, Callable[[], None]], clock: Callable[[], float]) -> dict[str, list[float]]:
    """A B, B A, A B, ...: each sample as many calls as take 2 ms, the same number for both, neither always first."""
    samples: dict[str, list[float]] = {side: [] for side in calls}
    once = {side: min(_timed(call, 1, clock) for _ in range(2)) for side, call in calls.items()}
    if not once:
        return samples
    number = max(1, round(SAMPLE / max(min(once.values()), 1e-7)))
    rounds = int(BUDGET / (number * max(sum(once.values()), 1e-9)))
    order = list(calls.items())
    gc.collect()
    gc.disable()
    try:
        for _ in range(min(max(rounds, PAIRS[0]), PAIRS[1])):
            order.reverse()
            for side, call in order:
                samples[side].append(max(_timed(call, number, clock) / number, 1e-9))
    finally:
        gc.enable()
    return samples


def _timed(call: Callable[[], None], number: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(number):
        call()
    return clock() - start
