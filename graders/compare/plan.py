"""What a kata compares: calls at several sizes, and pictures of its own. `katas/<name>/.compare.py` gives both."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graders.catalogue import FRAMEWORKS, Kata
from graders.errors import KataError

Data = Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """One thing the kata asks for, made at several sizes.

    make(rng, n) gives a graders.checks Case or Scenario of size n; `grows` says what n is: "T = S". Of a Scenario the
    part that ready(m, **arrays) returns is counted and timed, a function of nothing; without `ready`, neither is.
    accurate: the sizes at which the error is taken, for a kernel that is slow (all). dtypes: those that there are (the
    framework's); cost and time are taken in float32, or in the first of these.
    """

    title: str
    grows: str
    sizes: tuple[int, ...]
    make: Callable[[Any, int], Any]
    ready: Callable[..., Callable[[], Any]] | None = None
    accurate: tuple[int, ...] | None = None
    dtypes: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def error_sizes(self) -> tuple[int, ...]:
        return self.sizes if self.accurate is None else self.accurate

    @property
    def usual(self) -> str:
        """The dtype of cost and time."""
        return self.dtypes[0] if self.dtypes else "float32"


@dataclass(frozen=True)
class Picture:
    """A picture that only this kata has.

    take(m, rng) gives arrays by name of one side, m being graders.native's view of it; it runs where the attempt is
    confined. In place of an array it may give a function of nothing that makes it, which may fail alone.
    draw(figure, yours=..., reference=...) draws both with matplotlib in the colours of graders.compare.drawing; a part
    that failed is missing, a side of which nothing is left is None. alt: what is to be seen, for who cannot see it.
    size: inches. seconds: for one side. draws: the person's code may use the global random number generators.
    """

    title: str
    caption: str
    alt: str
    take: Callable[[Any, Any], Data]
    draw: Callable[..., None]
    size: tuple[float, float] = (9.0, 4.0)
    seconds: float = 5.0
    draws: bool = True
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is compared in one framework."""

    probes: tuple[Probe, ...]
    pictures: tuple[Picture, ...]


def load(kata: Kata, framework: str) -> Plan:
    """The kata's plan; an empty one if it has no `.compare.py`. Raises KataError naming what is wrong with the file."""
    path = kata.folder / ".compare.py"
    if not path.is_file():
        return Plan((), ())
    spec = importlib.util.spec_from_file_location(f"compare_{kata.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        probes = _chosen(module.PROBES, Probe, framework)
        pictures = _chosen(module.PICTURES, Picture, framework)
    except Exception as error:
        raise KataError(f"{path}: does not load: {type(error).__name__}: {error}") from error
    titles = [item.title for item in (*probes, *pictures)]
    if twice := {title for title in titles if titles.count(title) > 1}:
        raise KataError(f"{path}: two are called {sorted(twice)[0]!r} in {framework}")
    return Plan(tuple(probes), tuple(pictures))


def _chosen(items: Sequence[Any], kind: type, framework: str) -> list[Any]:
    if strange := [item for item in items if type(item) is not kind]:
        raise TypeError(f"{strange[0]!r} is no {kind.__name__}")
    for item in items:
        if unknown := sorted(set(item.only) - set(FRAMEWORKS)):
            raise ValueError(f"{item.title!r} is for {unknown[0]!r}, which is no framework")
    return [item for item in items if not item.only or framework in item.only]
