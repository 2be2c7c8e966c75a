"""The proof, discovered for each kata and framework: stubs, solutions, the bug bank, null probes, the tree."""

import ast
import subprocess

import pytest

from graders import bugs, grade, katas, stubs
from graders.catalogue import ROOT
from scripts import derive, prove
from tests.common import OFFERED, name, written

SEEDS = range(1, 3)
QUICK = 0.3  # seconds
SIZE = 8  # checks in a part, so that the parts run side by side


def by_check(kata, framework):
    """The mistakes that each check is there for."""
    found = {}
    for bug, _ in prove.mistakes(kata, framework):
        found.setdefault(bug.check, []).append(bug.name)
    return list(found.values())


PARTS = [
    (kata, framework, part) for kata, framework in OFFERED for part in range(-(-len(by_check(kata, framework)) // SIZE))
]
FILES = {".grader.py", ".compare.py", ".bugs.toml", ".beyond.toml", ".equivalents.toml"}
ALLOWED = {"spec.md", "stub.py", "stub_jax.py", "stub_numpy.py", *FILES, "__pycache__"}


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_the_stub_is_not_started(kata, framework, tmp_path):
    verdict = grade(kata.name, written(tmp_path, stubs.derive(kata, framework)), framework=framework)
    by_level = {check.level: check.outcome for check in verdict.checks}
    assert {check.outcome for check in verdict.checks if check.level == 1} == {"not started"}, verdict.checks
    assert {outcome for number, outcome in by_level.items() if number > 1} <= {"waiting"}, by_level
    assert not verdict.passed


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_the_solution_passes(kata, framework):
    """By grade(), as a person would have it graded; `scripts/seeds.py` takes more seeds."""
    verdict = grade(kata.name, kata.solution(framework), framework=framework)
    assert verdict.passed, verdict.first_failure
    caught = {bug.check for bug in bugs.bank(kata) if framework in bug.frameworks()}
    checks = {check.name for check in verdict.checks}
    assert caught <= checks, f"no such check: {sorted(caught - checks)}"
    elsewhere = {bug.check for bug in bugs.bank(kata)}
    assert checks <= elsewhere, f"nothing has ever failed: {sorted(checks - elsewhere)}"


@pytest.mark.parametrize(("kata", "framework", "part"), PARTS, ids=name)
def test_each_bug_is_caught_by_its_check_and_named(kata, framework, part):
    """For each check one mistake in full, with --hint, and on one more seed; the others by the check they name.

    In other frameworks than the kata's first, and where a level is training, that one is graded by its check as well;
    of what is slow, the first on one seed alone. `scripts/prove.py` takes every mistake in full and to three seeds.
    """
    groups = by_check(kata, framework)[part * SIZE : (part + 1) * SIZE]
    chosen = [name for group in groups for name in group]
    seen = set()
    for job, complaint in prove.complaints(kata, framework, SEEDS, chosen, solution=False, brief=QUICK):
        assert not complaint, f"{job.name}, seed {job.seed}: {complaint}"
        seen.add(job.name)
    assert seen >= {group[0] for group in groups}


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_the_mistakes_beyond_the_bank_are_others(kata):
    bank, beyond = bugs.bank(kata), bugs.beyond(kata)
    names = [bug.name for bug in (*bank, *beyond)]
    assert len(set(names)) == len(names)
    assert {name for bug in beyond for name in bug.hints} <= {bug.name for bug in bank}
    for framework in kata.frameworks:
        assert len(list(bugs.variants_beyond(kata, framework))) >= 5, f"{kata.name}: too few in {framework}"


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_the_committed_stub_is_current(kata, framework):
    """The stub in the folder may be somebody's work; then the committed one counts."""
    path = kata.stub(framework)
    derived = stubs.derive(kata, framework)
    place = path.relative_to(ROOT).as_posix()
    shown = subprocess.run(["git", "show", f"HEAD:{place}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert derived in (path.read_text(encoding="utf-8"), shown.stdout), f"{place}: run python scripts/derive.py"


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_nothing_else_stands_in_the_folder(kata):
    assert {path.name for path in kata.folder.iterdir()} <= ALLOWED


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_the_spec_has_its_sections(kata):
    text = (kata.folder / "spec.md").read_text(encoding="utf-8")
    for section in ("Contract", "Example", "Complexity", "Refused", "Time", "Sources", "Follow-up questions"):
        assert f"\n## {section}" in text, f"{kata.name}: the spec has no section '{section}'"
    for number in range(1, len(kata.levels) + 1):
        assert f"\n### Level {number}" in text, f"{kata.name}: the contract has no level {number}"


def test_the_grader_gives_no_answer_away():
    for kata in katas():
        tree = ast.parse(kata.grader.read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(module and module.startswith("solutions") for module in imported), kata.grader


def test_readme_table_is_current():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert derive.table() in text, "run python scripts/derive.py"
