"""Right attempts that look nothing like the solutions, written from the specs: none may be refused.

A level that is training is left to `python scripts/seeds.py --right`, which grades them on many seeds.
"""

import pytest

from graders.batch import grade_each
from scripts.seeds import job, right
from tests.common import OFFERED, name

FILES = [(kata, framework, path) for kata, framework in OFFERED for path in right(kata, framework)]


@pytest.mark.parametrize(("kata", "framework", "path"), FILES, ids=name)
def test_a_right_attempt_passes(kata, framework, path):
    levels = [level for level in kata.levels_in(framework) if level != "training"]
    ((_, checks),) = grade_each(kata, framework, [job(path, seed=1, level=len(levels))], whole=True)
    assert checks[-1].outcome == "passed", checks[-1]
