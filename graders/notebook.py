"""Reads an attempt's source: a .py file as it is, or the code cells of a notebook."""

import ast
from pathlib import Path

from graders.errors import Mismatch

TAGS = {"kata", "attempt", "solution"}
PYTHON_CELLS = {"%%time", "%%timeit", "%%capture", "%%prun"}
INSTRUCTION = ("%", "!", "?")


def source(path: Path) -> str:
    """The Python source of an attempt (.py or .ipynb); Mismatch if it cannot be read."""
    try:
        return _notebook(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Mismatch(f"{path.name} is not UTF-8 text: {error}") from error


def _notebook(path: Path) -> str:
    """The cells tagged 'kata', 'attempt' or 'solution', or else all code cells; magics become blank lines."""
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        raise Mismatch(f"{path.name} is not a notebook that nbformat can read: {error}") from error
    code = [cell for cell in cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if TAGS & set(cell.metadata.get("tags", ()))]
    return "\n\n".join(_plain(cell.source) for cell in tagged or code)


def _plain(cell: str) -> str:
    if cell.lstrip().startswith("%%"):
        magic, _, body = cell.lstrip().partition("\n")
        return body if magic.split()[0] in PYTHON_CELLS else ""
    try:
        ast.parse(cell)
    except SyntaxError:
        # Only a cell that is not Python by itself can hold magics: `%` also starts a continued line.
        return "\n".join(_indent(line) + "pass" if _magic(line) else line for line in cell.splitlines())
    return cell


def _magic(line: str) -> bool:
    return line.lstrip().startswith(INSTRUCTION) or line.rstrip().endswith("?")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
