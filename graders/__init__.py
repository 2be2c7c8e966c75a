"""Grades attempts at ML-coding katas."""

from typing import TYPE_CHECKING, Any

from graders.catalogue import Kata, find, katas
from graders.errors import KataError, Mismatch
from graders.report import Check, Verdict
from graders.runner import grade

if TYPE_CHECKING:
    from graders.plugin import level

__all__ = ["Check", "Kata", "KataError", "Mismatch", "Verdict", "find", "grade", "katas", "level"]


def __getattr__(name: str) -> Any:
    """`level` is for graders, and brings pytest with it: a program that shows something at once does without."""
    if name == "level":
        from graders.plugin import level

        return level
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
