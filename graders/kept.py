"""What long programs found, kept as they go, so that one that was stopped goes on where it was."""

import contextlib
import hashlib
import json
import re
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

    Of the library, what compares attempts, practises with them and hints at mistakes grades nothing; of the kernels
    those count that the grader imports.
    """
    other = {"compare", "practice", "kernels", "bugs.py", "kept.py", "mutants.py", "renaming.py"}
    files = [path for path in sorted((ROOT / "graders").rglob("*.py")) if not {*path.parts} & other]
    files += [*imported(kata.grader), kata.grader, *paths]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def imported(path: Path) -> list[Path]:
    """The kernels that a file imports, and those that they import."""
    names = re.findall(r"^from graders\.kernels import (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    found = [ROOT / "graders" / "kernels" / f"{name}.py" for name in names]
    return [*found, *(path for kernel in found for path in imported(kernel))]
