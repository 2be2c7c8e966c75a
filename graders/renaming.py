"""Gives the local variables of a program other names: a verdict and a hint must not depend on what they are called."""

import ast
import random
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
BINDERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def renamed(source: str, seed: int) -> str:
    """The same program, without its comments, with other names for what is assigned to in a function.

    Parameters keep theirs, since they are called by name, and so does whatever the module binds at its top.
    """
    tree = ast.parse(source)
    draw = random.Random(seed)
    top = set(_bound_at_the_top(tree))
    for function in _outermost(tree):
        names = sorted(_assigned(function) - _fixed(function) - top)
        numbers = draw.sample(range(100, 1000), len(names))
        new = {name: f"x{number}" for name, number in zip(names, numbers, strict=True)}
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                node.id = new.get(node.id, node.id)
    return ast.unparse(tree) + "\n"


def _outermost(node: ast.AST) -> Iterator[Function]:
    """Functions and methods that stand in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from _outermost(child)


def _bound_at_the_top(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, BINDERS):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        else:
            yield from (child.id for child in ast.walk(node) if isinstance(child, ast.Name))


def _assigned(function: Function) -> set[str]:
    return {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _fixed(function: Function) -> set[str]:
    """Names in a function that something else than an assignment binds, or that another scope has."""
    fixed: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.FunctionDef(name=name):
                fixed.add(name)
            case ast.ClassDef(name=name):
                fixed |= {name, *(n.id for n in ast.walk(node) if isinstance(n, ast.Name))}
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                fixed.update(names)
            case ast.Import() | ast.ImportFrom():
                fixed.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    return fixed
