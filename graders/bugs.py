"""The bug bank: the usual mistakes as edits of the solution, and which of them an observation matches."""

import math
import time
import tomllib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graders import attempt as attempts
from graders import backends, plugin, stubs
from graders.attempt import Attempt
from graders.catalogue import Kata
from graders.errors import KataError, Mismatch, NotStarted

if TYPE_CHECKING:
    import pytest

    from graders.plugin import Request

AGAIN = 3  # times that a check is repeated with other numbers, to tell mistakes apart
PATIENCE = 4.0  # seconds for the mistakes that other checks are there for: a hint must not outlast the check


@dataclass(frozen=True)
class Edit:
    frameworks: tuple[str, ...]
    find: str
    replace: str


@dataclass(frozen=True)
class Bug:
    """A mistake: how it edits the solution, the check that must catch it first, and what to tell the person.

    hints: for a mistake that the bank does not have, the bugs of the bank whose sentences are true of it as well.
    """

    name: str
    check: str
    says: str
    edits: tuple[Edit, ...]
    hints: tuple[str, ...] = ()

    def frameworks(self) -> set[str]:
        return {framework for edit in self.edits for framework in edit.frameworks}

    def apply(self, source: str, framework: str, where: Path) -> str:
        """The solution with the mistake in it. Raises KataError if an edit does not fit exactly once."""
        for edit in self.edits:
            if framework in edit.frameworks:
                if (count := source.count(edit.find)) != 1:
                    raise KataError(
                        f"{where}: bug '{self.name}' finds its text {count} times, expected once: {edit.find!r}"
                    )
                source = source.replace(edit.find, edit.replace)
        return source


def bank(kata: Kata) -> tuple[Bug, ...]:
    """The kata's bugs. Raises KataError naming the entry that is wrong."""
    return _read(kata.bugs)


def beyond(kata: Kata) -> tuple[Bug, ...]:
    """Mistakes that the bank does not have, none of which a check may pass or a hint misname; see `bank`."""
    return _read(kata.beyond) if kata.beyond.exists() else ()


def _read(path: Path) -> tuple[Bug, ...]:
    try:
        entries: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8")).get("bug", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise KataError(f"{path}: the mistakes do not read: {error}") from error
    return tuple(_bug(entry, path) for entry in entries)


def _bug(entry: dict[str, Any], where: Path) -> Bug:
    try:
        edits = tuple(Edit(tuple(e["frameworks"]), e["find"], e["replace"]) for e in entry["edits"])
        return Bug(entry["name"], entry["check"], entry["says"], edits, tuple(entry.get("hints", ())))
    except (KeyError, TypeError) as error:
        raise KataError(f"{where}: bug '{entry.get('name', '?')}' lacks {error}") from error


def variants(kata: Kata, framework: str) -> Iterator[tuple[Bug, str]]:
    """Each bug of a framework with the edited solution's source."""
    return _applied(bank(kata), kata, framework, kata.bugs)


def variants_beyond(kata: Kata, framework: str) -> Iterator[tuple[Bug, str]]:
    """The same of the mistakes beyond the bank."""
    return _applied(beyond(kata), kata, framework, kata.beyond)


def _applied(bugs: Sequence[Bug], kata: Kata, framework: str, where: Path) -> Iterator[tuple[Bug, str]]:
    source = kata.solution(framework).read_text(encoding="utf-8")
    for bug in bugs:
        if framework in bug.frameworks():
            yield bug, bug.apply(source, framework, where)


def likely(
    problem: Mismatch, item: "pytest.Item", request: "Request", passed: Collection[str] = frozenset()
) -> list[str]:
    """What the bugs say that give the same observation as the person's code; nothing unless that is clear.

    Bugs that name the failing check come first, then the others while there is time; those that give the same are told
    apart by the same check with other numbers, and if more than two remain with different sentences, silence. passed:
    the checks that the code has passed; what they are there for it does not have.
    """
    if problem.observe is None:
        return []
    backend = backends.load(request.framework)
    failing = item.name.removeprefix("test_")
    known = [(bug, source) for bug, source in variants(request.kata, request.framework) if bug.check not in passed]
    own = [(bug, source) for bug, source in known if bug.check == failing]
    for group in (own, [(bug, source) for bug, source in known if bug.check != failing]):
        same = []
        start = time.monotonic()
        with backend.many():
            for bug, source in group:
                if group is not own and time.monotonic() - start > PATIENCE:
                    return []
                variant = _load(source, request, backend)
                if _same(_observe(problem, variant), problem.observed):
                    same.append((bug.says, variant))
            for seed in range(AGAIN):
                several, left = len({says for says, _ in same}) > 1, PATIENCE - (time.monotonic() - start)
                if several and left > 0 and plugin.mark(item)[2] <= plugin.SECONDS:  # nothing is trained
                    mine = _judged(item, item.funcargs["attempt"], seed)
                    same = [known for known in same if _same(_judged(item, known[1], seed), mine)] or same
        if same:
            distinct = list(dict.fromkeys(says for says, _ in same))
            return distinct if len(distinct) <= 2 else []
    return []


def _load(source: str, request: "Request", backend: backends.Backend) -> Attempt:
    signatures = stubs.signatures(request.kata, request.framework)
    home = "cpu" if request.device == "auto" else request.device
    path = Path("<variant>")
    return attempts.load(path, request.kata.name, backend, request.kata.refused, signatures, source=source).on(home)


def _observe(problem: Mismatch, variant: Attempt) -> Any:
    assert problem.observe is not None
    try:
        return problem.observe(variant)
    except NotStarted:
        return None
    except Mismatch as other:
        return other.observed


def _judged(item: Any, attempt: Attempt, seed: int) -> Any:
    """What the check observes of this attempt with numbers of another seed, and in which call; None if it passes."""
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    others = {"attempt": attempt, "rng": np.random.default_rng(seed), "seed": seed}
    try:
        item.obj(**{name: others.get(name, value) for name, value in arguments.items()})
    except Mismatch as problem:
        return problem.observed, tuple(text for label, text in problem.details if label == "called")
    except Exception as problem:
        return type(problem).__name__
    return None


def _same(a: Any, b: Any) -> bool:
    """Two observations agree: equal sentences or numbers, arrays to a few hundred roundings."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        eps = 2.0 ** {8: -45, 4: -16, 2: -5}.get(a.dtype.itemsize, -45)
        finite = np.abs(wide_b[np.isfinite(wide_b)])
        size = float(np.max(finite, initial=0.0)) or 1.0
        return bool(np.allclose(wide_a, wide_b, rtol=0, atol=eps * size, equal_nan=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0.02)
    return type(a) is type(b) and not isinstance(a, np.ndarray) and bool(a == b)
