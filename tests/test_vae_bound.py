"""A bound near 0, the difference of two logs: what they lose in rounding is no mistake."""

from graders import find
from graders.batch import Job, grade_each


def test_the_logs_that_cancel_set_the_budget():
    kata = find("vae")
    for framework in kata.frameworks:
        job = Job("the solution", kata.solution(framework).read_text(encoding="utf-8"), 27447, check="iwae_edges")
        ((_, (check,)),) = grade_each(kata, framework, [job], whole=True)
        assert check.outcome == "passed", check.message
