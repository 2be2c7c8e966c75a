"""The verdict on an attempt, and how people read it."""

import json
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from graders.catalogue import FRAMEWORKS, find

MARKS = {"passed": "✓", "failed": "✗", "waiting": "·", "not started": "○", "error": "!"}
COLOURS = {"passed": "green", "failed": "red", "waiting": "light", "not started": "yellow", "error": "purple"}
Line = tuple[str, dict[str, bool]]  # the text, and how to show it


@dataclass(frozen=True)
class Check:
    """One check's outcome: passed, failed, waiting, not started or error.

    `message` is the whole card, its first line the sentence on what is wrong; `sentence` says what is checked.
    `error` is a fault of the suite or of the machine, never of the attempt.
    """

    name: str
    level: int
    outcome: str
    message: str = ""
    seconds: float = 0.0
    sentence: str = ""

    @property
    def likely(self) -> tuple[str, ...]:
        """The mistakes that the card calls likely: one, or either of two."""
        rows = [row.partition(" ") for row in self.message.splitlines()]
        return tuple(said.strip() for label, _, said in rows if label in ("likely", "or"))


@dataclass(frozen=True)
class Verdict:
    """What one grading found; passed only if every check of the levels asked for passed."""

    kata: str
    attempt: str
    framework: str
    device: str
    seed: int
    checks: tuple[Check, ...]
    replay: str = ""
    output: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.outcome == "passed" for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        wrong = [check for check in self.checks if check.outcome in ("failed", "error", "not started")]
        return wrong[0] if wrong else None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Verdict":
        fields: dict[str, Any] = json.loads(text)
        checks = tuple(Check(**check) for check in fields.pop("checks"))
        return Verdict(**{**fields, "output": tuple(fields["output"]), "checks": checks})


def level_outcome(checks: list[Check]) -> str:
    outcomes = [check.outcome for check in checks]
    if all(outcome == outcomes[0] for outcome in outcomes):
        return outcomes[0]
    return next((o for o in ("error", "failed", "not started") if o in outcomes), "waiting")


def render(verdict: Verdict) -> list[Line]:
    """The report: a line a level, the first failure in full, how to replay it, the file's path last."""
    kata = find(verdict.kata)
    lines: list[Line] = [
        (
            f"{kata.title}, {FRAMEWORKS[verdict.framework]}, {devices(verdict.device)}, seed {verdict.seed}",
            {},
        ),
        ("", {}),
    ]
    for number, group in groupby(verdict.checks, key=lambda check: check.level):
        lines += level_lines(number, kata.levels[number - 1], list(group))
    lines += [("", {}), *closing(verdict)]
    return lines


def devices(device: str) -> str:
    """Where it ran, and what was only simulated."""
    if "stand-in" in device:
        return f"{device} (no accelerator here: parity is simulated)"
    return device


def level_lines(number: int, title: str, checks: list[Check]) -> list[Line]:
    outcome = level_outcome(checks)
    count = sum(check.outcome == "passed" for check in checks)
    said = {"waiting": "waiting", "not started": "not started"}.get(outcome, f"{count} of {len(checks)} checks")
    style = {COLOURS[outcome]: True}
    lines: list[Line] = [(f"  {MARKS[outcome]} level {number}  {title:<24} {said}", style)]
    if outcome in ("failed", "error") or (outcome == "not started" and count):
        shown = [c for c in checks if c.outcome != "passed"]
        lines += [(f"      {MARKS[c.outcome]} {_row(c)}", {COLOURS[c.outcome]: True}) for c in shown[:8]]
        if len(shown) > 8:
            lines.append((f"        and {len(shown) - 8} more", {"light": True}))
    return lines


def _row(check: Check) -> str:
    row = f"{check.name}: {check.sentence or check.outcome}"
    return row if len(row) <= 100 else row[:99] + "…"


def closing(verdict: Verdict) -> list[Line]:
    """The first failure in full, or that there is none, and the file's path last."""
    failure = verdict.first_failure
    path: Line = (verdict.attempt, {"light": True})
    seconds = sum(check.seconds for check in verdict.checks)
    if verdict.passed:
        return [
            (f"passed: {len(verdict.checks)} checks in {seconds:.2f} s", {"green": True, "bold": True}),
            path,
        ]
    if failure is None:
        return [("nothing was graded", {"red": True}), path]
    if failure.outcome == "not started":
        return [(f"not started: {failure.message}", {"yellow": True}), path]
    card = failure.message.splitlines() or ["no message"]
    lines: list[Line] = [(f"{failure.name}: {failure.sentence}", {"bold": True}), (card[0], {"red": True})]
    lines += [(f"  {row}", {}) for row in card[1:]]
    if verdict.output:
        lines += [("  printed", {}), *((f"    {row}", {}) for row in verdict.output)]
    lines += [(f"  replay    {verdict.replay}", {})] if verdict.replay else []
    return [*lines, path]
