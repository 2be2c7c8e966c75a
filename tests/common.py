"""What the suite's own tests share."""

import signal
from pathlib import Path

from graders import katas

OFFERED = [(kata, framework) for kata in katas() for framework in kata.frameworks]

# A shell that starts the suite in the background has it and all that it starts ignore Ctrl-C, which some tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def name(value):
    """A test id: the name of a kata or a bug, or the value itself."""
    return getattr(value, "name", None) or str(value)


def written(folder: Path, source: str, file: str = "attempt.py") -> Path:
    path = folder / file
    path.write_text(source, encoding="utf-8")
    return path


def attempt(source: str, framework: str = "torch", *, refused: tuple[str, ...] = (), signatures=None):
    """An Attempt of this source, loaded in this process."""
    from textwrap import dedent

    from graders import backends
    from graders.attempt import load

    path = Path("<attempt>")
    return load(path, "attention", backends.load(framework), refused, signatures or {}, source=dedent(source))
