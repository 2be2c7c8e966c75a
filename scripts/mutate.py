"""Mutates the solutions mechanically and counts what the graders catch.

    python scripts/mutate.py
    python scripts/mutate.py attention --framework torch
    python scripts/mutate.py attention --framework numpy --examples 5
    python scripts/mutate.py lora --show "LoRALinear.merge: self.merged = True -> pass"

A mutant that passes every check is printed: a check is missing, or the mutant is equivalent and belongs, with the
reason, in the kata's .equivalents.toml. --examples draws so many cases for each property, to see how many are enough:
the last column is the time of the checks on the solution then. What was graded is kept in .katas/mutants.jsonl, so that
a run that was stopped goes on where it was; a change of a grader, of the library or of a solution starts over.
"""

import argparse
import sys

from rich.progress import Progress

from graders import KataError, find, katas
from graders.batch import Job, grade_each
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.kept import Kept, fingerprint
from graders.mutants import equivalents, mutants

KEPT = ROOT / ".katas" / "mutants.jsonl"
SECONDS = 60.0  # a check takes; a mutant that loops is caught when they are over
SEED = 1
SURVIVED = ("passed", "error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas to mutate (all)")
    parser.add_argument("--framework", choices=FRAMEWORKS, help="this framework alone")
    parser.add_argument("--level", type=int, metavar="N", help="up to this level, where training takes long")
    parser.add_argument("--show", metavar="MUTANT", help="print the code of the mutant of that name")
    parser.add_argument("--examples", type=int, metavar="N", help="cases drawn for a property (20; in JAX 8)")
    options = parser.parse_args()
    rows = []
    try:
        for kata in [find(name) for name in options.kata] or katas():
            for framework in kata.frameworks:
                if options.framework in (None, framework):
                    if options.show:
                        show(kata, framework, options.show)
                    else:
                        rows.append(score(kata, framework, options.level, options.examples))
    except KataError as error:
        raise SystemExit(f"mutate: {error}") from None
    head = "| kata | framework | mutants | equivalent | caught | score | seconds |"
    if rows:
        print("\n".join(["", head, "| --- " * 7 + "|", *rows]))


def kept(kata: Kata, framework: str, level: int | None = None, examples: int | None = None) -> Kept:
    """The outcome of each mutant that was graded, by its key."""
    return Kept(KEPT, [kata.name, framework, level, examples, fingerprint(kata, kata.solution(framework))])


def show(kata: Kata, framework: str, key: str) -> None:
    for mutant in mutants(kata.solution(framework).read_text(encoding="utf-8")):
        if mutant.key == key:
            print(mutant.source)


def score(kata: Kata, framework: str, level: int | None, examples: int | None) -> str:
    """Grades each mutant, prints each survivor, and gives the row of the table."""
    path = kata.solution(framework)
    known = {key for at, key in equivalents(kata) if at == framework}
    found = {mutant.key: mutant for mutant in mutants(path.read_text(encoding="utf-8"))}
    if gone := sorted(known - set(found)):
        raise KataError(f"{kata.folder}/.equivalents.toml: there is no mutant '{gone[0]}' in {framework}; take it out")
    going = kept(kata, framework, level, examples)
    outcomes = going.found
    jobs = [
        Job(key, mutant.source, SEED, level=level, examples=examples)
        for key, mutant in found.items()
        if key not in known and key not in outcomes
    ]
    bare = Job("", path.read_text(encoding="utf-8"), SEED, level=level, examples=examples)
    ((_, checks),) = grade_each(kata, framework, [bare])
    if checks[-1].outcome != "passed":
        raise KataError(f"{path}: the solution does not pass: {checks[-1].name}: {checks[-1].message}")
    seconds = sum(check.seconds for check in checks)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(f"{kata.name}, {framework}", total=len(jobs))
        for job, checks in grade_each(kata, framework, jobs, at_most=SECONDS):
            going.add(job.name, checks[-1].outcome)
            bar.advance(task)
    survivors = [key for key in found if outcomes.get(key) in SURVIVED]
    for key in survivors:
        print(f"{kata.name}, {framework}: {key}" + (" (error)" if outcomes[key] == "error" else ""), flush=True)
    judged = len(found) - len(known)
    share = (judged - len(survivors)) / judged
    cells = [kata.name, framework, len(found), len(known), judged - len(survivors), f"{share:.1%}", f"{seconds:.1f}"]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
