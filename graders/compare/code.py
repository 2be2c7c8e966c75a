"""Two sources side by side, function by function, with differences marked; helpers are paired by what they do."""

import ast
import difflib
import io
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass

ALIKE = 0.35  # helpers of different names are paired from this likeness on
SIMILAR = 0.5  # lines that changed stand beside each other from this likeness on
Spans = tuple[tuple[str, bool], ...]  # pieces of a line, and whether each is marked as different


@dataclass(frozen=True)
class Unit:
    """A function, a method, a class's own lines, or what stands outside all of them; without docstring and comments."""

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A line of each side, "" where there is none. kind: same, changed, or only one side has it: yours, reference."""

    kind: str
    yours: Spans
    reference: Spans


@dataclass(frozen=True)
class Pair:
    """What is shown together; a name is "" where a side has nothing like it."""

    yours: str
    reference: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        names = dict.fromkeys(name for name in (self.yours, self.reference) if name)
        return " / ".join(names)

    def count(self, side: str) -> int:
        return sum(bool(getattr(row, side)) for row in self.rows)

    @property
    def is_same(self) -> bool:
        return all(row.kind == "same" for row in self.rows)


def code_lines(source: str) -> int:
    """Lines with code on them: neither blank, nor docstring, nor comment alone. Of what does not parse, 0."""
    units = parts(source)
    return sum(len(unit.lines) for unit in units)


def parts(source: str) -> tuple[Unit, ...]:
    """The source's units in its own order, imports and constants first; nothing if it does not parse."""
    try:
        tree = ast.parse(source)
        kept = _kept(source, tree)
    except (SyntaxError, tokenize.TokenError, ValueError):
        return ()
    owner: dict[int, str] = {}
    order = ["imports and constants"]

    def walk(body: Sequence[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{node.name}"
                order.append(name)
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                owner.update(dict.fromkeys(range(first, (node.end_lineno or first) + 1), name))
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{name}.")

    walk(tree.body, "")
    lines: dict[str, list[str]] = {name: [] for name in order}
    for number, line in kept.items():
        lines[owner.get(number, order[0])].append(line)
    return tuple(Unit(name, _dedented(found)) for name, found in lines.items() if found)


def _kept(source: str, tree: ast.Module) -> dict[int, str]:
    """The lines of code by number, without docstrings and without comments at their end."""
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = source.splitlines()
    coded: set[int] = set()
    cut: dict[int, int] = {}
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            cut[token.start[0]] = token.start[1]
        elif token.type not in skipped:
            coded.update(range(token.start[0], token.end[0] + 1))
    numbers = sorted(coded - docstrings)
    return {n: lines[n - 1][: cut.get(n)].rstrip() for n in numbers if lines[n - 1][: cut.get(n)].strip()}


def _dedented(lines: Sequence[str]) -> tuple[str, ...]:
    least = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    return tuple(line[least:] for line in lines)


def beside(yours: str, reference: str) -> tuple[Pair, ...]:
    """Every unit of both, in the reference's order; what only the attempt has comes last."""
    own, right = parts(yours), parts(reference)
    partner = _partners(own, right)
    taken = {unit.name for unit in partner.values()}
    pairs = [_pair(partner.get(unit.name), unit) for unit in right]
    return tuple(pairs + [_pair(unit, None) for unit in own if unit.name not in taken])


def _partners(own: Sequence[Unit], right: Sequence[Unit]) -> dict[str, Unit]:
    """The attempt's unit for each name of the reference: of the same name, or else the most alike that is left."""
    by_name = {unit.name: unit for unit in own}
    found = {unit.name: by_name[unit.name] for unit in right if unit.name in by_name}
    free_own = [unit for unit in own if unit.name not in found]
    free_right = [unit for unit in right if unit.name not in found]
    scores = [(_likeness(a, b), a, b) for a in free_own for b in free_right]
    for score, a, b in sorted(scores, key=lambda entry: -entry[0]):
        if score >= ALIKE and b.name not in found and a not in found.values():
            found[b.name] = a
    return found


def _likeness(a: Unit, b: Unit) -> float:
    """How alike the tokens are, names of the functions themselves aside."""
    texts = ["\n".join(unit.lines).replace(unit.name.rpartition(".")[2], "_") for unit in (a, b)]
    return difflib.SequenceMatcher(None, _words(texts[0]), _words(texts[1]), autojunk=False).ratio()


def _words(text: str) -> list[str]:
    words, word = [], ""
    for char in text:
        if char.isalnum() or char == "_":
            word += char
            continue
        if word:
            words.append(word)
            word = ""
        words.append(char)
    return [*words, word] if word else words


def _pair(yours: Unit | None, reference: Unit | None) -> Pair:
    a, b = (unit.lines if unit else () for unit in (yours, reference))
    rows: list[Row] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += [Row("same", _whole(line), _whole(line)) for line in a[i1:i2]]
        else:
            rows += _changed(a[i1:i2], b[j1:j2])
    return Pair(yours.name if yours else "", reference.name if reference else "", tuple(rows))


def _changed(a: Sequence[str], b: Sequence[str]) -> list[Row]:
    """Lines that differ: the most similar beside each other, in order, the rest alone."""
    rows: list[Row] = []
    j = 0
    for line in a:
        scores = [difflib.SequenceMatcher(None, _words(line), _words(other)).ratio() for other in b[j:]]
        best = max(range(len(scores)), key=scores.__getitem__, default=-1)
        if best < 0 or scores[best] < SIMILAR:
            rows.append(Row("yours", _whole(line), ()))
            continue
        rows += [Row("reference", (), _whole(other)) for other in b[j : j + best]]
        rows.append(Row("changed", *_marked(line, b[j + best])))
        j += best + 1
    return rows + [Row("reference", (), _whole(other)) for other in b[j:]]


def _whole(line: str) -> Spans:
    return ((line, False),)


def _marked(a: str, b: str) -> tuple[Spans, Spans]:
    """Both lines with the words that differ marked."""
    first, second = _words(a), _words(b)
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        left.append(("".join(first[i1:i2]), tag != "equal"))
        right.append(("".join(second[j1:j2]), tag != "equal"))
    return tuple(s for s in left if s[0]), tuple(s for s in right if s[0])
