"""Derives a stub from a solution: signatures and docstrings stay, bodies become NotImplementedError."""

import ast
from pathlib import Path

from graders.catalogue import Kata
from graders.errors import KataError


KEPT_DECORATORS = ("property", "staticmethod", "classmethod")


def derive(kata: Kata, framework: str) -> str:
    """The stub's source. The module docstring is the first paragraph of the solution's."""
    path = kata.solution(framework)
    tree, lines = _parse(path), path.read_text(encoding="utf-8").splitlines()
    imports, definitions = [], []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += lines[node.lineno - 1 : node.end_lineno]
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            definitions.append(_function(node, lines, kata.name))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            definitions.append(_class(node, lines, kata.name))
    intro = (ast.get_docstring(tree) or "").split("\n\n")[0]
    return "\n\n\n".join(["\n\n".join([f'"""{intro}"""', "\n".join(imports)]).strip(), *definitions]) + "\n"


def signatures(kata: Kata, framework: str) -> dict[str, str]:
    """Each public name of the contract with its signature, read from the solution without running it."""
    found = {}
    for node in _parse(kata.solution(framework)).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = f"{node.name}({ast.unparse(node.args)})"
        elif isinstance(node, ast.ClassDef):
            init = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            found[node.name] = f"{node.name}({ast.unparse(init[0].args).removeprefix('self, ') if init else ''})"
    return found


def is_untouched(source: str, kata: str) -> bool:
    """Whether every function of a stub still has the body that was derived for it."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return all(ast.unparse(node.body[-1]) == f"raise NotImplementedError({kata!r})" for node in functions)


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise KataError(f"{path}: the solution does not read: {error}") from error


def _function(node: ast.FunctionDef, lines: list[str], kata: str) -> str:
    """The lines of the signature and the docstring as they stand, and the stub's body."""
    decorators = [f"{' ' * node.col_offset}@{ast.unparse(d)}" for d in node.decorator_list]
    kept = [line for line in decorators if line.strip()[1:].endswith((*KEPT_DECORATORS, ".setter"))]
    end = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
    body = f'{" " * (node.col_offset + 4)}raise NotImplementedError("{kata}")'
    return "\n".join([*kept, *lines[node.lineno - 1 : end], body])


def _class(node: ast.ClassDef, lines: list[str], kata: str) -> str:
    end = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
    methods = [
        _function(child, lines, kata)
        for child in node.body
        if isinstance(child, ast.FunctionDef) and (child.name == "__init__" or not child.name.startswith("_"))
    ]
    return "\n\n".join(["\n".join(lines[node.lineno - 1 : end]), *methods])
