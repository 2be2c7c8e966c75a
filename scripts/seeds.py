"""Grades what is right on many seeds: a check that refuses it is a false alarm.

    python scripts/seeds.py --seeds 200
    python scripts/seeds.py attention --framework jax --seeds 50
    python scripts/seeds.py --right --seeds 50

That is the solutions, or with --right the attempts in tests/right, which are as right and look nothing like them. What
was graded is kept in .katas/seeds.jsonl, so that a run that was stopped goes on where it was; a change of a grader, of
the library or of what is graded starts over.
"""

import argparse
import sys
from pathlib import Path

from rich.progress import Progress

from graders import KataError, find, katas
from graders.batch import Job, grade_each
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.kept import Kept, fingerprint
from graders.plugin import DEVICES

KEPT = ROOT / ".katas" / "seeds.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to grade (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="seeds for each file (200)")
    parser.add_argument("--level", type=int, metavar="N", help="up to this level, where training takes long")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where to grade (auto)")
    parser.add_argument("--right", action="store_true", help="the other right attempts, not the solutions")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or list(katas())
    except KataError as error:
        raise SystemExit(f"seeds: {error}") from None
    alarms = 0
    for kata in chosen:
        for framework in kata.frameworks:
            if options.framework in (None, framework):
                for path in right(kata, framework) if options.right else [kata.solution(framework)]:
                    alarms += sweep(kata, framework, path, options.seeds, options.level, options.device)
    raise SystemExit(alarms > 0)


def right(kata: Kata, framework: str) -> list[Path]:
    """The right attempts of a kata in a framework, beside its solution."""
    folder = ROOT / "tests" / "right" / kata.name
    return [path for path in sorted(folder.glob("*.py")) if kata.framework_of(path) == framework]


def kept(kata: Kata, framework: str, path: Path, level: int | None = None, device: str = "auto") -> Kept:
    """What a file was refused for on each seed that was graded; nothing is ""."""
    return Kept(KEPT, [kata.name, framework, path.name, level, device, fingerprint(kata, path)])


def job(path: Path, seed: int, level: int | None = None, device: str = "auto") -> Job:
    """One grading; what a file named fused* calls is not refused."""
    lifted = path.stem.startswith("fused")
    return Job(path.stem, path.read_text(encoding="utf-8"), seed, level=level, device=device, lifted=lifted)


def sweep(kata: Kata, framework: str, path: Path, seeds: int, level: int | None, device: str) -> int:
    """Prints each false alarm, then a line; the number of false alarms."""
    going = kept(kata, framework, path, level, device)
    found = going.found
    jobs = [job(path, seed, level, device) for seed in range(seeds) if seed not in found]
    title = f"{kata.name}, {framework}" + (f", {path.stem}" if path != kata.solution(framework) else "")
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task(title, total=seeds, completed=seeds - len(jobs))
        for done, checks in grade_each(kata, framework, jobs, whole=True):
            last = checks[-1]
            going.add(done.seed, "" if last.outcome == "passed" else f"{last.name}: {last.message}")
            if found[done.seed]:
                progress.console.print(f"seed {done.seed}: {found[done.seed]}", markup=False)
            progress.advance(task)
    alarms = sum(bool(found[seed]) for seed in range(seeds))
    print(f"{title}: {alarms} false alarms on {seeds} seeds", flush=True)
    return alarms


if __name__ == "__main__":
    main()
