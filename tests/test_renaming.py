"""Local variables under other names: the same program, and nothing of what others call by name is renamed."""

import ast
from textwrap import dedent

import pytest

from graders import katas
from graders.batch import Job, grade_each
from graders.renaming import renamed
from tests.common import name

SOURCE = dedent(
    '''
    import math
    total = 7

    def outer(x, *, scale=1.0):
        """Doc."""
        y = x * scale
        total = [y + i for i in range(3)]

        def inner(z):
            nonlocal y
            part = z + y
            return part

        return inner(sum(total)) + math.pi

    class Layer:
        width = 3

        def __init__(self, width):
            half = width // 2
            self.half = half

        def grow(self):
            global total
            total = total + 1
            return total
    '''
)


def words(source):
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def test_what_is_assigned_in_a_function_alone_is_renamed():
    gone = words(SOURCE) - words(renamed(SOURCE, 1))
    assert gone == {"i", "part", "half"}  # y is shared by two scopes, total is the module's as well


def test_it_computes_the_same():
    found = []
    for source in (SOURCE, renamed(SOURCE, 1)):
        space = {}
        exec(source, space)
        found.append((space["outer"](2.0, scale=3.0), space["Layer"](9).half, space["Layer"].width))
    assert found[0] == found[1]


def test_the_seed_decides_the_names():
    assert renamed(SOURCE, 1) == renamed(SOURCE, 1) != renamed(SOURCE, 2)


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_a_solution_under_other_names_passes(kata):
    framework = kata.frameworks[0]
    source = renamed(kata.solution(framework).read_text(encoding="utf-8"), 1)
    ((_, checks),) = grade_each(kata, framework, [Job("renamed", source, seed=1, level=2)])
    assert checks[-1].outcome == "passed", checks[-1]
