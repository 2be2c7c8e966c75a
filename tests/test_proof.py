"""The proof, discovered for each kata and framework: stubs, solutions, the bug bank, null probes, the tree."""

import ast
import subprocess

import pytest

from graders import bugs, grade, katas, stubs
from graders.catalogue import ROOT
from scripts import derive
from tests.common import OFFERED, name, written

BUGS = [(kata, fw, bug.name) for kata, fw in OFFERED for bug in bugs.bank(kata) if fw in bug.frameworks()]
SEEDS = (1, 2, 3)
ALLOWED = {"spec.md", "stub.py", "stub_jax.py", "stub_numpy.py", ".grader.py", ".bugs.toml", "__pycache__"}


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_the_stub_is_not_started(kata, framework, tmp_path):
    verdict = grade(kata.name, written(tmp_path, stubs.derive(kata, framework)), framework=framework)
    by_level = {check.level: check.outcome for check in verdict.checks}
    assert {check.outcome for check in verdict.checks if check.level == 1} == {"not started"}, verdict.checks
    assert {outcome for number, outcome in by_level.items() if number > 1} <= {"waiting"}, by_level
    assert not verdict.passed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_the_solution_passes(kata, framework, seed):
    verdict = grade(kata.name, kata.solution(framework), framework=framework, seed=seed)
    assert verdict.passed, verdict.first_failure
    assert {check.level for check in verdict.checks} == set(range(1, len(kata.levels) + 1))


@pytest.mark.parametrize(("kata", "framework", "bug"), BUGS, ids=name)
def test_a_bug_is_caught_by_its_check_and_named(kata, framework, bug, tmp_path):
    """First by the check it names, on one seed; by that check on two more."""
    mistake, source = next((b, s) for b, s in bugs.variants(kata, framework) if b.name == bug)
    attempt = written(tmp_path, source)
    caught = grade(kata.name, attempt, framework=framework, seed=SEEDS[0], hint=True).first_failure
    assert caught is not None, "the mistake passes"
    assert (caught.name, caught.outcome) == (mistake.check, "failed"), caught
    assert mistake.says in caught.message, "--hint does not name the mistake"
    for seed in SEEDS[1:]:
        verdict = grade(kata.name, attempt, framework=framework, seed=seed, check=mistake.check)
        assert [check.outcome for check in verdict.checks] == ["failed"], f"seed {seed}: {verdict.checks}"


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_every_check_has_failed_on_something(kata, framework):
    checks = {check.name for check in grade(kata.name, kata.solution(framework), framework=framework).checks}
    caught = {bug.check for bug in bugs.bank(kata) if framework in bug.frameworks()}
    assert caught <= checks, f"no such check: {sorted(caught - checks)}"
    elsewhere = {bug.check for bug in bugs.bank(kata)}
    assert checks <= elsewhere, f"nothing has ever failed: {sorted(checks - elsewhere)}"


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
