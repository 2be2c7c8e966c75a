"""What a verdict costs, measured in one run: cold, warm, the grader's own compute, memory.

    python scripts/benchmark.py
    python scripts/benchmark.py attention --framework torch --runs 11

Cold is `pytest katas/<kata> --solution` beside the import of what it cannot do without, run in turns; warm is
`grade()` on all levels; compute is the time within the checks; memory the peak of the process that graded. These
machines differ and are shared: the ratios are what to compare.
"""

import argparse
import statistics
import subprocess
import sys
import time

import psutil

from graders import KataError, find, grade, katas
from graders.catalogue import FRAMEWORKS, ROOT, Kata

IMPORTS = {"torch": "torch, pytest, hypothesis", "jax": "jax, pytest, hypothesis", "numpy": "numpy, pytest, hypothesis"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to measure (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="warm runs (7); cold runs are half as many")
    parser.add_argument("--checks", action="store_true", help="also say which checks take the time")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or list(katas())
    except KataError as error:
        raise SystemExit(f"benchmark: {error}") from None
    print("| kata | framework | import, s | cold, s | cold / import | warm, s | compute, s | peak, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kata in chosen:
        for framework in kata.frameworks:
            if options.framework in (None, framework):
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
    verdict = grade(kata.name, solution, framework=framework, timeout=300.0)
    warm, compute = [], []
    for _ in range(runs):
        start = time.perf_counter()
        verdict = grade(kata.name, solution, framework=framework, timeout=300.0)
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
