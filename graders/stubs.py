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
    named = {node.id for node in ast.walk(_annotations(tree)) if isinstance(node, ast.Name)}
    imports: list[str] = []
    definitions = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            apart = imports and not lines[node.lineno - 2].strip()
            imports += ([""] if apart else []) + lines[node.lineno - 1 : node.end_lineno]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in named:
            definitions.append("\n".join(lines[node.lineno - 1 : node.end_lineno]))
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


def _annotations(tree: ast.Module) -> ast.Tuple:
    """Every annotation of a function: a name in one must stand in the stub too."""
    arguments = [arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for arg in ast.walk(node)]
    found = [arg.annotation for arg in arguments if isinstance(arg, ast.arg) and arg.annotation]
    found += [node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    return ast.Tuple(found, ast.Load())


def _function(node: ast.FunctionDef, lines: list[str], kata: str) -> str:
    """The lines of the signature and the docstring as they stand, and the stub's body."""
    end = node.body[0].end_lineno if ast.get_docstring(node) else node.body[0].lineno - 1
    body = f'{" " * (node.col_offset + 4)}raise NotImplementedError("{kata}")'
    return "\n".join([*_decorators(node, lines), *lines[node.lineno - 1 : end], body])


def _class(node: ast.ClassDef, lines: list[str], kata: str) -> str:
    """The docstring, the annotated fields, and the methods that are public or documented."""
    end = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign)]
    head = [*_decorators(node, lines), *lines[node.lineno - 1 : end]]
    parts = ["\n".join(head)]
    parts += ["\n".join(line for f in fields for line in lines[f.lineno - 1 : f.end_lineno])] if fields else []
    parts += [
        _function(child, lines, kata) for child in node.body if isinstance(child, ast.FunctionDef) and _is_shown(child)
    ]
    return "\n\n".join(parts)


def _is_shown(node: ast.FunctionDef) -> bool:
    documented = node.name.startswith("__") and ast.get_docstring(node) is not None
    return not node.name.startswith("_") or node.name == "__init__" or documented


def _decorators(node: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> list[str]:
    """Those that say what a thing is; one on a function that says how it works is part of the body."""
    shown = [
        d
        for d in node.decorator_list
        if isinstance(node, ast.ClassDef) or ast.unparse(d).endswith((*KEPT_DECORATORS, ".setter"))
    ]
    return [line for d in shown for line in lines[d.lineno - 1 : d.end_lineno]]
