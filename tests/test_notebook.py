"""An attempt may be a notebook: its tagged cells, or else all its code."""

import nbformat
import pytest

from graders import find, grade, notebook
from graders.errors import Mismatch

SOLUTION = find("attention").solution("numpy").read_text(encoding="utf-8")


def saved(folder, *cells, file="attempt.ipynb"):
    """Cells are (source, tags)."""
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_markdown_cell("# Notes\n\nnot code(")]
    for source, tags in cells:
        made.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)}))
    path = folder / file
    nbformat.write(made, path)
    return path


def test_all_code_cells_count_if_none_is_tagged(tmp_path):
    assert notebook.source(saved(tmp_path, ("a = 1", ()), ("b = 2", ()))) == "a = 1\n\nb = 2"


@pytest.mark.parametrize("tag", ["kata", "attempt", "solution"])
def test_tagged_cells_alone_count(tmp_path, tag):
    assert notebook.source(saved(tmp_path, ("a = 1", ()), ("b = 2", (tag, "other")))) == "b = 2"


@pytest.mark.parametrize(
    ("cell", "left"),
    [
        ("%matplotlib inline\na = 1", "pass\na = 1"),
        ("!pip install x\na = 1", "pass\na = 1"),
        ("if True:\n    %time a = 1", "if True:\n    pass"),
        ("a = 1\nnp.dot?", "a = 1\npass"),
        ("%%time\na = 1", "a = 1"),
        ("%%bash\nls", ""),
        ("a = 7\nb = (a\n% 3)", "a = 7\nb = (a\n% 3)"),
    ],
)
def test_magics_are_ignored(tmp_path, cell, left):
    assert notebook.source(saved(tmp_path, (cell, ()))) == left


def test_a_notebook_is_graded(tmp_path):
    half = SOLUTION.index("def causal_attention")
    path = saved(tmp_path, ("%load_ext autoreload", ()), (SOLUTION[:half], ()), (SOLUTION[half:], ()))
    assert grade("attention", path, framework="numpy").passed


def test_what_is_no_notebook_is_said(tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(Mismatch, match=r"x\.ipynb is not a notebook that nbformat can read"):
        notebook.source(path)
    verdict = grade("attention", path, framework="numpy")
    assert verdict.first_failure.outcome == "failed"


def test_what_is_no_text_is_said(tmp_path):
    path = tmp_path / "x.py"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(Mismatch, match=r"x\.py is not UTF-8 text"):
        notebook.source(path)
