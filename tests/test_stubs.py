"""A stub is the solution's signatures and docstrings; somebody's edited stub is left alone."""

import dataclasses

import pytest

from graders import KataError, find, stubs
from graders.catalogue import ROOT
from scripts import derive

SOLUTION = '''"""What it is.

The answers, which a stub does not show.
"""

import math
from dataclasses import dataclass

SECRET = 3
Metres = float


def area(r: Metres, *, scale: float = 1.0) -> float:
    """pi r^2."""
    # a comment on how
    return _square(r) * math.pi * scale


def _square(r):
    return r * r


@dataclass(eq=False)
class Disc:
    """A disc."""

    r: float
    kind = "round"

    def __init__(self, r: float) -> None:
        """r: the radius."""
        self.r = r

    @property
    def area(self) -> float:
        """pi r^2."""
        return area(self.r)

    def _secret(self):
        return 1

    def __repr__(self):
        return "disc"

    def __add__(self, other: "Disc") -> "Disc":
        """Areas add."""
        return Disc((self.r**2 + other.r**2) ** 0.5)
'''
STUB = '''"""What it is."""

import math
from dataclasses import dataclass


Metres = float


def area(r: Metres, *, scale: float = 1.0) -> float:
    """pi r^2."""
    raise NotImplementedError("disc")


@dataclass(eq=False)
class Disc:
    """A disc."""

    r: float

    def __init__(self, r: float) -> None:
        """r: the radius."""
        raise NotImplementedError("disc")

    @property
    def area(self) -> float:
        """pi r^2."""
        raise NotImplementedError("disc")

    def __add__(self, other: "Disc") -> "Disc":
        """Areas add."""
        raise NotImplementedError("disc")
'''


@pytest.fixture
def kata(tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "katas" / "disc").mkdir(parents=True)
    (tmp_path / "solutions" / "disc.py").write_text(SOLUTION, encoding="utf-8")
    return dataclasses.replace(find("attention"), folder=tmp_path / "katas" / "disc", frameworks=("numpy",))


def test_a_stub_keeps_signatures_and_docstrings_alone(kata):
    assert stubs.derive(kata, "numpy") == STUB


def test_signatures_are_read_without_running_anything(kata):
    assert stubs.signatures(kata, "numpy") == {
        "area": "area(r: Metres, *, scale: float=1.0)",
        "_square": "_square(r)",
        "Disc": "Disc(r: float)",
    }


def test_untouched_is_told_from_edited():
    assert stubs.is_untouched(STUB, "disc")
    assert not stubs.is_untouched(STUB.replace('raise NotImplementedError("disc")', "return 1", 1), "disc")
    assert not stubs.is_untouched("def broken(", "disc")


def test_an_edited_stub_is_left_alone(kata, monkeypatch, capsys):
    monkeypatch.setattr(derive, "ROOT", kata.folder.parent.parent)
    derive.write_stub(kata, "numpy")
    path = kata.stub("numpy")
    assert path.read_text(encoding="utf-8") == STUB
    edited = STUB.replace('raise NotImplementedError("disc")', "return 1", 1)
    path.write_text(edited, encoding="utf-8")
    derive.write_stub(kata, "numpy")
    assert path.read_text(encoding="utf-8") == edited
    assert "left alone, it was edited: katas/disc/stub.py" in capsys.readouterr().out
    derive.write_stub(kata, "numpy", force=True)
    assert path.read_text(encoding="utf-8") == STUB


def test_a_solution_that_does_not_read_is_named(kata):
    kata.solution("numpy").write_text("def (", encoding="utf-8")
    with pytest.raises(KataError, match=r"disc\.py: the solution does not read"):
        stubs.derive(kata, "numpy")


def test_stubs_are_where_the_catalogue_says():
    assert find("attention").stub("jax") == ROOT / "katas" / "attention" / "stub_jax.py"
