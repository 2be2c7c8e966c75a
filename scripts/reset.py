"""Restores a kata's stub; the attempt is kept in the history."""

import sys
from typing import Annotated

import typer

from graders import reset as resetting
from graders.catalogue import FRAMEWORKS, find
from graders.errors import KataError
from graders.history import History
from graders.practice.keys import agreed

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="the kata", metavar="KATA")],
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy; the kata's first")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Keeps the attempt in the history, asks, and restores the stub.

    Example: python scripts/reset.py attention --framework numpy
    """
    try:
        kata = find(name)
        framework = kata.offered(framework)
        path = kata.stub(framework)
        text = resetting.attempt(kata, framework)
        if text is not None and not yes:
            if not sys.stdin.isatty():
                raise KataError(f"{path} would be overwritten; say --yes")
            lines = len(text.splitlines())
            question = f"{path} has {lines} lines; keep them in the history and restore the stub?"
            if not agreed(question):
                typer.echo("nothing was changed")
                raise typer.Exit(1)
        history = History()
        run = resetting.reset(kata, framework, history)
    except KataError as problem:
        typer.echo(f"reset: {problem}", err=True)
        raise typer.Exit(2) from None
    if run is None:
        typer.echo(f"{FRAMEWORKS[framework]}: there was no attempt; the stub stands as it should")
    else:
        typer.echo(f"kept as run {run.id}: python scripts/history.py --attempt {run.id}")
    typer.echo(str(path))


if __name__ == "__main__":
    app()
