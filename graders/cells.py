"""What a kernel has run of a notebook's graded cells, from its input history alone: no front end tells it more.

A cell that begins with `# kata` is graded. When it is run again in another version, the newer one takes the place of
the older: that is the one with which it shares a name. A cell without the mark that defines all that the marked ones
define is a whole solution that was pasted over them; and if no cell has the mark, those count that define what is
graded.
"""

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from graders.notebook import MARK, is_marked, plain

# Names at the left edge, in cells that do not parse too.
DEFINED = re.compile(r"^(?:(?:async\s+)?def|class)\s+(\w+)|^(\w+)\s*(?::[^=\n]+)?=(?!=)", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    number: int  # In [number]
    text: str
    names: frozenset[str]


@dataclass(frozen=True)
class Gathered:
    """The graded cells in the order in which they first came, and what the person may be surprised by."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        return "\n\n".join(plain(cell.text) for cell in self.cells)


def gather(executed: Sequence[str], contract: Set[str]) -> Gathered:
    """executed: the inputs of the kernel, the first in place 0. contract: the public names that are graded."""
    kept: list[Cell] = []
    others: list[Cell] = []
    for number, text in enumerate(executed):
        cell = Cell(number, text, _names(text))
        theirs = contract & {name for each in kept for name in each.names}
        if is_marked(text):
            kept = _replaced(kept, cell)
        elif theirs and theirs <= cell.names:
            kept = [cell]
        elif contract & cell.names:
            others.append(cell)
    if not kept:
        for cell in others:
            kept = _replaced(kept, cell)
    return Gathered(tuple(kept), tuple(_notes(kept, others, contract)))


def _replaced(kept: list[Cell], cell: Cell) -> list[Cell]:
    older = [each for each in kept if each.names & cell.names or each.text == cell.text]
    if not older:
        return [*kept, cell]
    return [cell if each is older[0] else each for each in kept if each is older[0] or each not in older]


def _notes(kept: Sequence[Cell], others: Sequence[Cell], contract: Set[str]) -> list[str]:
    """A line for each other cell whose definition of a graded name is the newest one."""
    notes = []
    for cell in (cell for cell in others if cell not in kept):
        newest = [
            name
            for name in sorted(contract & cell.names)
            if not any(name in each.names and each.number > cell.number for each in (*kept, *others))
        ]
        if newest:
            names = ", ".join(f"`{name}`" for name in newest)
            notes.append(f"In [{cell.number}] defines {names} and is not graded: it does not begin with {MARK}")
    if not kept:
        notes.append(f"no cell that begins with {MARK} was run in this kernel: run it, then this one")
    return notes


def _names(text: str) -> frozenset[str]:
    return frozenset(name for pair in DEFINED.findall(text) for name in pair if name)
