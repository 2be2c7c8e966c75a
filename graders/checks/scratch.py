"""From scratch: what the kata is about is written by the person, not called."""

import sys

from graders.attempt import Attempt
from graders.catalogue import FRAMEWORKS
from graders.checks.cases import Case, Scenario
from graders.errors import Mismatch

PARTS = "write it from its parts, that is the kata"


def check_from_scratch(attempt: Attempt, *cases: Case | Scenario) -> None:
    """None of the calls reaches a refused function, whatever name it was reached by."""

    def observe(other: Attempt) -> str:
        other.watch.used.clear()
        modules = len(sys.modules)
        for case in cases:
            case.trace(other)
        if len(sys.modules) > modules:  # what was imported on the way could not be seen yet
            for case in cases:
                case.trace(other)
        return ", ".join(use.path for use in other.watch.used)

    for line, name in attempt.foreign_imports():
        alone = f"this kata is written in {FRAMEWORKS[attempt.framework]} alone"
        raise Mismatch(
            f"line {line} imports {name}: {alone if name in FRAMEWORKS else PARTS}",
            observe=lambda other: [name for _, name in other.foreign_imports()],
            observed=[name for _, name in attempt.foreign_imports()],
        )
    if observe(attempt):
        use = attempt.watch.used[0]
        name = use.path.rpartition(".")[2]
        where = f" on line {use.line}" if use.line else ""
        raise Mismatch(
            f"{cases[0].name} calls {name}{where}: {PARTS}",
            observe=observe,
            observed=", ".join(use.path for use in attempt.watch.used),
        ).with_details(("refused", use.path))
