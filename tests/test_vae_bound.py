"""A likelihood of one pixel, a bound near 0: what large terms lose in rounding where they cancel is no mistake."""

import pytest

from graders import find
from graders.batch import Job, grade_each


@pytest.mark.parametrize(("check", "seed"), [("elbo_edges", 200067), ("iwae_edges", 27447)])
def test_what_cancels_sets_the_budget(check, seed):
    kata = find("vae")
    for framework in kata.frameworks:
        job = Job("the solution", kata.solution(framework).read_text(encoding="utf-8"), seed, check=check)
        ((_, (found,)),) = grade_each(kata, framework, [job], whole=True)
        assert found.outcome == "passed", found.message
