"""Restores a stub, after its attempt is safe in the history."""

import shutil
from pathlib import Path

from graders import stubs
from graders.catalogue import ROOT, Kata
from graders.errors import KataError
from graders.history import History, Run
from graders.report import Verdict


def attempt(kata: Kata, framework: str) -> str | None:
    """What stands in the stub's file; None if that is the stub, or nothing.

    Raises KataError if it is no text, which the history could not give back.
    """
    path = kata.stub(framework)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise KataError(f"{path}: the attempt cannot be kept: {error}; move the file away, then reset") from error
    return None if text == stubs.derive(kata, framework) else text


def reset(kata: Kata, framework: str, history: History) -> Run | None:
    """Keeps the attempt in the history, then writes the stub anew; the run that has the attempt, if there was one.

    Raises KataError with the file as it was, unless the attempt can be read back from the history.
    """
    path, stub = kata.stub(framework), stubs.derive(kata, framework)
    text = attempt(kata, framework)
    run = None
    if text is not None:
        run = _kept(kata, framework, text, history)
        if history.text(run) != text:
            raise KataError(f"{path}: the history does not give the attempt back; nothing was reset")
        history.note("reset", kata.name, framework, detail=f"run {run.id}")
    if attempt(kata, framework) != text:
        raise KataError(f"{path}: the file was changed in the meantime; nothing was reset")
    new = path.with_suffix(".new")
    try:
        new.write_text(stub, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, new)
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise KataError(f"{path}: the stub cannot be written: {error}") from error
    return run


def _kept(kata: Kata, framework: str, text: str, history: History) -> Run:
    """The last run of this very text, or a new one that is not graded."""
    for run in reversed(history.runs(kata=kata.name, framework=framework)):
        if history.text(run) == text:
            return run
    verdict = Verdict(kata.name, _shown(kata.stub(framework)), framework, device="", seed=0, checks=())
    return history.record(verdict, text, origin="reset")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
