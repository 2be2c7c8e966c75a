"""The README's figures: a cell is there if all that it speaks of was graded."""

import importlib

import pytest

from graders import find
from graders.catalogue import ROOT

KATA, FRAMEWORK = find("adam"), "numpy"


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """The program, with nothing kept yet."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("figures")
    for program in (module.prove, module.mutate, module.seeds, module.hints):
        monkeypatch.setattr(program, "KEPT", tmp_path / f"{program.__name__}.jsonl")
    return module


def test_nothing_graded(figures, capsys):
    assert figures.row(KATA, FRAMEWORK) == ("Adam", "NumPy", *["-"] * 6)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "missing: python scripts/prove.py adam --framework numpy"
    assert len(said) == 6


def test_mistakes(figures):
    names = [figures.prove.SOLUTION, *(bug.name for bug, _ in figures.prove.mistakes(KATA, FRAMEWORK))]
    kept = figures.prove.kept(KATA, FRAMEWORK)
    for name in names[:-1]:
        kept.add(figures.prove.key(name, 1), "")
    assert figures.mistakes(KATA, FRAMEWORK) == "-"
    kept.add(figures.prove.key(names[-1], 1), "")
    assert figures.mistakes(KATA, FRAMEWORK) == f"{len(names) - 1} of {len(names) - 1}"
    kept.add(figures.prove.key(names[-1], 2), "it passes")
    assert figures.mistakes(KATA, FRAMEWORK) == f"{len(names) - 2} of {len(names) - 1}"


def test_mutants(figures):
    keys = [mutant.key for mutant in figures.mutants(KATA.solution(FRAMEWORK).read_text(encoding="utf-8"))]
    kept = figures.mutate.kept(KATA, FRAMEWORK)
    for key in keys[1:]:
        kept.add(key, "failed")
    assert figures.mutated(KATA, FRAMEWORK) == "-"
    kept.add(keys[0], "passed")
    assert figures.mutated(KATA, FRAMEWORK) == f"{len(keys) - 1} of {len(keys)}"


def test_false_alarms(figures):
    one, *others = paths = figures.seeds.right(KATA, FRAMEWORK)
    for path, level, seeds in (
        (one, None, 3),
        *((path, None, 2) for path in others),
        *((path, 3, 5) for path in paths),
    ):
        for seed in range(seeds):
            figures.seeds.kept(KATA, FRAMEWORK, path, level).add(seed, "")
    assert figures.right_attempts(KATA, FRAMEWORK) == f"0 in {len(paths)} x 2; 0 in {len(paths)} x 5 to level 3"
    figures.seeds.kept(KATA, FRAMEWORK, one).add(2, "refused")
    assert figures.right_attempts(KATA, FRAMEWORK).startswith("1 in ")
    assert figures.solution(KATA, FRAMEWORK) == "-"


def test_hints(figures):
    names = [bug.name for bug in figures.bugs.bank(KATA) if FRAMEWORK in bug.frameworks()]
    kept = figures.hints.kept(KATA, FRAMEWORK)
    for name in names[1:]:
        kept.add(name, ("named", ""))
    assert figures.named(KATA, FRAMEWORK) == "-"
    kept.add(names[0], ("misnamed", ""))
    assert figures.named(KATA, FRAMEWORK) == f"{len(names) - 1} of {len(names)}"
    assert figures.pairs(KATA, FRAMEWORK) == "-"
    kept.add("one + other", ("named", ""))
    kept.add("one + third", ("silent", ""))
    assert figures.pairs(KATA, FRAMEWORK) == "1 of 2, 1 silent"


def test_other_katas_keep_their_rows(figures):
    offered = [(kata.title, figures.FRAMEWORKS[framework]) for kata in figures.katas() for framework in kata.frameworks]
    rows = "\n".join(f"| {title} | {framework} | 1 of 1 |" for title, framework in offered)
    table = figures.table([KATA], f"<!-- figures -->\n{rows}\n<!-- end of figures -->\n{rows}")
    for line, (title, framework) in zip(table.splitlines()[2:], offered, strict=True):
        cells = ["-"] * 6 if title == KATA.title else ["1 of 1"]
        assert line == f"| {' | '.join([title, framework, *cells])} |"
