"""Proves a kata's grader: the solution passes, each mistake of the bug bank is caught by the check it names.

    python scripts/prove.py attention
    python scripts/prove.py attention --framework jax --seeds 5
    python scripts/prove.py attention --framework torch --bug no-scale

Each mistake is graded in full on the first seed, with `--hint`, and by the check it names on the others. The mistakes
beyond the bank are caught as well, and what the hint says of them, if anything, is true. What was graded is kept in
.katas/proofs.jsonl, so that a run that was stopped goes on where it was; a change of a grader, of the library, of the
mistakes or of the solution starts over.
"""

import argparse
import math
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from rich.progress import Progress

from graders import Check, KataError, bugs, find, katas
from graders.batch import Job, grade_each
from graders.bugs import Bug
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.kept import Kept, fingerprint

KEPT = ROOT / ".katas" / "proofs.jsonl"
SOLUTION = "solution"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to prove (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds for each mistake (3)")
    parser.add_argument("--bug", action="append", help="this mistake alone; may be given again")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or list(katas())
        faults = 0
        for kata in chosen:
            for framework in kata.frameworks:
                if options.framework in (None, framework):
                    faults += prove(kata, framework, range(1, options.seeds + 1), options.bug)
    except KataError as error:
        raise SystemExit(f"prove: {error}") from None
    raise SystemExit(faults > 0)


def prove(kata: Kata, framework: str, seeds: range, only: list[str] | None = None) -> int:
    """Prints what is wrong, a line each; the number of mistakes that are not caught as they should be."""
    names = [bug.name for bug, _ in mistakes(kata, framework) if not only or bug.name in only]
    known = kept(kata, framework)
    expected = [key(name, seed) for seed in seeds for name in ([] if only else [SOLUTION]) + names]
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        done = sum(grading in known.found for grading in expected)
        task = bar.add_task(f"{kata.name}, {framework}", total=len(expected), completed=done)
        for job, complaint in complaints(kata, framework, seeds, only, solution=not only, done=known.found):
            known.add(key(job.name, job.seed), complaint)
            bar.advance(task)
    wrong = set()
    for grading in expected:
        if known.found[grading] and (name := grading.split(",")[0]) not in wrong:
            wrong.add(name)
            print(f"  {grading}: {known.found[grading]}", flush=True)
    found = len(names) - len(wrong & set(names))
    print(f"{kata.name}, {framework}: {found} of {len(names)} mistakes caught and named", flush=True)
    return len(wrong)


def kept(kata: Kata, framework: str) -> Kept:
    """What was found wrong with each grading, by `key`: nothing is ""."""
    depends = [kata.solution(framework), kata.bugs, *([kata.beyond] if kata.beyond.exists() else [])]
    return Kept(KEPT, [kata.name, framework, fingerprint(kata, *depends, Path(bugs.__file__), Path(__file__))])


def key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def complaints(
    kata: Kata,
    framework: str,
    seeds: range,
    only: list[str] | None = None,
    *,
    solution: bool = True,
    brief: float = math.inf,
    done: Collection[str] = (),
) -> Iterator[tuple[Job, str]]:
    """(job, what is wrong with how it was graded or "") for the solution and for each mistake on each seed.

    brief: of the mistakes that one check is there for, the first alone is graded so, and that in the kata's first
    framework alone, and where no level is training; else by its check with the hint. The other mistakes are graded by
    that check on one seed. What takes more seconds than that, in all or in the check that caught it, stays at the first
    seed, and at the first mistake. done: what is not to be graded, as "name, seed N".
    """
    right = kata.solution(framework).read_text(encoding="utf-8")
    variants = [(bug, source) for bug, source in mistakes(kata, framework) if not only or bug.name in only]
    known = {bug.name: bug for bug, _ in variants}
    says = {bug.name: bug.says for bug in bugs.bank(kata)}
    leading = {bug.check: bug.name for bug, _ in reversed(variants)}
    first = [Job(SOLUTION, right, seeds[0])] if solution else []
    others = []
    in_full = brief == math.inf or (framework == kata.frameworks[0] and "training" not in kata.levels)
    for bug, source in variants:
        if brief == math.inf or leading[bug.check] == bug.name:
            first.append(Job(bug.name, source, seeds[0], check=None if in_full else bug.check, hint=True))
        else:
            others.append(Job(bug.name, source, seeds[0], check=bug.check))
    slow = set()

    def left(jobs: list[Job]) -> list[Job]:
        return [job for job in jobs if key(job.name, job.seed) not in done]

    for job, checks in grade_each(kata, framework, left(first)):
        took = [check.seconds for check in checks] or [0.0]
        if (sum(took) if job.name not in known else took[-1]) > brief:
            slow.add(known[job.name].check if job.name in known else None)
        yield job, _complaint(known.get(job.name), job, checks, says)
    checked = {job.name: known[job.name].check if job.name in known else None for job in [*first, *others]}
    others += [Job(job.name, job.source, seed, check=checked[job.name]) for seed in seeds[1:] for job in first]
    for job, checks in grade_each(kata, framework, left([job for job in others if checked[job.name] not in slow])):
        yield job, _complaint(known.get(job.name), job, checks, says)


def mistakes(kata: Kata, framework: str) -> list[tuple[Bug, str]]:
    """The bank's and those beyond it, with their sources."""
    return [*bugs.variants(kata, framework), *bugs.variants_beyond(kata, framework)]


def _complaint(bug: Bug | None, job: Job, checks: tuple[Check, ...], says: dict[str, str]) -> str:
    if not checks:
        return "nothing was graded: is there such a check?"
    last = checks[-1]
    if bug is None:
        return "" if last.outcome == "passed" else f"{last.name} {last.outcome}: {last.message}"
    if last.outcome == "passed":
        return f"it passes {job.check or 'every check'}, expected {bug.check} to fail"
    if last.outcome != "failed" or last.name != bug.check:
        return f"{last.name} {last.outcome}, expected {bug.check} to fail: {last.message}"
    if job.hint and bug.name in says and bug.says not in last.message:
        return f"the hint does not name it: {last.message}"
    wrong = set(last.likely) - {says[name] for name in bug.hints}
    if job.hint and bug.name not in says and wrong:
        return f"the hint names another mistake: {' '.join(wrong)}"
    return ""


if __name__ == "__main__":
    main()
