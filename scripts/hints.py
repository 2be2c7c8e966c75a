"""Measures what `--hint` says: of each mistake of the bank, and of two of them together.

    python scripts/hints.py
    python scripts/hints.py attention --framework torch --pairs 100

Each program is graded with its local variables renamed. A hint names the mistake (of two: one of them), is silent, or
misnames it; what is misnamed or not caught is printed. What was graded is kept in .katas/hints.jsonl, so that a run
that was stopped goes on where it was; a change of a grader, of the library, of the bank or of the solution starts over.
"""

import argparse
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.progress import Progress

from graders import KataError, bugs, find, katas
from graders.batch import Job, grade_each
from graders.bugs import Bug
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.kept import Kept, fingerprint
from graders.renaming import renamed
from graders.report import Check

KEPT = ROOT / ".katas" / "hints.jsonl"
SEED = 1
OUTCOMES = ("named", "silent", "misnamed", "not caught")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to measure (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--pairs", type=int, default=100, metavar="N", help="pairs of mistakes, drawn (100)")
    parser.add_argument("--level", type=int, metavar="N", help="up to this level, where training takes long")
    options = parser.parse_args()
    rows = []
    try:
        for kata in [find(name) for name in options.kata] or katas():
            for framework in kata.frameworks:
                if options.framework in (None, framework):
                    rows += [measure(kata, framework, options.level, options.pairs)]
    except KataError as error:
        raise SystemExit(f"hints: {error}") from None
    head = ["kata", "framework", "mistakes", *OUTCOMES, "pairs", *OUTCOMES]
    print("\n".join(["", f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *rows]))


def measure(kata: Kata, framework: str, level: int | None, pairs: int) -> str:
    """Grades each mistake and so many pairs; the row of the table."""
    says = {bug.name: bug.says for bug in bugs.bank(kata)}
    sources: dict[tuple[str, ...], str] = {(bug.name,): source for bug, source in bugs.variants(kata, framework)}
    sources.update(itertools.islice(drawn(kata, framework), pairs))
    known = kept(kata, framework, level)
    jobs = {
        " + ".join(names): Job(" + ".join(names), renamed(source, i), SEED, level=level, hint=True)
        for i, (names, source) in enumerate(sources.items())
    }
    left = [job for name, job in jobs.items() if name not in known.found]
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(f"{kata.name}, {framework}", total=len(jobs), completed=len(jobs) - len(left))
        for job, checks in grade_each(kata, framework, left):
            known.add(job.name, outcome(checks[-1], {says[name] for name in job.name.split(" + ")}))
            bar.advance(task)
    counts: list[Counter[str]] = [Counter(), Counter()]
    for names, name in zip(sources, jobs, strict=True):
        found, told = known.found[name]
        counts[len(names) - 1][found] += 1
        if found in OUTCOMES[2:] or (found == "silent" and len(names) == 1):
            print(f"{kata.name}, {framework}, {name}: {found}. {told}", flush=True)
    cells = [str(cell) for count in counts for cell in (count.total(), *(count[outcome] for outcome in OUTCOMES))]
    return f"| {kata.name} | {framework} | {' | '.join(cells)} |"


def kept(kata: Kata, framework: str, level: int | None = None) -> Kept:
    """The `outcome` of each mistake, and of each pair as "one + other"."""
    depends = [kata.solution(framework), kata.bugs, Path(bugs.__file__), Path(__file__)]
    return Kept(KEPT, [kata.name, framework, level, fingerprint(kata, *depends)])


def drawn(kata: Kata, framework: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Two mistakes of the bank and the program that has both, in an order drawn once and for all."""
    bank = [bug for bug in bugs.bank(kata) if framework in bug.frameworks()]
    pairs = list(itertools.combinations(bank, 2))
    random.Random(SEED).shuffle(pairs)
    right = kata.solution(framework).read_text(encoding="utf-8")
    for first, second in pairs:
        if source := both(first, second, right, framework, kata):
            yield (first.name, second.name), source


def both(first: Bug, second: Bug, source: str, framework: str, kata: Kata) -> str | None:
    """The program with both mistakes, if the edits of one leave the other's text alone."""
    try:
        return second.apply(first.apply(source, framework, kata.bugs), framework, kata.bugs)
    except KataError:
        return None


def outcome(last: Check, says: set[str]) -> tuple[str, str]:
    """What the hint was worth, and what was told; where the check's own words name the mistake, nothing is missing."""
    likely = set(last.likely)
    if last.outcome != "failed":
        return "not caught", last.message
    if any(said in last.message for said in says):
        return "named", last.name
    return ("misnamed" if likely else "silent"), f"{last.name}: {' / '.join(sorted(likely))}"


if __name__ == "__main__":
    main()
