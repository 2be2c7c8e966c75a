"""Mechanical mutants of a solution: one small change each, of a kind that a tired person makes.

Mutation testing: DeMillo, Lipton & Sayward 1978. A mutant that every check lets through is a check that is missing, or
is equivalent: another right solution.
"""

import ast
import contextlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from graders.catalogue import Kata
from graders.errors import KataError

BINARY: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
PAIRS = (
    ("triu", "tril"), ("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax"), ("mean", "sum"),
    ("zeros", "ones"), ("zeros_like", "ones_like"), ("any", "all"), ("sin", "cos"), ("exp", "expm1"),
    ("log", "log1p"), ("mul_", "div_"), ("add_", "sub_"), ("floor", "ceil"),
)  # fmt: skip
NAMES = {"logsumexp": "sum"} | dict(PAIRS) | {b: a for a, b in PAIRS}
TRANSPARENT = {"detach", "stop_gradient", "clone", "copy", "contiguous", "abs", "square", "sqrt"}


@dataclass(frozen=True)
class Mutant:
    """One changed solution. key: where and what, the same as long as that piece of code is; source: the whole file."""

    key: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its code."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for parent, field, index, where in list(_places(tree)):
        node = _at(parent, field, index)
        for change, new in _changes(node, field):
            with _in_its_place(parent, field, index, new):
                text = ast.unparse(tree)
            key = f"{where}: {change}"
            seen[key] = seen.get(key, 0) + 1
            yield Mutant(key if seen[key] == 1 else f"{key} #{seen[key]}", text)


Place = tuple[ast.AST, str, int | None, str]


def _places(node: ast.AST, where: str = "") -> Iterator[Place]:
    """Each node that may change: its parent, the field and the index in it, and the function it stands in."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params", "bases") or isinstance(node, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_text(child):
                continue
            yield node, field, index, where
            if isinstance(child, ast.Raise):  # whether it raises matters, what it says does not
                continue
            name = child.name if isinstance(child, ast.FunctionDef | ast.ClassDef) else ""
            yield from _places(child, ".".join(filter(None, (where, name))))


def _is_text(node: ast.AST) -> bool:
    """A docstring or another bare string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _at(parent: ast.AST, field: str, index: int | None) -> Any:
    value = getattr(parent, field)
    return value if index is None else value[index]


@contextlib.contextmanager
def _in_its_place(parent: ast.AST, field: str, index: int | None, new: ast.AST | None) -> Iterator[None]:
    """The new node where the old one stands, for a while; None: nothing stands there."""
    before = getattr(parent, field)
    if index is None:
        setattr(parent, field, new)
    else:
        setattr(parent, field, [*before[:index], *([new] if new is not None else []), *before[index + 1 :]])
    try:
        yield
    finally:
        setattr(parent, field, before)


def _changes(node: ast.AST, field: str) -> Iterator[tuple[str, ast.AST | None]]:
    """What a node may become, each with a line that says so; None: it is left out."""
    text = _short(ast.unparse(node))
    for new in [*_expressions(node), *_statements(node)]:
        yield f"{text} -> {_short(ast.unparse(new))}", new
    if field == "decorator_list" or (isinstance(node, ast.keyword) and node.arg):
        yield f"drop {text}", None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:40]} ... {line[-16:]}"


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value:
                yield ast.Constant(value - 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value if value else 1.0)
        case ast.BinOp(left, op, right) if type(op) in BINARY:
            yield ast.BinOp(left, BINARY[type(op)](), right)
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.Compare(left, [op], right) if type(op) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(op)]()], right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Attribute(value, attr, ctx) if attr in NAMES:
            yield ast.Attribute(value, NAMES[attr], ctx)
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=[]) if attr in TRANSPARENT:
            yield value
        case ast.Call(func=ast.Attribute(attr=attr), args=[value]) if attr in TRANSPARENT:
            yield value
        case ast.Call(func=ast.Name(id=name, ctx=ctx), args=args, keywords=keywords) if name in ("min", "max"):
            yield ast.Call(ast.Name(NAMES[name], ctx), args, keywords)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Assign() | ast.AugAssign() | ast.Expr() | ast.Raise() | ast.Delete():
            yield ast.Pass()
            if isinstance(node, ast.AugAssign) and type(node.op) in BINARY:
                yield ast.AugAssign(node.target, BINARY[type(node.op)](), node.value)
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.With(body=body):
            yield ast.If(ast.Constant(True), body, [])
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def equivalents(kata: Kata) -> dict[tuple[str, str], str]:
    """The mutants that somebody found to be right solutions, (framework, key), with the reason."""
    path = kata.folder / ".equivalents.toml"
    if not path.exists():
        return {}
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["equivalent"]
        return {(f, mutant): e["why"] for e in entries for f in e["frameworks"] for mutant in e["mutants"]}
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise KataError(f"{path}: the list of equivalent mutants does not read: {error}") from error
