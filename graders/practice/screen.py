"""What a practice looks like: exactly as many lines as the screen has, made anew for each drawing."""

from collections.abc import Iterable
from itertools import groupby

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from graders import report
from graders.catalogue import FRAMEWORKS
from graders.practice import hints
from graders.practice.loop import Practice
from graders.practice.rounds import clock, phases
from graders.report import Line

COLOURS = {"light": "bright_black", "purple": "magenta"}
BLANK = Text("")


class _Left(Heading):
    """A heading that stands at the left."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        self.text.stylize("bold")
        yield self.text


class _Spec(Markdown):
    elements = {**Markdown.elements, "heading_open": _Left}  # noqa: RUF012 - rich declares it so


class Page:
    """The whole screen of a practice at one moment."""

    def __init__(self, practice: Practice, now: float) -> None:
        self.practice, self.now = practice, now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        head, foot = _head(self.practice, self.now, width), _foot(self.practice, width)
        room = max(height - len(head) - len(foot), 0)
        body = _body(self.practice, console, options)
        last = max(len(body) - room, 0)
        self.practice.scroll = min(self.practice.scroll, last)
        at = self.practice.scroll
        body = body[at : at + room] + [[]] * (room - len(body[at : at + room]))
        if room and at < last:
            body[-1] = [Segment(f"… {last - at + 1} more lines: ↓", Style(color="bright_black"))]
        rows = [*_rows(head, console, options), *body, *_rows(foot, console, options)][:height]
        for i, row in enumerate(rows):
            yield from Segment.adjust_line_length(row, width)
            if i < len(rows) - 1:
                yield Segment.line()


def _head(practice: Practice, now: float, width: int) -> list[Text]:
    kata = practice.kata
    title = Text(f"{kata.title}, {FRAMEWORKS[practice.framework]}", "bold")
    lines = [title, *_levels(practice), _status(practice, now), Text("─" * width, "bright_black")]
    if practice.timed:
        left = Text(f"{clock(practice.timed.left(now) + 0.999)} left", _urgency(practice, now))
        left = Text(" paused ", "reverse") + " " + left if practice.timed.paused else left
        title.append(" " * max(width - len(title.plain) - len(left.plain), 1)).append_text(left)
        lines[1:1] = [_phases(practice, now, width)]
    return lines


def _urgency(practice: Practice, now: float) -> str:
    assert practice.timed
    stands = practice.timed.since is None
    return "bright_black" if stands else "bold yellow" if practice.timed.phase(now).name == "edge cases" else "bold"


def _phases(practice: Practice, now: float, width: int) -> Text:
    """The round as a bar: each phase as wide as it is long, with its name in it if that fits."""
    assert practice.timed
    elapsed, total = practice.timed.elapsed(now), 60 * practice.timed.minutes
    here = practice.timed.phase(now).name
    bar = Text()
    for phase in phases(practice.timed.minutes):
        begins, ends = round(width * phase.begins / total), round(width * phase.ends / total)
        wide = max(ends - begins - 1, 0)
        name = phase.name if len(phase.name) < wide else phase.name.partition(" ")[0]
        label = f" {name}"[:wide].ljust(wide)
        filled = min(max(round(width * elapsed / total) - begins, 0), wide)
        colour = "bold" if phase.name == here else "bright_black"
        bar.append(label[:filled], f"{colour} on blue").append(label[filled:], f"{colour} on grey15").append(" ")
    return bar


def _levels(practice: Practice) -> list[Text]:
    """A line a level; of the grading that is under way, as far as it came."""
    verdict, offered = practice.shown, practice.kata.levels_in(practice.framework)[: practice.choice.level]
    if verdict is None:
        return [Text(f"  · level {i}  {name}", "bright_black") for i, name in enumerate(offered, 1)]
    lines: list[Text] = []
    for number, group in groupby(verdict.checks, key=lambda check: check.level):
        first = report.level_lines(number, practice.kata.levels[number - 1], list(group))[0]
        text = styled([first])[0]
        if practice.timed and number in practice.timed.levels:
            text.append(f"   {clock(practice.timed.levels[number])}", "bright_black")
        lines.append(text)
    shown = {check.level for check in verdict.checks}
    rest = [(i, name) for i, name in enumerate(offered, 1) if i not in shown]
    return lines + [Text(f"  · level {i}  {name}", "bright_black") for i, name in rest]


def _status(practice: Practice, now: float) -> Text:
    if practice.busy_since is not None:
        took = f" {now - practice.busy_since:.0f} s" if now - practice.busy_since >= 1 else ""
        passed = sum(check.outcome == "passed" for check in practice.checks.values())
        return Text(f"checking {practice.running}{took}" + (f", {passed} passed so far" if passed else ""), "cyan")
    if practice.note:
        return Text(practice.note, "yellow")
    if practice.timed and not practice.timed.started:
        what, which = ("goes on", "next") if practice.kept else ("starts", "first")
        return Text(f"the clock {what} with Enter, or with your {which} save", "bold cyan")
    if practice.verdict:
        said = "passed" if practice.verdict.passed else "not yet"
        return Text(f"{said}, {practice.seconds:.2f} s after the save", "green" if practice.verdict.passed else "")
    return Text("waiting for a save", "bright_black")


def _foot(practice: Practice, width: int) -> list[Text]:
    keys = ["h hint", "c spec" if practice.page == "card" else "c card", "↑↓ scroll", "r again", "q stop"]
    if practice.timed:
        keys.insert(1, "p go on" if practice.timed.paused else "p pause")
    path = Text(practice.shown_path, "bright_black")
    return [Text("─" * width, "bright_black"), Text("   ".join(keys), "bright_black"), path]


def _body(practice: Practice, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    plain = options.update(height=None)
    if practice.page == "spec":
        return console.render_lines(_Spec(_before_the_start(practice) or hints.spec(practice.kata)), plain, pad=False)
    if practice.shown is None:
        return _rows([Text("nothing was graded yet", "bright_black")], console, plain)
    lines: list[Line] = [(f"hint  {text}", {"yellow": True}) for text in practice.hints[-3:]]
    lines += [("", {})] if lines else []
    return console.render_lines(
        Text("\n").join(styled([*lines, *report.closing(practice.shown)[:-1]])), plain, pad=False
    )


def _before_the_start(practice: Practice) -> str:
    """The page before the clock runs: what is to come, without the contract, whose reading counts."""
    if practice.timed is None or practice.timed.started:
        return ""
    kata, minutes = practice.kata, practice.timed.minutes
    parts = "\n".join(f"- {phase.name}: {clock(phase.ends - phase.begins)}" for phase in phases(minutes))
    go_on = f"{clock(practice.timed.active)} of it are over: this round goes on.\n\n" if practice.timed.active else ""
    levels = ", ".join(kata.levels_in(practice.framework)[: practice.choice.level])
    return (
        f"# {kata.title}\n\n{minutes:g} minutes, {kata.difficulty}: {levels}.\n\n{go_on}"
        f"The clock counts your own time: it stands in a pause and while a save is graded.\n\n{parts}\n\n"
        f"Write in `{practice.shown_path}`, in your own editor; each save is graded. "
        "The spec is shown once the clock runs."
    )


def styled(lines: Iterable[Line]) -> list[Text]:
    """The report's lines in rich's colours."""
    return [Text(text, " ".join(COLOURS.get(name, name) for name, on in style.items() if on)) for text, style in lines]


def _rows(texts: list[Text], console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    """One row a text, cut off at the width."""
    rows = []
    for text in texts:
        text.truncate(options.max_width, overflow="ellipsis")
        rows.append(list(text.render(console)))
    return rows
