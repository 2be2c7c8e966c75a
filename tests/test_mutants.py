"""Mechanical mutants: which there are, that each is another program, and that the list of equivalents is current."""

import ast
from functools import cache
from textwrap import dedent

import pytest

from graders import katas
from graders.batch import Job, grade_each
from graders.errors import KataError
from graders.kept import Kept
from graders.mutants import equivalents, mutants
from tests.common import OFFERED, name

FEW = 2
SOURCE = dedent(
    '''
    """A file."""
    import math
    class Layer:
        """A layer."""
        @torch.no_grad()
        def forward(self, x: int = 3) -> int:
            total = x.sum(-1, keepdim=True)
            if not total > 0:
                raise Error()
            total *= math.pi * 2.0
            return total.detach() if self.training else -total
    '''
)


@cache
def of(kata, framework):
    return tuple(mutants(kata.solution(framework).read_text(encoding="utf-8")))


def keys(source):
    return [mutant.key for mutant in mutants(dedent(source))]


def test_each_place_in_turn():
    assert keys(SOURCE) == [
        "Layer.forward: 3 -> 4",
        "Layer.forward: 3 -> 2",
        "Layer.forward: total = x.sum(-1, keepdim=True) -> pass",
        "Layer.forward: x.sum -> x.mean",
        "Layer.forward: -1 -> 1",
        "Layer.forward: 1 -> 2",
        "Layer.forward: 1 -> 0",
        "Layer.forward: drop keepdim=True",
        "Layer.forward: True -> False",
        "Layer.forward: if not total > 0: raise Error() -> if not not total > 0: raise Error()",
        "Layer.forward: not total > 0 -> total > 0",
        "Layer.forward: total > 0 -> total >= 0",
        "Layer.forward: 0 -> 1",
        "Layer.forward: raise Error() -> pass",
        "Layer.forward: total *= math.pi * 2.0 -> pass",
        "Layer.forward: total *= math.pi * 2.0 -> total /= math.pi * 2.0",
        "Layer.forward: math.pi * 2.0 -> math.pi / 2.0",
        "Layer.forward: 2.0 -> 4.0",
        "Layer.forward: total.detach() if self.training else -total -> -total if self.training else total.detach()",
        "Layer.forward: total.detach() -> total",
        "Layer.forward: -total -> total",
        "Layer.forward: drop torch.no_grad()",
    ]


def test_names_that_come_again_are_told_apart():
    assert keys("x = 1 + 1\n") == [
        ": x = 1 + 1 -> pass",
        ": 1 + 1 -> 1 - 1",
        ": 1 -> 2",
        ": 1 -> 0",
        ": 1 -> 2 #2",
        ": 1 -> 0 #2",
    ]


def test_a_context_is_left():
    assert ": with torch.no_grad(): f() -> if True: f()" in keys("with torch.no_grad():\n    f()\n")


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_every_mutant_is_another_program(kata, framework):
    source = kata.solution(framework).read_text(encoding="utf-8")
    found = of(kata, framework)
    assert len({mutant.key for mutant in found}) == len(found)
    same = ast.unparse(ast.parse(source))
    assert [mutant.key for mutant in found if mutant.source == same] == []


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_what_is_called_equivalent_is_a_mutant(kata):
    for (framework, key), why in equivalents(kata).items():
        assert key in {mutant.key for mutant in of(kata, framework)}, f"{framework}: there is no mutant {key!r}"
        assert why.strip(), key


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_mutants_are_caught(kata):
    """A few of the first half of a solution, for what trains stands at its end; `scripts/mutate.py` takes them all."""
    framework = kata.frameworks[0]
    known, found = equivalents(kata), of(kata, framework)
    judged = [mutant for mutant in found[: len(found) // 2] if (framework, mutant.key) not in known]
    few = judged[len(judged) // (2 * FEW) :: len(judged) // FEW][:FEW]
    jobs = [Job(mutant.key, mutant.source, seed=1) for mutant in few]
    assert [job.name for job, checks in grade_each(kata, framework, jobs) if checks[-1].outcome != "failed"] == []


def test_a_list_that_does_not_read_is_named(tmp_path):
    (tmp_path / ".equivalents.toml").write_text("[[equivalent]]\nframeworks = ['torch']\n")

    class Folder:
        folder = tmp_path

    with pytest.raises(
        KataError, match=r"\.equivalents\.toml: the list of equivalent mutants does not read: 'mutants'"
    ):
        equivalents(Folder)


def test_findings_are_kept_and_a_last_line_cut_off_is_left_out(tmp_path):
    path = tmp_path / "kept.jsonl"
    Kept(path, ["adam", 1]).add("a", "passed")
    Kept(path, ["adam", 2]).add("a", "failed")
    with path.open("a") as file:
        file.write('\n["adam", 1, "b", "pas')
    Kept(path, ["adam", 1]).add("c", "failed")
    assert Kept(path, ["adam", 1]).found == {"a": "passed", "c": "failed"}
    assert Kept(path, ["adam", 2]).found == {"a": "failed"}
    assert Kept(path, ["adam", 3]).found == {}
