"""What may import what, and what may stand where."""

import ast
import os
import subprocess
import sys

import pytest

from graders.catalogue import ROOT

VISIBLE = {"pyproject.toml", "README.md", "LICENSE", "katas", "solutions", "graders", "tests", "scripts"}
GIVEN = {*sys.stdlib_module_names, "torch", "jax", "numpy", "gymnasium"}


def imports(path):
    """The modules that a file imports, at its top or within."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def tops(path):
    return {module.partition(".")[0] for module in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "solutions").glob("*.py")), ids=lambda p: p.name)
def test_solutions_import_nothing_of_ours(path):
    assert tops(path) <= GIVEN, f"{path.name} imports {tops(path) - GIVEN}"


@pytest.mark.parametrize("path", sorted((ROOT / "graders").rglob("*.py")), ids=lambda p: p.name)
def test_graders_import_neither_solutions_nor_katas_nor_scripts(path):
    assert not tops(path) & {"solutions", "katas", "scripts", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "katas").glob("*/.grader.py")), ids=lambda p: p.parent.name)
def test_a_grader_calls_the_attempt_through_the_door_alone(path):
    assert not tops(path) & {"solutions", "scripts", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "graders" / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_are_numpy_at_their_top(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    top = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    assert not top & {"torch", "jax"}, f"{path.name} imports {top} whatever is graded"


def test_the_top_level_stays():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    stand = {line.partition("/")[0] for line in listed.splitlines()}
    assert {name for name in stand if not name.startswith(".")} <= VISIBLE


@pytest.mark.parametrize(
    ("framework", "absent"),
    [
        ("numpy", ("torch", "jax", "gymnasium")),
        ("torch", ("jax", "gymnasium")),
        ("jax", ("torch", "gymnasium")),
    ],
)
def test_only_the_graded_framework_is_imported(framework, absent):
    code = f"""
import sys
from graders import session, server
server._warm({framework!r})
loaded = [name for name in {absent!r} if name in sys.modules]
sys.exit(f"imported: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_persons_own_flags_of_xla_come_last():
    code = "import graders.backends.jax, os, jax; print(jax.jit(lambda x: x + 1)(1), os.environ['XLA_FLAGS'])"
    own = "--xla_cpu_use_fusion_emitters=true"
    environment = {**os.environ, "XLA_FLAGS": own, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "2"
    assert done.stdout.split()[-1] == own
