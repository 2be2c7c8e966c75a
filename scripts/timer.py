"""Times a round at a kata: the spec, the phase, a verdict at each save, and a review at the end."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graders import runner
from graders.errors import KataError
from graders.history import History, Round
from graders.practice import review, rounds
from graders.practice.opening import Choice, choose, unfinished
from graders.practice.rounds import Timed, clock

if TYPE_CHECKING:
    from graders.practice.terminal import Desk

LONGEST = 24 * 60  # minutes
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    kata: Annotated[str, typer.Argument(help="the kata to practise")],
    minutes: Annotated[float | None, typer.Option(help="the length of the round (the kata's own)")] = None,
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy")] = None,
    attempt: Annotated[Path | None, typer.Option(help="grade this .py or .ipynb instead of the stub")] = None,
    level: Annotated[int | None, typer.Option(help="a round up to this level")] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume/--new", help="go on with an unfinished round, or not")
    ] = None,
    scored: Annotated[bool, typer.Option("--review/--no-review", help="score the round afterwards")] = True,
) -> None:
    """Times a round: the spec, the time left and the phase, a verdict at each save, and a review at the end.

    Example: python scripts/timer.py adam --framework numpy --minutes 25

    The clock starts with Enter or with the first save, and counts your own time: it stands in a pause and while a save
    is graded. h gives a hint, p pauses, q stops. Ctrl-C leaves the round unfinished: the next start goes on with it, as
    it does after a crash. Without a terminal, the clock starts at once and keys are typed lines.
    """
    try:
        if minutes is not None and not 0 < minutes <= LONGEST:
            raise KataError(f"--minutes is {minutes:g}, it should be above 0 and at most {LONGEST}")
        choice = choose(kata, framework, attempt, level)
        runner.warm(choice.framework)
        raise SystemExit(practise(choice, History(), minutes, resume, scored=scored))
    except KataError as error:
        typer.echo(f"timer: {error}", err=True)
        raise SystemExit(2) from None


def practise(choice: Choice, history: History, minutes: float | None, resume: bool | None, *, scored: bool) -> int:
    from rich.console import Console

    from graders.practice.loop import Practice
    from graders.practice.terminal import Desk, Ended
    from graders.practice.watching import Watching

    desk, now = Desk(Console(highlight=False)), time.monotonic
    kept = opened(choice, history, desk, resume)
    kata = choice.kata
    timed = Timed.resumed(kept) if kept else Timed(minutes or kata.minutes, choice.level)
    timed.minutes = minutes or timed.minutes
    begun = kept is not None
    engine = Watching(kata, choice.path, choice.framework, desk.inbox.put, level=choice.level, first=begun)
    practice = Practice(choice, history, "timer", engine, timed=timed, kept=kept, from_stub=choice.untouched)
    if kept is None and not practice.from_stub:
        practice.note = f"the file holds work from before; python scripts/reset.py {kata.name} restores it"
    where = {"kata": kata.name, "framework": choice.framework}
    best = rounds.personal_best(history.rounds(**where), history.runs(**where))
    try:
        if not desk.single:
            practice.begin(now())
        desk.play(practice, engine.start)
    except Ended as ended:
        practice.save(now())
        left = f"kept: {clock(timed.elapsed(now()))} of {clock(60 * timed.minutes)}; the next start goes on with it"
        desk.tell([(left if practice.kept else "nothing was begun", {})])
        return ended.code
    finally:
        engine.close()
    practice.save(now())
    if practice.kept is None:
        desk.tell([("nothing was begun", {})])
        return 0
    desk.tell([*rounds.summary(practice.kept, kata, best), (choice.shown_path, {"light": True})])
    if scored:
        score(desk, history, practice.kept)
    return 0


def opened(choice: Choice, history: History, desk: "Desk", resume: bool | None) -> Round | None:
    """The unfinished round that goes on, or None for a new one, after which an unfinished one is ended."""
    kept = unfinished(history, choice)
    if kept is None:
        if resume:
            raise KataError(f"there is no unfinished round of {choice.kata.name} in {choice.shown_path}")
        return None
    at = f"{clock(kept.active)} of {clock(60 * kept.minutes)}"
    if resume is None and desk.single:
        with desk.answers:
            said = desk.ask(f"a round was left unfinished at {at}; go on with it? [Y/n] ")
        resume = (said or "").strip().lower() not in ("n", "no")
    if resume is False:
        history.end(kept, "interrupted")
        desk.tell([(f"the unfinished round is kept as interrupted at {at}; a new one begins", {})])
        return None
    desk.tell([(f"the round goes on at {at}", {})])
    return kept


def score(desk: "Desk", history: History, kept: Round) -> None:
    """Asks for the seven scores, keeping each as it is given; what is weakest, and what to drill."""
    scores: dict[str, int] = {}
    with desk.answers:
        desk.tell([("", {}), ("Score the round, 1 to 5 each; Enter skips, Ctrl-C ends.", {"bold": True})])
        try:
            for signal in review.SIGNALS:
                desk.tell([(f"{signal.name}: {signal.line}", {})])
                given = asked(desk)
                if given is not None:
                    scores[signal.name] = given
                    kept = history.save(replace(kept, detail={**kept.detail, "review": scores}))
        except (KeyboardInterrupt, EOFError):
            desk.tell([("", {})])
    if not scores:
        return
    names = " and ".join(f"{signal.name} ({scores[signal.name]})" for signal in review.weakest(scores))
    desk.tell([("", {}), (f"weakest: {names}", {"bold": True})])
    desk.tell([(f"next, for {s.name}: {drill}", {}) for s, drill in review.drills(scores, kept.kata)])


def asked(desk: "Desk") -> int | None:
    """A score, or None if it is skipped. Raises EOFError when nobody answers any more."""
    while True:
        line = desk.ask("  1-5: ")
        if line is None:
            raise EOFError
        try:
            return review.score(line)
        except ValueError as problem:
            desk.tell([(f"  {problem}", {"yellow": True})])


if __name__ == "__main__":
    app()
