"""Attempts that compute nothing of what is asked must fail, in every framework a kata is offered in."""

import pytest

from graders import grade
from tests.common import OFFERED, name, written

LIBRARY = {"torch": "torch", "jax": "jax.numpy", "numpy": "numpy"}
PROBES = {
    "zeros": "xp.zeros_like(right)",
    "ones": "xp.ones_like(right)",
    "mean": "xp.zeros_like(right) + right.mean()",
    "NaN": "right * float('nan')",
    "permuted": "right[..., {reverse}]",
    "first argument": "args[0]",
    "nothing": "None",
}


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_a_probe_fails(kata, framework, probe, tmp_path):
    """Each public function's result is replaced by the probe; `right` is what the solution gives."""
    reverse = "xp.arange(right.shape[-1] - 1, -1, -1)"
    probe_source = PROBES[probe].format(reverse=reverse)
    source = kata.solution(framework).read_text(encoding="utf-8") + f"""

import functools
import inspect
import sys
import {LIBRARY[framework]} as xp


def _probed(function):
    @functools.wraps(function)
    def call(*args, **options):
        right = function(*args, **options)
        return {probe_source} if hasattr(right, "shape") else right
    return call


for _name, _function in list(vars(sys.modules[__name__]).items()):
    if inspect.isfunction(_function) and _function.__module__ == __name__ and not _name.startswith("_"):
        globals()[_name] = _probed(_function)
"""
    verdict = grade(kata.name, written(tmp_path, source), framework=framework, level=1)
    assert not verdict.passed
    assert verdict.first_failure.outcome == "failed", verdict.first_failure
