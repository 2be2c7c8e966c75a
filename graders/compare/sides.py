"""What every measurement of a side needs: the same inputs, its own module, a sentence where it fails."""

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from graders.attempt import Attempt
from graders.compare.plan import Probe
from graders.errors import Mismatch, NotStarted

Found = Iterator[tuple[str, Any]]  # (side, result or sentence)


def draws(title: str, seed: int, n: int = 0) -> np.random.Generator:
    """Random numbers of one probe and size: the same for both sides, in each kind of measurement."""
    return np.random.default_rng([seed, zlib.crc32(title.encode()), n])


def case_of(probe: Probe, n: int, seed: int) -> Any:
    return probe.make(draws(probe.title, seed, n), n)


def said(measure: Callable[[], Any]) -> Any:
    """What is measured, or a sentence on why it cannot be."""
    try:
        return measure()
    except NotStarted as stub:
        return f"`{stub}` still has the stub's body"
    except Mismatch as problem:
        where = next((text for label, text in problem.details if label == "at"), "")
        return problem.summary + (f" ({where.splitlines()[-1]})" if where else "")


@contextmanager
def active(attempt: Attempt) -> Iterator[None]:
    """Its module is the one that pickling and dataclasses find under its name."""
    sys.modules[attempt.module.__name__] = attempt.module
    yield
