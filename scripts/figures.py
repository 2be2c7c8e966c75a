"""Writes the README's table of what the proofs found of this tree, from what their programs kept.

    python scripts/figures.py
    python scripts/figures.py attention

A figure is there only if every grading that it speaks of is: what a change of a grader, of the library, of a solution
or of a mistake has made old counts as not graded. What is missing is said, with the command that would grade it. Of a
kata that is not named the rows stay as they are.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import hints
import mutate
import prove
import seeds
from derive import write_table

from graders import KataError, bugs, find, katas
from graders.catalogue import FRAMEWORKS, ROOT, Kata
from graders.mutants import equivalents, mutants

MISSING = "-"
HEAD = ("kata", "framework", "mistakes", "mutants", "solution", "right attempts", "hints", "of pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas whose rows to write (all)")
    options = parser.parse_args()
    try:
        chosen = [find(name) for name in options.kata] or katas()
        write_table("figures", table(chosen, (ROOT / "README.md").read_text(encoding="utf-8")))
    except KataError as error:
        raise SystemExit(f"figures: {error}") from None


def table(chosen: Sequence[Kata], readme: str) -> str:
    """The rows of the chosen katas anew, those of others as the README has them."""
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    before = readme.split("<!-- figures -->")[-1].split("<!-- end of figures -->")[0].splitlines()
    for kata in katas():
        for framework in kata.frameworks:
            start = f"| {kata.title} | {FRAMEWORKS[framework]} |"
            old = [line for line in before if line.startswith(start)]
            if kata in chosen or not old:
                lines.append(f"| {' | '.join(row(kata, framework))} |")
            else:
                lines += old
    return "\n".join(lines)


def row(kata: Kata, framework: str) -> tuple[str, ...]:
    """One row of the table; a cell that is missing is said."""
    cells = [kata.title, FRAMEWORKS[framework]]
    for command, cell in COLUMNS.items():
        cells.append(cell(kata, framework))
        if cells[-1] == MISSING:
            print(f"missing: python scripts/{command} {kata.name} --framework {framework}", file=sys.stderr)
    return tuple(cells)


def mistakes(kata: Kata, framework: str) -> str:
    """How many are caught by their check and named, of those of the bank and beyond it."""
    found = prove.kept(kata, framework).found
    names = [bug.name for bug, _ in prove.mistakes(kata, framework)]
    if not all(prove.key(name, 1) in found for name in [prove.SOLUTION, *names]):
        return MISSING
    wrong = {name for name in names for said in [found.get(prove.key(name, seed)) for seed in range(1, 4)] if said}
    return f"{len(names) - len(wrong)} of {len(names)}"


def mutated(kata: Kata, framework: str) -> str:
    """How many mutants are caught, of those that are not right as well."""
    found = mutate.kept(kata, framework).found
    right = {key for at, key in equivalents(kata) if at == framework}
    source = kata.solution(framework).read_text(encoding="utf-8")
    judged = [mutant.key for mutant in mutants(source) if mutant.key not in right]
    if not all(key in found for key in judged):
        return MISSING
    return f"{sum(found[key] not in mutate.SURVIVED for key in judged)} of {len(judged)}"


def solution(kata: Kata, framework: str) -> str:
    return "; ".join(alarms(kata, framework, right=False)) or MISSING


def right_attempts(kata: Kata, framework: str) -> str:
    return "; ".join(alarms(kata, framework, right=True)) or MISSING


def alarms(kata: Kata, framework: str, *, right: bool) -> Iterator[str]:
    """False alarms by the number of files and of the seeds that each was graded on, in all levels and up to some."""
    paths = seeds.right(kata, framework) if right else [kata.solution(framework)]
    before = 0
    for level in (None, *range(len(kata.levels), 0, -1)):
        found = [seeds.kept(kata, framework, path, level).found for path in paths]
        least = min(map(len, found))
        if least > before:
            before = least
            count = sum(bool(said) for refused in found for said in refused.values())
            files = f"{len(paths)} x " if right else ""
            yield f"{count} in {files}{least}" + (f" to level {level}" if level else "")


def named(kata: Kata, framework: str) -> str:
    """How many mistakes of the bank are named, under other names of variables."""
    found = hints.kept(kata, framework).found
    bank = [bug.name for bug in bugs.bank(kata) if framework in bug.frameworks()]
    if not all(name in found for name in bank):
        return MISSING
    return f"{sum(found[name][0] == 'named' for name in bank)} of {len(bank)}"


def pairs(kata: Kata, framework: str) -> str:
    """Of two mistakes at once, how often one is named, and what came instead."""
    found = Counter(told[0] for name, told in hints.kept(kata, framework).found.items() if " + " in name)
    if not found:
        return MISSING
    others = [f", {found[outcome]} {outcome}" for outcome in hints.OUTCOMES[1:] if found[outcome]]
    return f"{found['named']} of {found.total()}{''.join(others)}"


COLUMNS: dict[str, Callable[[Kata, str], str]] = {  # by the command that grades for them
    "prove.py": mistakes,
    "mutate.py": mutated,
    "seeds.py": solution,
    "seeds.py --right": right_attempts,
    "hints.py": named,
    "hints.py --pairs 40": pairs,
}


if __name__ == "__main__":
    main()
