"""What a verdict costs, measured in one run: cold, warm, the grader's own compute, memory.

    python scripts/benchmark.py
    python scripts/benchmark.py attention --framework torch --runs 11
    python scripts/benchmark.py attention --saves 50
    python scripts/benchmark.py attention --gradings 100

Cold is `pytest katas/<kata> --solution` beside the import of what it cannot do without, run in turns; warm is
`grade()` on all levels; compute is the time within the checks; memory the peak of the process that graded. These
machines differ and are shared: the ratios are what to compare. With --saves, instead: from the writing of a file to
what `scripts/watch.py` shows of it, for the solution and for a mistake in its first level. With --gradings, instead:
the memory of the warm process after so many gradings of both in turns, and how many verdicts differ.
"""

import argparse
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from graders import KataError, bugs, find, grade, katas
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.practice.watching import Checking, Event, Graded, Progress, Watching

IMPORTS = {"torch": "torch, pytest, hypothesis", "jax": "jax, pytest, hypothesis", "numpy": "numpy, pytest, hypothesis"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to measure (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="warm runs (7); cold runs are half as many")
    parser.add_argument("--checks", action="store_true", help="also say which checks take the time")
    parser.add_argument("--saves", type=int, default=0, metavar="N", help="measure N saves in turns, right and wrong")
    parser.add_argument("--gradings", type=int, default=0, metavar="N", help="grade N times in one warm process")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or list(katas())
    except KataError as error:
        raise SystemExit(f"benchmark: {error}") from None
    offered = [(k, f) for k in chosen for f in k.frameworks if options.framework in (None, f)]
    if options.saves:
        print("| kata | framework | saved | checking, s | first failure, s | verdict, s | worst, s | load |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for kata, framework in offered:
            measure_saves(kata, framework, options.saves)
        return
    if options.gradings:
        print("| kata | framework | gradings | MB after 5 | MB after all | processes left | verdicts that differ |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for kata, framework in offered:
            measure_gradings(kata, framework, options.gradings)
        return
    print("| kata | framework | import, s | cold, s | cold / import | warm, s | compute, s | peak, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kata, framework in offered:
        measure(kata, framework, options.runs, checks=options.checks)


def measure(kata: Kata, framework: str, runs: int, *, checks: bool) -> None:
    """Prints one row; medians, and the worst warm run in brackets."""
    code = f"import {IMPORTS[framework]}"
    pytest = [sys.executable, "-m", "pytest", f"katas/{kata.name}", "--solution", "--framework", framework]
    imports, cold, peaks = [], [], []
    for _ in range(max(runs // 2, 1)):
        imports.append(_run([sys.executable, "-c", code])[0])
        seconds, peak = _run(pytest)
        cold.append(seconds)
        peaks.append(peak)
    solution = kata.solution(framework)
    verdict = grade(kata.name, solution, framework=framework)
    warm, compute = [], []
    for _ in range(runs):
        start = time.perf_counter()
        verdict = grade(kata.name, solution, framework=framework)
        warm.append(time.perf_counter() - start)
        compute.append(sum(check.seconds for check in verdict.checks))
        if not verdict.passed:
            raise SystemExit(f"benchmark: the solution of {kata.name} does not pass: {verdict.first_failure}")
    ratio = statistics.median(cold) / statistics.median(imports)
    print(
        f"| {kata.name} | {framework} | {statistics.median(imports):.2f} | {statistics.median(cold):.2f} | {ratio:.2f} "
        f"| {statistics.median(warm):.2f} ({max(warm):.2f}) | {statistics.median(compute):.2f} | {max(peaks):.0f} |",
        flush=True,
    )
    if checks:
        for check in sorted(verdict.checks, key=lambda check: -check.seconds)[:8]:
            print(f"  {check.seconds:6.3f} s  {check.name}")


def measure_saves(kata: Kata, framework: str, saves: int) -> None:
    """Prints a row for right saves and one for wrong ones; medians, and the worst verdict."""
    right = kata.solution(framework).read_text(encoding="utf-8")
    wrong = next(source for _, source in bugs.variants(kata, framework))
    seen: queue.Queue[Event] = queue.Queue()
    took: dict[str, list[list[float]]] = {"right": [], "wrong": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kata.solution(framework).name
        path.write_text(right, encoding="utf-8")
        engine = Watching(kata, path, framework, seen.put).start()
        while not isinstance(seen.get(), Graded):
            pass
        for i in range(saves):
            for name, source in (("right", right), ("wrong", wrong)):
                start = time.perf_counter()
                path.write_text(f"{source}# {i}\n", encoding="utf-8")
                took[name].append(_shown(seen, start))
                time.sleep(0.5)
        engine.close()
    for name, rows in took.items():
        checking, failure, verdict = (statistics.median(column) for column in zip(*rows, strict=True))
        first = f"{failure:.2f}" if name == "wrong" else "-"
        worst = max(row[-1] for row in rows)
        print(
            f"| {kata.name} | {framework} | {name} | {checking:.2f} | {first} | {verdict:.2f} | {worst:.2f} "
            f"| {os.getloadavg()[0]:.1f} |",
            flush=True,
        )


def measure_gradings(kata: Kata, framework: str, gradings: int) -> None:
    """Prints a row: whether grading again and again costs memory, leaves processes, or changes a verdict."""
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / kata.solution(framework).name
        wrong.write_text(next(source for _, source in bugs.variants(kata, framework)), encoding="utf-8")
        paths = [kata.solution(framework), wrong]
        verdicts: list[set[tuple[tuple[str, ...], ...]]] = [set(), set()]
        memory: list[float] = []
        for i in range(gradings):
            verdict = grade(kata.name, paths[i % 2], framework=framework, seed=1)
            verdicts[i % 2].add(tuple((check.name, check.outcome, check.message) for check in verdict.checks))
            (server,) = (process for process in psutil.Process().children() if process.cmdline()[-1] == framework)
            memory.append(server.memory_info().rss / 2**20)
    time.sleep(1.0)  # the last child may still be on its way out
    left = len(server.children(recursive=True))
    differ = sum(len(found) - 1 for found in verdicts)
    print(
        f"| {kata.name} | {framework} | {gradings} | {memory[min(4, gradings - 1)]:.1f} | {memory[-1]:.1f} "
        f"| {left} | {differ} |",
        flush=True,
    )


def _shown(seen: "queue.Queue[Event]", start: float) -> list[float]:
    """Seconds from the start to "checking", to the first failure, and to the verdict."""
    checking = failure = 0.0
    while True:
        event, now = seen.get(), time.perf_counter() - start
        if isinstance(event, Checking):
            checking = now
        elif isinstance(event, Progress) and event.check.outcome == "failed":
            failure = failure or now
        elif isinstance(event, Graded):
            return [checking, failure, now]


def _run(command: list[str]) -> tuple[float, float]:
    """Wall seconds, and the largest resident memory in MB of the process and its children, looked at every 20 ms."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, *(p.memory_info().rss for p in [watched, *watched.children(recursive=True)]))
        except psutil.Error:
            continue
        time.sleep(0.02)
    return time.perf_counter() - start, peak / 2**20


if __name__ == "__main__":
    main()
