"""An attempt in a notebook: its source in the file, and the report on it in the running kernel."""

import ast
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graders.errors import Mismatch

if TYPE_CHECKING:
    from graders.card import Report
    from graders.catalogue import Kata

TAGS = {"kata", "attempt", "solution"}
MARK = "# kata"  # a cell that begins so is graded, in the file and in the kernel, where tags are not known
PYTHON_CELLS = {"%%time", "%%timeit", "%%capture", "%%prun"}
INSTRUCTION = ("%", "!", "?")


def source(path: Path) -> str:
    """The Python source of an attempt (.py or .ipynb); Mismatch if it cannot be read."""
    try:
        return _notebook(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Mismatch(f"{path.name} is not UTF-8 text: {error}") from error


def framework(path: Path) -> str | None:
    """The framework that a notebook was written for, if it says so."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))["metadata"]["katas"]["framework"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return str(written)


def report(
    kata: str, framework: str | None = None, *, level: int | None = None, seed: int | None = None, hint: bool = False
) -> "Report":
    """In a notebook's last cell: grades what was last run in the cells that begin with `# kata`, and keeps the run.

    level: grade up to this level. seed: replay a run. hint: name the likely mistake.
    """
    from graders import card

    return card.report(kata, framework, level=level, seed=seed, hint=hint)


def new(kata: "Kata", framework: str) -> Any:
    """A notebook with the spec, the stub as the cell that is graded, and a cell that reports."""
    import frontmatter
    import nbformat

    from graders import stubs

    spec = frontmatter.load(str(kata.folder / "spec.md")).content
    how = (
        f"Write in the next cell, run it, then run the last cell for the verdict. A cell that begins with `{MARK}` is "
        "graded as it was last run; other cells are yours for trying things out."
    )
    made = nbformat.v4.new_notebook()
    made.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "katas": {"kata": kata.name, "framework": framework},
    }
    stub = f"{MARK}: this cell is graded\n{stubs.derive(kata, framework)}".rstrip()
    grading = f'from graders.notebook import report\n\nreport("{kata.name}", "{framework}")'
    made.cells = [
        nbformat.v4.new_markdown_cell(spec),
        nbformat.v4.new_markdown_cell(how),
        nbformat.v4.new_code_cell(stub, metadata={"tags": ["kata"]}),
        nbformat.v4.new_code_cell(grading),
    ]
    return made


def is_marked(cell: str) -> bool:
    return re.match(rf"\s*{MARK}\b", cell) is not None


def plain(cell: str) -> str:
    """A cell's Python: magics become blank lines."""
    if cell.lstrip().startswith("%%"):
        magic, _, body = cell.lstrip().partition("\n")
        return body if magic.split()[0] in PYTHON_CELLS else ""
    try:
        ast.parse(cell)
    except SyntaxError:
        # Only a cell that is not Python by itself can hold magics: `%` also starts a continued line.
        return "\n".join(_indent(line) + "pass" if _magic(line) else line for line in cell.splitlines())
    return cell


def _notebook(path: Path) -> str:
    """The cells that are marked, or tagged 'kata', 'attempt' or 'solution'; or else all code cells."""
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        raise Mismatch(f"{path.name} is not a notebook that nbformat can read: {error}") from error
    code = [cell for cell in cells if cell.cell_type == "code"]
    chosen = [cell for cell in code if is_marked(cell.source) or TAGS & set(cell.metadata.get("tags", ()))]
    return "\n\n".join(plain(cell.source) for cell in chosen or code)


def _magic(line: str) -> bool:
    return line.lstrip().startswith(INSTRUCTION) or line.rstrip().endswith("?")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
