"""What long programs found, kept as they go, so that one that was stopped goes on where it was."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from graders.catalogue import ROOT, Kata


class Kept:
    """Findings by key in a file of JSON lines, valid for one stamp: whatever they depend on.

    `found` holds what was kept under that stamp; `add` keeps one more at once.
    """

    def __init__(self, path: Path, stamp: list[Any]) -> None:
        self.path, self.stamp = path, stamp
        self.found: dict[Any, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):  # a line that was cut off
                *stamped, key, value = json.loads(line)
                if stamped == stamp:
                    self.found[key] = value

    def add(self, key: Any, value: Any) -> None:
        self.found[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([*self.stamp, key, value]))


def fingerprint(kata: Kata, *paths: Path) -> str:
    """Changes with whatever a verdict on these files depends on: the library, the kata's grader, the files.

    Of the library, what compares attempts, practises with them and hints at mistakes grades nothing.
    """
    other = {"compare", "practice", "bugs.py", "kept.py", "mutants.py", "renaming.py"}
    files = [*(path for path in sorted((ROOT / "graders").rglob("*.py")) if not {*path.parts} & other), kata.grader]
    files += paths
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
