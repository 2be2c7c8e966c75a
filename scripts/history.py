"""Shows what was practised, and what is due again."""

import difflib
import sys
import time
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graders.catalogue import DIFFICULTIES, FRAMEWORKS, Kata, find, katas
from graders.errors import KataError
from graders.history import History, Round, Run
from graders.practice.progress import day, overview
from graders.practice.rounds import clock
from graders.report import MARKS

STATES = {"passed": "green", "failing again": "red", "started": "yellow", "new": "dim"}
OUTCOMES = {"passed": "green", "failed": "red", "out of time": "red", "error": "magenta"}
LONGEST = 90  # characters of a failure

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
# Piped, a line is as long as it has to be.
console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False, markup=False)


@app.command()
def main(
    text: Annotated[
        str | None,
        typer.Argument(help="a kata, for its runs and rounds, or a text to search for", metavar="KATA"),
    ] = None,
    framework: Annotated[str | None, typer.Option(help="this framework alone")] = None,
    due: Annotated[bool, typer.Option("--due", help="what is due again alone")] = False,
    difficulty: Annotated[str | None, typer.Option(help=f"{', '.join(DIFFICULTIES)}")] = None,
    attempt: Annotated[int | None, typer.Option(metavar="N", help="print what run N graded")] = None,
    diff: Annotated[tuple[int, int] | None, typer.Option(metavar="A B", help="what changed from run A to B")] = None,
) -> None:
    """What was practised: each kata's state, attempts, best time, and when it is due again.

    Example: python scripts/history.py --due --difficulty medium

    A kata's name lists its runs and rounds; --attempt 12 prints the text of run 12, --diff 12 15 compares two.
    """
    try:
        _one_of(difficulty, DIFFICULTIES, "--difficulty")
        _one_of(framework, tuple(FRAMEWORKS), "--framework")
        history = History()
        if attempt is not None:
            show_attempt(history, attempt)
        elif diff is not None:
            show_diff(history, *diff)
        elif text is not None and text in {kata.name for kata in katas()}:
            show_kata(history, find(text), framework)
        else:
            show_list(history, text or "", framework, difficulty, due=due)
    except (KataError, ValueError) as problem:
        typer.echo(f"history: {problem}", err=True)
        raise typer.Exit(2) from None


def show_list(history: History, text: str, framework: str | None, difficulty: str | None, *, due: bool) -> None:
    """A line a kata and framework: what was chosen, the most overdue first if only what is due is shown."""
    by_name = {kata.name: kata for kata in katas()}
    chosen = [kata for kata in by_name.values() if _matches(kata, text) and difficulty in (None, kata.difficulty)]
    if text and not any(_matches(kata, text) for kata in by_name.values()):
        find(text)
    now = time.time()
    rows = [row for row in overview(history, chosen) if framework in (None, row.framework)]
    if due:
        rows = sorted((row for row in rows if row.is_due(now)), key=lambda row: row.due or 0.0)
    if not rows:
        console.print("nothing is due" if due else "nothing matches")
        return
    table = _table("kata", "framework", "difficulty", "minutes", "state", "attempts", "best", "last", "due")
    for row in rows:
        kata = by_name[row.kata]
        best, last, again = _time(row.best), ago(row.last, now), ago(row.due, now)
        state = Text(row.state, STATES[row.state])
        table.add_row(
            kata.name, FRAMEWORKS[row.framework], kata.difficulty, str(kata.minutes), state,
            str(row.attempts or "-"), best, last, Text(again, "bold" if row.is_due(now) else ""),
        )  # fmt: skip
    console.print(table)


def show_kata(history: History, kata: Kata, framework: str | None) -> None:
    """Where the kata stands, then its runs, rounds and requests."""
    now = time.time()
    for row in overview(history, [kata]):
        if framework in (None, row.framework):
            count = "1 attempt" if row.attempts == 1 else f"{row.attempts} attempts"
            parts = [count, f"best {_time(row.best)}", f"last {ago(row.last, now)}"]
            said = [FRAMEWORKS[row.framework], row.state, *parts, f"due {ago(row.due, now)}"]
            console.print(Text(f"{kata.title}, " + ", ".join(said)))
    where = {"kata": kata.name, **({"framework": framework} if framework else {})}
    if runs := history.runs(**where):
        table = _table("run", "when", "framework", "by", "outcome", "levels", "seed", "first failure")
        for run in runs:
            levels = "".join(MARKS[level] for level in run.levels) + (f" to {run.asked}" if run.asked else "")
            shown = _outcome(run.outcome), levels, str(run.seed), _short(run.failure)
            table.add_row(str(run.id), when(run.at), FRAMEWORKS[run.framework], run.origin, *shown)
        console.print()
        console.print(table)
    if rounds := history.rounds(**where):
        table = _table("round", "when", "framework", "kind", "outcome", "time", "of", "hints", "what")
        for round in rounds:
            hints = len(history.events(kind="hint", round=round.id))
            time_, of = clock(round.active), f"{round.minutes:g} min" if round.minutes else "-"
            begun = str(round.id), when(round.began), FRAMEWORKS[round.framework], round.kind
            outcome = _outcome(round.outcome or "going on")
            table.add_row(*begun, outcome, time_, of, str(hints or "-"), _mistakes(round))
        console.print()
        console.print(table)
    if events := history.events(**where):
        table = _table("request", "when", "framework", "")
        for event in events:
            table.add_row(event.kind, when(event.at), FRAMEWORKS[event.framework], _short(event.detail))
        console.print()
        console.print(table)


def show_attempt(history: History, number: int) -> None:
    """The text that was graded, alone on stdout so that it can be written to a file; what it is on stderr."""
    run = history.run(number)
    text = history.text(run)
    typer.echo(f"run {run.id}: {_named(run)}", err=True)
    if sys.stdout.isatty():
        from rich.syntax import Syntax

        console.print(Syntax(text, "python", background_color="default", word_wrap=True))
    else:
        sys.stdout.buffer.write(text.encode())


def show_diff(history: History, a: int, b: int) -> None:
    """A unified diff of two attempts."""
    runs = history.run(a), history.run(b)
    before, after = (history.text(run).splitlines() for run in runs)
    old, new = (f"run {run.id}, {_named(run)}" for run in runs)
    lines = list(difflib.unified_diff(before, after, old, new, lineterm=""))
    if not lines:
        typer.echo(f"runs {a} and {b} graded the same text", err=True)
    for i, line in enumerate(lines):
        style = "bold" if i < 2 else {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        console.print(Text(line, style), soft_wrap=True)


def when(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}"


def ago(at: float | None, now: float) -> str:
    """Which day, from today."""
    if at is None:
        return "-"
    return _days(day(at) - day(now))


def _days(days: int) -> str:
    """How far a day is from today."""
    near = {-1: "yesterday", 0: "today", 1: "tomorrow"}
    return near.get(days, f"in {days} days" if days > 0 else f"{-days} days ago")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        right = column in ("minutes", "attempts", "best", "run", "round", "time", "of", "seed", "hints")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "first failure")
    return table


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else clock(seconds)


def _outcome(outcome: str) -> Text:
    return Text(outcome, OUTCOMES.get(outcome, ""))


def _mistakes(round: Round) -> str:
    """What a drill was about and when each mistake was fixed, once it is over."""
    if round.kind != "drill" or round.ended is None:
        return ""
    fixed = round.detail["fixed"]
    names = [mistake["name"] for mistake in round.detail["drill"]["mistakes"]]
    return ", ".join(f"{name} {clock(fixed[name]) if name in fixed else 'not fixed'}" for name in names)


def _named(run: Run) -> str:
    level = f" to level {run.asked}" if run.asked else ""
    return f"{run.kata}, {FRAMEWORKS[run.framework]}, {when(run.at)}, {run.origin}{level}: {run.outcome}"


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _matches(kata: Kata, text: str) -> bool:
    """Every word stands somewhere in what the kata is about."""
    about = " ".join([kata.name, kata.title, kata.track, kata.difficulty, *kata.levels, *kata.frameworks]).lower()
    return all(word in about for word in text.lower().split())


def _one_of(value: str | None, known: tuple[str, ...], option: str) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{option} should be one of {', '.join(known)}, is '{value}'")


if __name__ == "__main__":
    app()
