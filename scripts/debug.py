"""A debugging drill: find and fix the mistakes in somebody else's code."""

import contextlib
import os
import queue
import random
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from graders.catalogue import FRAMEWORKS, Kata, find
from graders.errors import KataError
from graders.history import History
from graders.practice.keys import Answers, agreed
from graders.practice.rounds import clock

CODES = {"bold": "1", "light": "2", "red": "31", "green": "32", "yellow": "33", "purple": "35"}
TICK = 0.2  # seconds
KEEP = 2.0  # seconds between two times that the clock is kept
KEYS = "q gives up and shows the mistakes, l leaves and goes on later"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="the kata", metavar="KATA")],
    number: Annotated[int, typer.Option("--bugs", metavar="N", help="how many mistakes")] = 2,
    seed: Annotated[int | None, typer.Option(metavar="S", help="the same mistakes again")] = None,
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy; the kata's first")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write the code")] = None,
    new: Annotated[bool, typer.Option("--new", help="leave the drill that was begun, and begin another")] = False,
) -> None:
    """Writes an implementation with mistakes in it; you fix them, and each save is graded.

    Example: python scripts/debug.py attention --framework numpy --bugs 2

    The time to fix each mistake is kept. A drill that was not ended goes on at the next start. q or Ctrl-C gives up;
    either way you are told what the mistakes were.
    """
    try:
        kata = find(name)
        framework = kata.offered(framework)
        show(f"{kata.title}, {FRAMEWORKS[framework]}: a debugging drill", bold=True)
        drilling = prepared(kata, framework, History(), number, seed, to, new=new)
        outcome = practise(drilling)
    except KataError as problem:
        typer.echo(f"debug: {problem}", err=True)
        raise typer.Exit(2) from None
    except OSError as problem:
        typer.echo(f"debug: {problem}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if outcome == "passed" else 1)


def prepared(
    kata: Kata, framework: str, history: History, number: int, seed: int | None, to: Path | None, *, new: bool
) -> Any:
    """The drill that goes on, or another one."""
    from graders.practice import drill, drilling

    going = drilling.resume(kata, framework, history)
    if going and not new:
        if to or seed is not None:
            raise KataError(
                f"a drill is under way in {going.round.attempt}; go on without --to and --seed, or say --new"
            )
        done = f"{len(going.fixed)} of {len(going.drill.mistakes)} fixed"
        show(f"going on with the drill that was begun, at {clock(going.round.active)}, {done}; --new begins another")
        return going
    if to:
        drilling.refuse(to)
        if to.exists() and not _asked(to):
            raise typer.Exit(1)
    if not history.may_see_solution(kata.name, framework):
        show(f"note: the code shows most of a solution of {kata.name}, which you have not passed yet", yellow=True)
    show(f"choosing {number} mistakes that show together", light=True)
    seed = random.SystemRandom().randrange(100_000) if seed is None else seed
    chosen = drill.choose(kata, framework, number, seed)
    if going:
        going.end("interrupted", time.monotonic())
    return drilling.begin(kata, framework, chosen, to or drilling.place(kata, framework), history)


def practise(drilling: Any) -> str:
    """Grades each save until the drill is passed, given up or left; how it ended."""
    from graders.practice.watching import Checking, Event, Gone, Graded, Trouble, Watching

    events: queue.Queue[Event] = queue.Queue()
    count = len(drilling.drill.mistakes)
    show(f"{count} mistakes were put into this file; find them, fix them, save. {KEYS}")
    show(str(drilling.path))
    watching = Watching(drilling.kata, drilling.path, drilling.round.framework, events.put).start()
    outcome = ""
    try:
        with keys() as pressed, Answers() as answers:
            drilling.run(time.monotonic())
            kept = time.monotonic()
            while not outcome:
                now = time.monotonic()
                if now - kept > KEEP:
                    drilling.keep(now)
                    kept = now
                key = pressed()
                outcome = "stopped" if answers.pressed.is_set() else {"q": "stopped", "l": "left"}.get(key, "")
                status(f"{clock(drilling.elapsed(now))}  {len(drilling.fixed)} of {count} fixed")
                with contextlib.suppress(queue.Empty):
                    event = events.get(timeout=TICK)
                    if isinstance(event, Checking):
                        drilling.stand(time.monotonic())
                        show(f"{clock(drilling.round.active)}  checking", light=True)
                    elif isinstance(event, Graded):
                        graded(drilling, event)
                        outcome = "passed" if event.verdict.passed else outcome
                        drilling.run(time.monotonic())
                    elif isinstance(event, Gone | Trouble):
                        said = event.text if isinstance(event, Trouble) else "is not there; graded when it is back"
                        show(f"{drilling.path.name}: {said}", yellow=True)
                        drilling.run(time.monotonic())
    finally:
        watching.close()
        status("")
        now = time.monotonic()
        if outcome in ("passed", "stopped"):
            drilling.end(outcome, now)
        else:
            drilling.keep(now)
    closing(drilling, outcome)
    return outcome


def graded(drilling: Any, event: Any) -> None:
    """Shows a verdict and how many mistakes are fixed."""
    from graders.report import render

    for text, style in render(event.verdict):
        show(text, **style)
    before = set(drilling.fixed)
    drilling.graded(event.verdict, event.source)
    count, fixed = len(drilling.drill.mistakes), len(drilling.fixed)
    for _ in set(drilling.fixed) - before:
        show(f"a mistake is fixed after {clock(drilling.round.active)}", green=True)
    for _ in before - set(drilling.fixed):
        show("a mistake that was fixed is back", red=True)
    own = fixed == count and not event.verdict.passed
    show(f"{fixed} of {count} mistakes fixed" + ("; what fails now is none of them" if own else ""))
    show("")


def closing(drilling: Any, outcome: str) -> None:
    """What the mistakes were, where, and the time to fix each; nothing of it if the drill goes on."""
    if outcome not in ("passed", "stopped"):
        show("the drill is kept as it is; the same command goes on")
        return
    total = clock(drilling.round.active)
    show("")
    show(f"all fixed in {total}" if outcome == "passed" else f"given up after {total}", bold=True)
    for mistake in drilling.drill.mistakes:
        seconds = drilling.fixed.get(mistake.name)
        show("")
        show(f"{mistake.name}: " + (f"fixed after {clock(seconds)}" if seconds is not None else "not fixed"), bold=True)
        show(f"  {mistake.says}")
        show(f"  found by the check {mistake.check}", light=True)
        for hunk in mistake.hunks:
            show(f"  {drilling.drill.place(hunk)} of the file as it was given")
            for line in drilling.drill.lines()[hunk.start : hunk.stop]:
                show(f"    - {line}", red=True)
            for line in hunk.right:
                show(f"    + {line}", green=True)
    show("")
    show(str(drilling.path))


def show(text: str, **style: bool) -> None:
    """A line; coloured on a terminal."""
    codes = ";".join(code for name, code in CODES.items() if style.get(name))
    if not sys.stdout.isatty():
        print(text, flush=True)
    elif codes and "NO_COLOR" not in os.environ:
        print(f"\r\x1b[K\x1b[{codes}m{text}\x1b[0m", flush=True)
    else:
        print(f"\r\x1b[K{text}", flush=True)


def status(text: str) -> None:
    """The line under the others, on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()


@contextlib.contextmanager
def keys() -> Iterator[Any]:
    """A function that gives the key that was pressed, or ""; the terminal is as it was afterwards."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    if not sys.stdin.isatty() or os.name == "nt":
        yield _typed if os.name != "nt" else lambda: ""
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _typed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _typed() -> str:
    """The first letter of what came since it was last asked; without a terminal, of what was written to the input."""
    ready = select.select([sys.stdin], [], [], 0)[0]
    return os.read(sys.stdin.fileno(), 1024).decode(errors="replace")[:1].lower() if ready else ""


def _leave(signum: int, frame: Any) -> None:
    del frame
    raise SystemExit(128 + signum)


def _asked(path: Path) -> bool:
    if not sys.stdin.isatty():
        raise KataError(f"{path} is there already; choose another file")
    return agreed(f"{path} is there already; overwrite it?")


if __name__ == "__main__":
    app()
