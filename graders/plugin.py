"""The pytest plugin: options, which checks run, where they run, and the report."""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook

from graders import notebook
from graders.catalogue import FRAMEWORKS, ROOT, Kata, find
from graders.errors import KataError

DEVICES = ("auto", "cpu", "cuda", "stand-in")
SECONDS = 10.0


def level(number: int, *, only: tuple[str, ...] = (), seconds: float = SECONDS) -> pytest.MarkDecorator:
    """Marks a check: the level it belongs to, the frameworks that have it (all), and its time limit."""
    return pytest.mark.level(number, only=only, seconds=seconds)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("katas", "grading katas")
    group.addoption("--framework", choices=FRAMEWORKS, help="grade the stub of this framework")
    group.addoption("--attempt", metavar="FILE", help="grade this .py or .ipynb instead of the stub")
    group.addoption("--solution", action="store_true", help="grade the reference solution")
    group.addoption("--device", choices=DEVICES, default="auto", help="where to grade (default: auto)")
    group.addoption("--level", type=int, metavar="N", help="grade up to level N")
    group.addoption("--seed", type=int, metavar="N", help="replay the run with this seed")
    group.addoption("--hint", action="store_true", help="name the likely mistake")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "level(number, only, seconds): the level a check belongs to")
    if config.option.attempt and config.option.solution:
        raise pytest.UsageError("--attempt and --solution exclude each other")
    if config.option.attempt and not Path(config.option.attempt).is_file():
        raise pytest.UsageError(f"--attempt {config.option.attempt}: there is no such file")
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(100_000)
    paths = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if paths and all(path.is_relative_to(ROOT / "katas") for path in paths):
        if config.getoption("numprocesses", None):
            raise pytest.UsageError("katas are graded in one process each: run them without -n")
        # Graders raise, they do not assert: rewriting the assertions of all that is imported would cost a second.
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AssertionRewritingHook)]
        from graders.reporter import install

        install(config)


@dataclass(frozen=True)
class Request:
    """What is graded: one kata's attempt in one framework, and how."""

    kata: Kata
    framework: str
    path: Path
    device: str
    seed: int
    hint: bool
    replay: str
    level: int | None
    source: str | None = None  # the attempt's text, where it stands in no file
    lifted: bool = False  # nothing is refused: for the frameworks' own kernels, in the suite's own tests

    def arguments(self) -> list[str]:
        """A pytest run that grades the same."""
        options = [f"--framework={self.framework}", f"--attempt={self.path}", f"--device={self.device}"]
        options += [f"--seed={self.seed}", *(["--hint"] if self.hint else [])]
        return [str(self.kata.grader), *options, *([f"--level={self.level}"] if self.level else [])]

    @staticmethod
    def of(kata: Kata, config: pytest.Config) -> "Request":
        option = config.option
        framework = option.framework or _framework(kata, Path(option.attempt or "stub.py"))
        if framework not in kata.frameworks:
            raise pytest.UsageError(f"{kata.name} is offered in {', '.join(kata.frameworks)}, not in {framework}")
        levels = len(kata.levels_in(framework))
        if option.level is not None and not 1 <= option.level <= levels:
            said = f"{kata.name} has {levels} in {FRAMEWORKS[framework]}"
            raise pytest.UsageError(f"there is no level {option.level}: {said}")
        stub = kata.solution(framework) if option.solution else kata.stub(framework)
        path = Path(option.attempt).resolve() if option.attempt else stub
        if not path.is_file():
            raise pytest.UsageError(f"{path}: there is no such file")
        chosen = {"--framework": option.framework, "--attempt": option.attempt, "--level": option.level}
        words = [
            "pytest",
            f"katas/{kata.name}",
            *(f"{key} {value}" for key, value in chosen.items() if value),
        ]
        words += ["--solution"] if option.solution else []
        words += [f"--device {option.device}"] if option.device != "auto" else []
        replay = " ".join([*words, f"--seed {option.seed}"])
        return Request(kata, framework, path, option.device, option.seed, option.hint, replay, option.level)


def _framework(kata: Kata, attempt: Path) -> str:
    """What a notebook says it is written in, or the framework that the file's name ends in."""
    said = notebook.framework(attempt) if attempt.suffix == ".ipynb" else None
    return said if said in kata.frameworks else kata.framework_of(attempt)


def is_check(item: pytest.Item) -> bool:
    return item.path.name == ".grader.py"


def mark(item: pytest.Item) -> tuple[int, tuple[str, ...], float]:
    found = item.get_closest_marker("level")
    if found is None:
        raise KataError(f"{item.path}: {item.name} has no level; mark it with @level(1)")
    return found.args[0], found.kwargs["only"], found.kwargs["seconds"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the checks of the framework and the levels asked for, level by level."""
    checks = [item for item in items if is_check(item)]
    if not checks:
        return
    requests: dict[str, Request] = {}
    dropped = _not_offered(checks, config.option.framework)
    for item in [item for item in checks if item not in dropped]:
        name = item.path.parent.name
        requests[name] = requests.get(name) or Request.of(find(name), config)
        number, only, _ = mark(item)
        if (only and requests[name].framework not in only) or number > (config.option.level or number):
            dropped.append(item)
    order = list(requests)
    kept = sorted(
        (item for item in checks if item not in dropped),
        key=lambda item: (order.index(item.path.parent.name), mark(item)[0]),
    )
    config.hook.pytest_deselected(items=dropped)
    others = [item for item in items if not is_check(item)]
    items[:] = [*others, *kept]
    from graders.session import Grading

    config.pluginmanager.register(Grading(session, requests), "kata-grading")


def _not_offered(checks: list[pytest.Item], framework: str | None) -> list[pytest.Item]:
    """Of several katas, the checks of those that are not offered in the framework; one alone is refused by name."""
    offered = {item.path.parent.name: find(item.path.parent.name).frameworks for item in checks}
    without = {name for name, frameworks in offered.items() if framework and framework not in frameworks}
    return [item for item in checks if item.path.parent.name in without] if len(without) < len(offered) else []


@pytest.fixture
def attempt(request: pytest.FixtureRequest) -> Any:
    """The person's code; each call goes through the door."""
    return request.config.stash[ATTEMPT]()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed."""
    return int(request.config.option.seed)


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> Any:
    """Random numbers of this check alone: the same whichever other checks run."""
    import zlib

    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(request.node.name.encode())])


ATTEMPT: pytest.StashKey[Any] = pytest.StashKey()


@pytest.fixture
def places(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Where parity is checked: every real device, the stand-in where there is none, JAX's transformations."""
    return request.config.stash[PLACES]


PLACES: pytest.StashKey[tuple[str, ...]] = pytest.StashKey()
