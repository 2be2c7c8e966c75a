"""Writes a notebook to solve a kata in."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from graders import notebook
from graders.catalogue import find
from graders.errors import KataError
from graders.practice.keys import agreed

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="the kata", metavar="KATA")],
    framework: Annotated[str | None, typer.Option(help="torch, jax or numpy; the kata's first")] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="where to write it (KATA.ipynb here)")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite a notebook that is there")] = False,
) -> None:
    """Writes a notebook with the spec, the stub, and a cell that grades what is in the notebook.

    Example: python scripts/notebook.py attention --framework numpy

    pytest katas/attention --attempt attention_numpy.ipynb grades the same file. The kernel needs the environment in
    which the suite is installed.
    """
    try:
        kata = find(name)
        framework = kata.offered(framework)
        path = to or Path(f"{kata.stub(framework).stem.replace('stub', kata.name)}.ipynb")
        if path.suffix != ".ipynb":
            raise KataError(f"{path}: a notebook's name ends in .ipynb")
        if not path.parent.is_dir():
            raise KataError(f"{path}: there is no such folder")
        if path.exists() and not force and not _asked(path):
            raise typer.Exit(1)
        write(path, notebook.new(kata, framework))
    except (KataError, OSError) as problem:
        typer.echo(f"notebook: {problem}", err=True)
        raise typer.Exit(2) from None
    typer.echo(str(path))


def write(path: Path, made: object) -> None:
    """All of it or nothing."""
    import nbformat

    part = path.with_name(f".{path.name}.part")
    try:
        nbformat.write(made, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _asked(path: Path) -> bool:
    if not sys.stdin.isatty():
        raise KataError(f"{path} is there already; say --force to overwrite it, or --to FILE")
    return agreed(f"{path} is there already; overwrite it?")


if __name__ == "__main__":
    app()
