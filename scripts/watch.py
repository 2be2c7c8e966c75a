"""Grades a kata at each save, without a clock."""

from pathlib import Path
from typing import Annotated

import typer

from graders import runner
from graders.errors import KataError
from graders.history import History
from graders.practice.opening import Choice, choose

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    kata: Annotated[str, typer.Argument(help="the kata to practise")],
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy")] = None,
    attempt: Annotated[Path | None, typer.Option(help="grade this .py or .ipynb instead of the stub")] = None,
    level: Annotated[int | None, typer.Option(help="grade up to this level")] = None,
) -> None:
    """Grades at each save: "checking" at once, then the levels and the first failure in full.

    Example: python scripts/watch.py attention --framework jax --level 2

    h gives a hint, r grades again, q stops. Without a terminal it prints the report of each save, and keys are typed
    lines.
    """
    try:
        choice = choose(kata, framework, attempt, level)
        runner.warm(choice.framework)
        raise SystemExit(practise(choice, History()))
    except KataError as error:
        typer.echo(f"watch: {error}", err=True)
        raise SystemExit(2) from None


def practise(choice: Choice, history: History) -> int:
    from rich.console import Console

    from graders.practice.loop import Practice
    from graders.practice.terminal import Desk, Ended
    from graders.practice.watching import Watching
    from graders.report import render

    desk = Desk(Console(highlight=False))
    engine = Watching(choice.kata, choice.path, choice.framework, desk.inbox.put, level=choice.level)
    practice = Practice(choice, history, "watch", engine)
    code = 0
    try:
        desk.play(practice, engine.start)
    except Ended as ended:
        code = ended.code
    finally:
        engine.close()
    if desk.single and practice.verdict:
        desk.tell(render(practice.verdict))  # the screen is gone, the last report stays
    return code


if __name__ == "__main__":
    app()
