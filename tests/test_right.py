"""Right attempts that look nothing like the solutions, written from the specs: none may be refused.

A level that is training is left to `python scripts/seeds.py --right`, which grades them on many seeds.
"""

import pytest

from graders.batch import grade_each
from scripts.seeds import job, right
from tests.common import OFFERED, name


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_right_attempts_pass(kata, framework):
    level = len([level for level in kata.levels_in(framework) if level != "training"])
    jobs = [job(path, seed=1, level=level) for path in right(kata, framework)]
    assert jobs
    for done, checks in grade_each(kata, framework, jobs, whole=True):
        assert checks[-1].outcome == "passed", (done.name, checks[-1])
