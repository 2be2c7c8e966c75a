"""Grades the solutions on many seeds: a check that refuses one is a false alarm.

    python scripts/seeds.py --seeds 200
    python scripts/seeds.py attention --framework jax --seeds 50

What was graded is kept in .katas/seeds.jsonl, so that a run that was stopped goes on where it was; a change of a
grader, of the library or of a solution starts over.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from graders import KataError, find, katas
from graders.batch import Job, grade_each
from graders.catalogue import FRAMEWORKS, ROOT, Kata

KEPT = ROOT / ".katas" / "seeds.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to grade (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="seeds for each solution (200)")
    parser.add_argument("--level", type=int, metavar="N", help="up to this level, where training takes long")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or list(katas())
    except KataError as error:
        raise SystemExit(f"seeds: {error}") from None
    alarms = 0
    for kata in chosen:
        for framework in kata.frameworks:
            if options.framework in (None, framework):
                alarms += sweep(kata, framework, options.seeds, options.level)
    raise SystemExit(alarms > 0)


def sweep(kata: Kata, framework: str, seeds: int, level: int | None) -> int:
    """Prints each false alarm, then a line; the number of false alarms."""
    key = [kata.name, framework, level, fingerprint(kata, framework)]
    found = kept(key)
    source = kata.solution(framework).read_text(encoding="utf-8")
    jobs = [Job("solution", source, seed, level=level) for seed in range(seeds) if seed not in found]
    KEPT.parent.mkdir(exist_ok=True)
    with (
        Progress(transient=True, disable=not sys.stdout.isatty()) as progress,
        KEPT.open("a", encoding="utf-8") as file,
    ):
        task = progress.add_task(f"{kata.name}, {framework}", total=seeds, completed=seeds - len(jobs))
        for job, checks in grade_each(kata, framework, jobs):
            last = checks[-1]
            found[job.seed] = "" if last.outcome == "passed" else f"{last.name}: {last.message}"
            file.write(json.dumps([*key, job.seed, found[job.seed]]) + "\n")
            file.flush()
            if found[job.seed]:
                progress.console.print(f"seed {job.seed}: {found[job.seed]}", markup=False)
            progress.advance(task)
    alarms = sum(bool(found[seed]) for seed in range(seeds))
    print(f"{kata.name}, {framework}: {alarms} false alarms on {seeds} seeds")
    return alarms


def kept(key: Sequence[object]) -> dict[int, str]:
    """What an earlier run found, by seed."""
    if not KEPT.exists():
        return {}
    rows = [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines() if line.endswith("]")]
    return {row[-2]: row[-1] for row in rows if row[:-2] == list(key)}


def fingerprint(kata: Kata, framework: str) -> str:
    """Changes with whatever a verdict on the solution depends on."""
    files: list[Path] = [*sorted((ROOT / "graders").rglob("*.py")), kata.grader, kata.solution(framework)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:16]


if __name__ == "__main__":
    main()
