"""Grades attempts at ML-coding katas."""

from graders.catalogue import Kata, find, katas
from graders.errors import KataError, Mismatch
from graders.plugin import level
from graders.report import Check, Verdict
from graders.runner import grade

__all__ = ["Check", "Kata", "KataError", "Mismatch", "Verdict", "find", "grade", "katas", "level"]
