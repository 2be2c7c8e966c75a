"""Attempts that compute nothing of what is asked must fail, in every framework a kata is offered in.

A single number is its own mean and its own permutation: where a kata begins with numbers, those probes fail at the
level where arrays come in.
"""

import pytest

from graders.batch import Job, grade_each
from tests.common import OFFERED, name

LIBRARY = {"torch": "torch", "jax": "jax.numpy", "numpy": "numpy"}
PROBES = {
    "zeros": "xp.zeros_like(right)",
    "ones": "xp.ones_like(right)",
    "mean": "xp.zeros_like(right) + right.mean()",
    "NaN": "right * float('nan')",
    "permuted": "right.reshape(-1)[xp.arange(right.size - 1, -1, -1)].reshape(right.shape)",
    "first argument": "args[0]",
    "nothing": "None",
}
# Spoils what each public function, and each public method of a public class, gives: arrays, alone, in tuples or
# dicts, or as the data of the person's own objects.
SPOIL = """

import functools as _functools
import inspect as _inspect
import numbers as _numbers
import sys as _sys
import {library} as xp


def _spoiled(right, args):
    if isinstance(right, (tuple, list)):
        return type(right)(_spoiled(x, args) for x in right)
    if isinstance(right, dict):
        return {{key: _spoiled(x, args) for key, x in right.items()}}
    if type(right).__module__ == __name__ and hasattr(right, "data"):
        right.data = _spoiled(right.data, args)
        return right
    if isinstance(right, _numbers.Number) and not isinstance(right, bool):
        right = xp.asarray(right)
    return {probe} if hasattr(right, "shape") else right


def _probed(function):
    @_functools.wraps(function)
    def call(*args, **options):
        return _spoiled(function(*args, **options), args)
    return call


for _name, _thing in list(vars(_sys.modules[__name__]).items()):
    if _name.startswith("_") or getattr(_thing, "__module__", None) != __name__:
        continue
    if _inspect.isfunction(_thing):
        globals()[_name] = _probed(_thing)
    elif _inspect.isclass(_thing):
        for _method, _function in list(vars(_thing).items()):
            if _inspect.isfunction(_function) and (not _method.startswith("_") or _method in ("__add__", "__mul__")):
                setattr(_thing, _method, _probed(_function))
"""


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_probes_fail(kata, framework):
    right = kata.solution(framework).read_text(encoding="utf-8")
    size = "right.numel()" if framework == "torch" else "right.size"
    jobs = []
    for title, probe in PROBES.items():
        spoil = SPOIL.format(library=LIBRARY[framework], probe=probe.replace("right.size", size))
        jobs.append(Job(title, right + spoil, seed=1))
    for job, checks in grade_each(kata, framework, jobs):
        assert checks[-1].outcome == "failed", f"{job.name}: {checks[-1]}"
        assert checks[-1].message, job.name
