"""A verdict in a notebook: graded from what its kernel has run, and shown as HTML."""

import html
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graders import cells, stubs
from graders.catalogue import Kata, find
from graders.errors import KataError
from graders.history import History
from graders.report import Line, Verdict, render
from graders.runner import grade

# Each has a contrast of about 4 or more against white and against the dark themes of Jupyter and VS Code.
COLOURS = {"green": "#2b8a3e", "red": "#d9480f", "yellow": "#a66a00", "purple": "#a64dd6"}
UNSHOWN = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Report:
    """What a cell shows: HTML where that can be shown, else text. verdict: None if nothing was graded."""

    verdict: Verdict | None
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[Line]:
        notes: list[Line] = [(note, {"yellow": True}) for note in self.notes]
        return [*(render(self.verdict) if self.verdict else []), *notes]

    def _repr_html_(self) -> str:
        return page(self.lines)

    def __repr__(self) -> str:
        return "\n".join(text for text, _ in self.lines)


def report(kata: str, framework: str | None, *, level: int | None, seed: int | None, hint: bool) -> Report:
    """Grades what the kernel has run, and keeps the run. Raises KataError for a kata or framework that is not there."""
    found = find(kata)
    framework = found.offered(framework)
    contract = {name for name in stubs.signatures(found, framework) if not name.startswith("_")}
    gathered = cells.gather(executed(), contract)
    if not gathered.cells:
        return Report(None, gathered.notes)
    verdict = _graded(found, framework, gathered.source, level=level, seed=seed, hint=hint)
    notes = list(gathered.notes)
    try:
        history = History()
        history.record(verdict, gathered.source, origin="notebook", asked=level)
        if hint:
            failure = verdict.first_failure
            history.note("hint", kata, framework, detail=failure.name if failure else "")
    except KataError as problem:
        notes.append(f"this run is not in the history: {problem}")
    return Report(verdict, tuple(notes))


def executed() -> list[str]:
    """The inputs of this kernel, as they were typed."""
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = None
    shell: Any = get_ipython() if get_ipython else None
    if shell is None:
        raise KataError("report() grades what a notebook has run; outside of one, use graders.grade()")
    return list(shell.history_manager.input_hist_raw)


def _graded(kata: Kata, framework: str, source: str, *, level: int | None, seed: int | None, hint: bool) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="kata-") as folder:
        path = Path(folder) / "notebook.py"
        path.write_text(source, encoding="utf-8", errors="replace")
        verdict = grade(kata.name, path, framework=framework, level=level, seed=seed, hint=hint)
    asked = f", level={level}" if level else ""
    replay = f'report("{kata.name}", "{framework}"{asked}, seed={verdict.seed})'
    return replace(verdict, attempt="this notebook", replay=replay)


def page(lines: list[Line]) -> str:
    """The report in the colours of the page around it, light or dark; what the person wrote stays text."""
    shown = "\n".join(_span(text, style) for text, style in lines)
    return (
        '<pre style="color: inherit; background: transparent; white-space: pre-wrap; overflow-wrap: anywhere; '
        f'line-height: 1.4; margin: 0">{shown}</pre>'
    )


def _span(text: str, style: dict[str, bool]) -> str:
    safe = html.escape(UNSHOWN.sub("", text))
    rules = [f"color: {colour}" for name, colour in COLOURS.items() if style.get(name)]
    rules += ["font-weight: bold"] if style.get("bold") else []
    rules += ["opacity: 0.7"] if style.get("light") else []
    return f'<span style="{"; ".join(rules)}">{safe}</span>' if rules else safe
