"""A debugging drill: a solution with some mistakes of the bug bank in it, and which of them a text still has.

The mistakes lie apart from each other, and whichever of them are left, the check that each names fails: that is seen by
grading every selection of them before the drill begins. A mistake is fixed when all checks up to the level of the one
that it names pass once the other mistakes are undone, whatever the person did there: a fix counts when it is made,
though another mistake still fails or is being tried at, and half a fix does not count.
"""

import ast
import contextlib
import io
import itertools
import random
import re
import tokenize
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

from graders import bugs
from graders.batch import Job, grade_each
from graders.bugs import Bug
from graders.catalogue import Kata
from graders.errors import KataError

MOST = 4  # mistakes in one drill
TRIES = 12  # selections of mistakes that are tried
SLOW = 5.0  # seconds; what a check that takes longer is to catch makes no drill


@dataclass(frozen=True)
class Hunk:
    """Lines start to stop of the drill's text, counted from 0, and what should stand there."""

    start: int
    stop: int
    right: tuple[str, ...]


@dataclass(frozen=True)
class Mistake:
    """One mistake: the check that it fails, what to tell the person, and where it stands."""

    name: str
    check: str
    says: str
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Drill:
    """The text with the mistakes in it, as the person gets it."""

    text: str
    mistakes: tuple[Mistake, ...]
    seed: int

    def kept(self) -> dict[str, Any]:
        """As it is kept in the history."""
        return asdict(self)

    @staticmethod
    def of(kept: dict[str, Any]) -> "Drill":
        mistakes = tuple(
            Mistake(
                m["name"],
                m["check"],
                m["says"],
                tuple(Hunk(h["start"], h["stop"], tuple(h["right"])) for h in m["hunks"]),
            )
            for m in kept["mistakes"]
        )
        return Drill(kept["text"], mistakes, kept["seed"])

    def lines(self) -> list[str]:
        return self.text.splitlines()

    def repaired(self, text: str, but: Collection[str] = ()) -> str:
        """The text with each mistake undone, except those named: right lines where it was, whatever stands there now.

        Where it was is found by the lines around it; a mistake whose surroundings were changed stays as it is.
        """
        own, theirs = self.lines(), text.splitlines()
        at = {-1: -1, len(own): len(theirs)}  # lines of ours and where they stand now
        for block in SequenceMatcher(None, own, theirs, autojunk=False).get_matching_blocks():
            at |= {block.a + i: block.b + i for i in range(block.size)}
        found = []
        for hunk in (h for m in self.mistakes if m.name not in but for h in m.hunks):
            before, after = at.get(hunk.start - 1), at.get(hunk.stop)
            if before is not None and after is not None:
                found.append((before + 1, after, hunk.right))
        for start, stop, right in sorted(found, reverse=True):
            theirs[start:stop] = right
        return "\n".join(theirs) + "\n"

    def place(self, hunk: Hunk) -> str:
        """Where a mistake stands: "line 12, in attention"."""
        line = hunk.start + 1
        scopes = (ast.FunctionDef, ast.ClassDef)
        around = [
            node
            for node in ast.walk(ast.parse(self.text))
            if isinstance(node, scopes) and node.lineno <= line <= (node.end_lineno or 0)
        ]
        names = ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))
        return f"line {line}" + (f", in {names}" if names else "")


@dataclass(frozen=True)
class Candidate:
    """A mistake as what it does to the lines of the bare solution: (start, stop, the lines with the mistake)."""

    bug: Bug
    edits: tuple[tuple[int, int, tuple[str, ...]], ...]

    def fits(self, other: "Candidate") -> bool:
        """Whether there is a line between them, and another check catches it."""
        apart = all(a[1] < b[0] or b[1] < a[0] for a in self.edits for b in other.edits)
        return apart and self.bug.check != other.bug.check


def choose(kata: Kata, framework: str, number: int, seed: int) -> Drill:
    """A drill with that many mistakes. Raises KataError if the bank has not so many that show together."""
    if not 1 <= number <= MOST:
        raise KataError(f"a drill has 1 to {MOST} mistakes, not {number}")
    right = bare(kata.solution(framework).read_text(encoding="utf-8")).splitlines()
    found = list(candidates(kata, framework, right))
    draw = random.Random(seed)
    for _ in range(TRIES):
        draw.shuffle(found)
        chosen: list[Candidate] = []
        for candidate in found:
            if len(chosen) < number and all(candidate.fits(other) for other in chosen):
                chosen.append(candidate)
        if len(chosen) == number and shows(kata, framework, right, chosen, seed):
            return compose(right, chosen, seed)
    raise KataError(f"{kata.bugs}: no {number} mistakes were found in {framework} that show together; ask for fewer")


def candidates(kata: Kata, framework: str, right: Sequence[str]) -> Iterator[Candidate]:
    """The mistakes of the bank that change the bare solution."""
    for bug, source in bugs.variants(kata, framework):
        wrong = bare(source).splitlines()
        opcodes = SequenceMatcher(None, right, wrong, autojunk=False).get_opcodes()
        if edits := tuple((i1, i2, tuple(wrong[j1:j2])) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"):
            yield Candidate(bug, edits)


def compose(right: Sequence[str], chosen: Sequence[Candidate], seed: int) -> Drill:
    """The bare solution with these mistakes, and where each stands in it."""
    lines, shift = list(right), 0
    hunks: dict[str, list[Hunk]] = {candidate.bug.name: [] for candidate in chosen}
    edits = sorted((edit, candidate.bug.name) for candidate in chosen for edit in candidate.edits)
    for (start, stop, wrong), name in edits:
        lines[start + shift : stop + shift] = wrong
        hunks[name].append(Hunk(start + shift, start + shift + len(wrong), tuple(right[start:stop])))
        shift += len(wrong) - (stop - start)
    mistakes = tuple(Mistake(c.bug.name, c.bug.check, c.bug.says, tuple(hunks[c.bug.name])) for c in chosen)
    return Drill("\n".join(lines) + "\n", mistakes, seed)


def shows(kata: Kata, framework: str, right: Sequence[str], chosen: Sequence[Candidate], seed: int) -> bool:
    """Whether each mistake fails the check that it names, alone and with every selection of the others."""
    jobs = []
    for size in range(1, len(chosen) + 1):
        for selected in itertools.combinations(chosen, size):
            text = compose(right, selected, seed).text
            jobs += [Job(candidate.bug.name, text, seed, check=candidate.bug.check) for candidate in selected]
    with contextlib.closing(grade_each(kata, framework, jobs)) as graded:
        for job, checks in graded:
            last = checks[-1] if checks else None
            if last is None or (last.name, last.outcome) != (job.check, "failed"):
                return False
            if not 0 < last.seconds < SLOW:  # 0: the attempt died, and nothing could be learnt from a card
                return False
    return True


def bare(source: str) -> str:
    """The source without comments and without what the module's docstring says after its first paragraph.

    They tell what the right code does: the absence of one would tell where a mistake is.
    """
    lines = source.splitlines()
    tree = ast.parse(source)
    if intro := ast.get_docstring(tree, clean=False):
        node = tree.body[0]
        lines[node.lineno - 1 : node.end_lineno] = [f'"""{intro.split(chr(10) * 2)[0].strip()}"""']
    gone = set()
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
            if not lines[row - 1]:
                gone.add(row - 1)
    kept = "\n".join(line for i, line in enumerate(lines) if i not in gone)
    return re.sub(r"\n{4,}", "\n\n\n", kept).rstrip() + "\n"
