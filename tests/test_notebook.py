"""An attempt may be a notebook: its tagged cells, or else all its code."""

import subprocess
import sys
import warnings

import nbformat
import pytest
from nbclient import NotebookClient

from graders import find, grade, katas, notebook, stubs
from graders.catalogue import ROOT
from graders.errors import Mismatch
from graders.history import History

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


def test_marked_cells_count_beside_tagged_ones(tmp_path):
    path = saved(tmp_path, ("# kata\na = 1", ()), ("b = 2", ("kata",)), ("c = 3", ()))
    assert notebook.source(path) == "# kata\na = 1\n\nb = 2"


def test_a_notebook_says_its_framework(tmp_path):
    path = tmp_path / "x.ipynb"
    assert notebook.framework(path) is None
    for kata in katas():
        for framework in kata.frameworks:
            nbformat.write(notebook.new(kata, framework), path)
            assert notebook.framework(path) == framework
    path.write_text("[]", encoding="utf-8")
    assert notebook.framework(path) is None
    assert notebook.framework(saved(tmp_path, ("a = 1", ()), file="y.ipynb")) is None


@pytest.mark.parametrize("kata", katas(), ids=lambda kata: kata.name)
def test_a_new_notebook_has_the_spec_the_stub_and_the_report(kata):
    made = notebook.new(kata, kata.frameworks[-1])
    nbformat.validate(made)
    spec, how, stub, grading = made.cells
    assert spec.source.startswith(f"# {kata.title}")
    assert "## Contract" in spec.source
    assert "difficulty:" not in spec.source
    assert "run the last cell" in how.source
    assert stub.metadata.tags == ["kata"]
    assert stub.source == f"# kata: this cell is graded\n{stubs.derive(kata, kata.frameworks[-1])}".rstrip()
    assert grading.source == f'from graders.notebook import report\n\nreport("{kata.name}", "{kata.frameworks[-1]}")'


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("KATAS_STATE", str(tmp_path / "state"))
    return History()


@pytest.fixture(autouse=True)
def _this_suite(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def script(folder, *arguments):
    command = [sys.executable, str(ROOT / "scripts" / "notebook.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def executed(path, *more):
    """Runs it from top to bottom, with further cells at its end, as Jupyter would; the cells' outputs."""
    found = nbformat.read(path, as_version=4)
    found.cells += [nbformat.v4.new_code_cell(source) for source in more]
    client = NotebookClient(found, timeout=240, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    with warnings.catch_warnings(action="ignore"):
        client.execute()
    return [cell.get("outputs", []) for cell in found.cells]


@pytest.mark.filterwarnings("ignore")
def test_it_runs_from_top_to_bottom_and_grades_what_was_run(tmp_path, history):
    """Unedited, then right, then wrong, then asked to replay, in one kernel; and the file by pytest."""
    assert script(tmp_path, "attention", "--framework", "numpy") == (0, "attention_numpy.ipynb\n")
    path = tmp_path / "attention_numpy.ipynb"
    right = f"# kata: this cell is graded\n{SOLUTION}"
    wrong = right.replace("j <= i + offset", "j < i + offset")
    replay = 'report("attention", "numpy", seed=7)'
    *_, unedited, _, first, _, second = executed(path, right, 'report("attention", "numpy")', wrong, replay)
    assert "not started: `attention` still has the stub&#x27;s body" in unedited[0]["data"]["text/html"]
    assert "passed: " in first[0]["data"]["text/html"]
    card = second[0]["data"]["text/plain"]
    assert "✗ level 2  causal attention" in card
    assert 'replay    report("attention", "numpy", seed=7)' in card
    kept = history.runs()
    assert [run.outcome for run in kept] == ["not started", "passed", "failed"]
    assert {run.origin for run in kept} == {"notebook"}
    assert history.text(kept[1]) == right.rstrip()

    edited = nbformat.read(path, as_version=4)
    edited.cells[2].source = wrong
    nbformat.write(edited, path)
    command = [sys.executable, "-m", "pytest", "katas/attention", "--attempt", str(path), "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    by_file, by_kernel = (text.partition("  replay ")[0] for text in (done.stdout, card))
    assert by_file.rstrip() == by_kernel.rstrip(), "the same verdict on the same seed"
    assert [run.failure for run in history.runs()[2:]] == [kept[2].failure] * 2


def test_a_notebook_that_is_there_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.ipynb"
    path.write_text("my work", encoding="utf-8")
    code, said = script(tmp_path, "attention", "--to", "mine.ipynb")
    assert (code, said) == (2, "notebook: mine.ipynb is there already; say --force to overwrite it, or --to FILE\n")
    assert path.read_text(encoding="utf-8") == "my work"
    assert script(tmp_path, "attention", "--to", "mine.ipynb", "--force") == (0, "mine.ipynb\n")
    assert notebook.framework(path) == "torch"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["attention", "--to", "x.py"], "x.py: a notebook's name ends in .ipynb"),
        (["attention", "--to", "no/x.ipynb"], "no/x.ipynb: there is no such folder"),
        (["atention"], "there is no kata 'atention'; did you mean 'attention'?"),
        (["lora", "--framework", "numpy"], "lora is offered in torch, jax, not in numpy"),
    ],
)
def test_what_is_wrong_is_one_clear_line(tmp_path, arguments, said):
    assert script(tmp_path, *arguments) == (2, f"notebook: {said}\n")
