"""Shows an attempt beside the reference solution: error, cost, time, code.

    python scripts/compare.py attention
    python scripts/compare.py adam --framework jax --html adam.html
    python scripts/compare.py lora --attempt my.py --give-up

Figures are always shown; the reference's code after a pass of all levels, or with --give-up, which is recorded.
"""

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from graders.catalogue import Kata
    from graders.compare.code import Pair, Spans
    from graders.compare.findings import Findings
    from graders.compare.report import Table as Numbers

EPILOG = "Example: python scripts/compare.py attention --html out.html"
DEVICES = ("auto", "cpu", "cuda")


def main(
    kata: Annotated[str, typer.Argument(help="the kata")],
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy (the file's, or the kata's first)")] = None,
    attempt: Annotated[Path | None, typer.Option(help="this .py or .ipynb instead of the stub")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda: where errors and times are measured")] = "auto",
    seed: Annotated[int | None, typer.Option(help="of the inputs (drawn afresh)")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page with pictures to this file")] = None,
    give_up: Annotated[bool, typer.Option("--give-up", help="show the reference before a pass; recorded")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask whether to give up")] = False,
) -> None:
    """Shows an attempt beside the reference solution: error, cost, time, code.

    Figures are always shown; the reference's code after a pass of all levels, or with --give-up, which is recorded.
    """
    from graders.errors import KataError, Mismatch

    try:
        code = compare(kata, framework, attempt, device, seed, html, give_up=give_up, yes=yes)
    except (KataError, Mismatch, ValueError, OSError) as error:
        sys.stderr.write(f"compare: {error}\n")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def compare(
    name: str,
    framework: str | None,
    attempt: Path | None,
    device: str,
    seed: int | None,
    html: Path | None,
    *,
    give_up: bool,
    yes: bool,
) -> int:
    """The exit code: 0, or 1 where the reference's code is not shown."""
    from rich.console import Console

    from graders import notebook, stubs
    from graders.catalogue import FRAMEWORKS, find
    from graders.compare.measure import measure

    kata = find(name)
    if device not in DEVICES:
        raise ValueError(f"--device {device}: it is one of {', '.join(DEVICES)}")
    framework = framework or (kata.framework_of(attempt) if attempt else kata.frameworks[0])
    if framework not in kata.frameworks:
        raise ValueError(f"{name} is offered in {', '.join(kata.frameworks)}, not in {framework}")
    path = (attempt or kata.stub(framework)).resolve()
    if not path.is_file():
        raise ValueError(f"{attempt}: there is no such file")
    if html and not html.resolve().parent.is_dir():
        raise ValueError(f"--html {html}: there is no folder {html.resolve().parent}")
    source = notebook.source(path)
    seed = random.SystemRandom().randrange(100_000) if seed is None else seed
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
    locked = _lock(console, kata, framework, give_up=give_up, yes=yes)
    console.print(f"[bold]{kata.title}[/], {FRAMEWORKS[framework]}, beside the reference, seed {seed}")
    if locked and stubs.is_untouched(source, kata.name):
        console.print(f"\nnot started: {_short(path)} still has the stub's bodies", markup=False, soft_wrap=True)
        console.print(locked, markup=False)
        return 1
    with _progress(console) as tell:
        findings = measure(kata, framework, path, source, seed=seed, device=device, pictures=bool(html), tell=tell)
    _show(console, kata, findings, source, locked)
    if html:
        from graders.compare.page import render

        html.write_text(render(kata, findings, source, locked=locked), encoding="utf-8")
        console.print(f"\n{html}", markup=False, soft_wrap=True)
    console.print(_short(path), style="dim", markup=False, soft_wrap=True)
    return int(bool(locked))


def _lock(console: "Console", kata: "Kata", framework: str, *, give_up: bool, yes: bool) -> str:
    """Why the reference's code is not shown, or "". Giving up is recorded, once."""
    from graders.catalogue import FRAMEWORKS
    from graders.history import History

    history = History()
    if history.may_see_solution(kata.name, framework):
        return ""
    if give_up and (yes or not sys.stdin.isatty() or _sure(console, kata)):
        history.note("give-up", kata.name, framework, detail="compare")
        return ""
    levels = f"all {len(kata.levels)} levels"
    return (
        f"The reference's code is shown once {levels} pass in {FRAMEWORKS[framework]} "
        f"(pytest katas/{kata.name}), or with --give-up, which is recorded."
    )


def _sure(console: "Console", kata: "Kata") -> bool:
    from graders.practice.keys import agreed

    console.print(f"This shows the reference solution of {kata.title}, and records that you asked for it.")
    return agreed("Show it?")


@contextlib.contextmanager
def _progress(console: "Console") -> Iterator[Callable[[str], None]]:
    """What says what is being measured, in one line that goes away."""
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status("starting", spinner="dots") as status:
        yield status.update


def _show(console: "Console", kata: "Kata", findings: "Findings", source: str, locked: str) -> None:
    from graders.compare import report
    from graders.compare.code import beside

    reference = kata.solution(findings.framework).read_text(encoding="utf-8")
    for numbers in report.tables(findings):
        _numbers(console, numbers)
    for what, said in findings.complaints():
        console.print(f"{what}: {said}", style="red", markup=False)
    console.print()
    for figure in report.summary(findings, source, reference):
        console.print(f"  {figure.label:<22}{figure.value:>10}   [dim]{figure.note}[/]")
    if locked:
        console.print(f"\n{locked}", markup=False)
        return
    for pair in beside(source, reference):
        _pair(console, pair)


def _numbers(console: "Console", numbers: "Numbers") -> None:
    """A table without what only the page has room for; what is wrong has a mark where there is no colour."""
    from rich.table import Table
    from rich.text import Text

    styles = {"": "", "quiet": "dim", "bad": "red", "good": "green"}
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False)
    groups = [heading if i == 0 else "" for heading, span in numbers.groups for i in range(span)]
    shown = [i for i, head in enumerate(numbers.head) if head != "kernel"]
    for i in shown:
        head = f"{groups[i]}\n{numbers.head[i].replace('reference', 'ref.')}"
        table.add_column(head, justify="right" if i else "left", no_wrap=True, header_style="dim")
    plain = console.color_system is None
    for row in numbers.rows:
        cells = [row[i] for i in shown]
        table.add_row(*(Text(c.text + " !" * (plain and c.tone == "bad"), style=styles[c.tone]) for c in cells))
    console.print(f"\n[bold]{numbers.title}[/]")
    console.print(table)
    console.print(numbers.caption, style="dim", markup=False)


def _pair(console: "Console", pair: "Pair") -> None:
    """Two columns of code; what differs in reverse, what one side alone has in its colour."""
    from rich.table import Table

    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), pad_edge=False, show_header=True)
    table.add_column(f"[bold yellow]{pair.yours or '(nothing like it)'}[/]", ratio=1, overflow="fold")
    table.add_column("", width=1)
    table.add_column(f"[bold cyan]{pair.reference or '(nothing like it)'}[/]", ratio=1, overflow="fold")
    marks = {"same": " ", "changed": "~", "yours": "<", "reference": ">"}
    for row in pair.rows:
        alone = row.kind in ("yours", "reference")
        table.add_row(
            _line(row.yours, "yellow" if alone else "", "bold yellow"),
            marks[row.kind],
            _line(row.reference, "cyan" if alone else "", "bold cyan"),
        )
    console.print()
    console.print(table)


def _line(spans: "Spans", style: str, marked: str) -> "Text":
    from rich.text import Text

    return Text.assemble(*((text, marked if mark else style) for text, mark in spans))


def _short(path: Path) -> str:
    from graders.catalogue import ROOT

    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run() -> None:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(epilog=EPILOG)(main)
    app()


if __name__ == "__main__":
    run()
