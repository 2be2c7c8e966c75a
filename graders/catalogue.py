"""Finds the katas: a kata exists because `katas/<name>/spec.md` does."""

import ast
import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import frontmatter

from graders.errors import KataError

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORKS = {"torch": "PyTorch", "jax": "JAX", "numpy": "NumPy"}
DIFFICULTIES = ("easy", "medium", "hard")
FIELDS: dict[str, type] = {
    "title": str, "minutes": int, "frameworks": list, "difficulty": str, "track": str,
    "levels": list, "refused": list, "sources": list,
}  # fmt: skip


@dataclass(frozen=True)
class Kata:
    """What the front matter of `spec.md` says, and where the kata's files stand."""

    folder: Path
    title: str
    minutes: int
    frameworks: tuple[str, ...]
    difficulty: str
    track: str
    levels: tuple[str, ...]
    refused: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def grader(self) -> Path:
        return self.folder / ".grader.py"

    @property
    def bugs(self) -> Path:
        return self.folder / ".bugs.toml"

    @property
    def beyond(self) -> Path:
        return self.folder / ".beyond.toml"

    def _suffix(self, framework: str) -> str:
        return "" if framework == self.frameworks[0] else f"_{framework}"

    def stub(self, framework: str) -> Path:
        return self.folder / f"stub{self._suffix(framework)}.py"

    def levels_in(self, framework: str) -> tuple[str, ...]:
        """The titles of the levels that the grader has checks of in a framework; not each kata goes as far in each."""
        return self.levels[: max(_graded(self.grader, framework), default=0)]

    def framework_of(self, path: Path) -> str:
        """The framework that a file's name ends in, as the stubs' names do; else the kata's first."""
        return next((f for f in self.frameworks if path.stem.endswith(f"_{f}")), self.frameworks[0])

    def offered(self, framework: str | None) -> str:
        """The framework asked for, or the kata's first. Raises KataError if it is not offered in it."""
        if framework not in (None, *self.frameworks):
            raise KataError(f"{self.name} is offered in {', '.join(self.frameworks)}, not in {framework}")
        return framework or self.frameworks[0]

    def solution(self, framework: str) -> Path:
        return self.folder.parent.parent / "solutions" / f"{self.name}{self._suffix(framework)}.py"


@cache
def _graded(grader: Path, framework: str) -> set[int]:
    """The numbers of the levels whose checks a framework has: `@level(2)`, or `@level(2, only=...)` that names it."""
    tree = ast.parse(grader.read_text(encoding="utf-8"))
    named = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    found = set()
    for node in tree.body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "level":
                only = next((keyword.value for keyword in mark.keywords if keyword.arg == "only"), None)
                chosen = ast.literal_eval(named.get(ast.unparse(only), only)) if only else (framework,)
                found |= {ast.literal_eval(mark.args[0])} if framework in chosen else set()
    return found


def read(folder: Path) -> Kata:
    """The kata in a folder. Raises KataError naming the field of its front matter that is wrong."""
    spec = folder / "spec.md"
    try:
        fields: dict[str, Any] = frontmatter.load(str(spec)).metadata
    except Exception as error:
        raise KataError(f"{spec}: the front matter does not read: {error}") from error
    for name, kind in FIELDS.items():
        if name not in fields:
            raise KataError(f"{spec}: the front matter has no '{name}'; add it")
        if not isinstance(fields[name], kind):
            raise KataError(f"{spec}: '{name}' should be a {kind.__name__}, is {fields[name]!r}")
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise KataError(f"{spec}: the front matter has an unknown '{unknown[0]}'; known: {', '.join(FIELDS)}")
    if not fields["frameworks"] or not set(fields["frameworks"]) <= set(FRAMEWORKS):
        raise KataError(f"{spec}: 'frameworks' should list some of {', '.join(FRAMEWORKS)}")
    if fields["difficulty"] not in DIFFICULTIES:
        raise KataError(f"{spec}: 'difficulty' should be one of {', '.join(DIFFICULTIES)}")
    frozen: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    return Kata(folder=folder, **frozen)


@cache
def katas(root: Path = ROOT) -> tuple[Kata, ...]:
    """Every kata, by name."""
    return tuple(read(spec.parent) for spec in sorted((root / "katas").glob("*/spec.md")))


def find(name: str, root: Path = ROOT) -> Kata:
    """The kata of that name. Raises KataError naming the nearest one."""
    folder = root / "katas" / name
    if (folder / "spec.md").is_file():
        return read(folder)
    known = [kata.name for kata in katas(root)]
    near = difflib.get_close_matches(name, known, n=1)
    raise KataError(
        f"there is no kata '{name}'; " + (f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}")
    )
