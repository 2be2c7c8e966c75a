"""Which cells of a running notebook are graded, and what the report looks like."""

import pytest

from graders import card, cells
from graders.errors import KataError
from graders.report import Check, Verdict

CONTRACT = {"attention", "causal_attention"}
BOTH = "# kata: this cell is graded\ndef attention(): {}\ndef causal_attention(): pass"
ONE, TWO = "# kata\ndef attention(): pass", "# kata\ndef causal_attention(): pass"


def graded(*executed):
    """The numbers of the graded cells, the first being In [1], and the notes."""
    found = cells.gather(["", *executed], CONTRACT)
    return [cell.number for cell in found.cells], found.notes


@pytest.mark.parametrize(
    ("executed", "numbers"),
    [
        ([BOTH], [1]),
        ([BOTH, "attention()", "x = 1"], [1]),
        ([BOTH.format(1), BOTH.format(2), BOTH.format(1)], [3]),
        ([BOTH, BOTH + "\ndef ("], [2]),  # a syntax error is the newest version all the same
        ([ONE, TWO], [1, 2]),
        ([ONE, TWO, ONE], [3, 2]),  # run again, it stays where it was
        ([BOTH, ONE, TWO], [2, 3]),  # split
        ([ONE, TWO, BOTH], [3]),  # joined
        ([BOTH, ONE], [2]),  # what was deleted from it is not graded from its older version
        (["# kata\nEPS: float = 1e-8", BOTH, "# kata\nEPS = 1e-6"], [3, 2]),
        (["# katas\ndef attention(): pass", ONE], [2]),
        ([BOTH, BOTH.removeprefix("# kata")], [2]),  # pasted over it, without the mark
        ([BOTH.removeprefix("# kata")], [1]),
        ([BOTH.removeprefix("# kata"), BOTH.removeprefix("# kata")], [2]),
    ],
)
def test_what_was_last_run_of_the_marked_cells_is_graded(executed, numbers):
    assert graded(*executed) == (numbers, ())


def test_an_experiment_is_not_graded_and_said():
    numbers, notes = graded(BOTH, "def attention(): return 3")
    assert numbers == [1]
    assert notes == ("In [2] defines `attention` and is not graded: it does not begin with # kata",)
    assert graded(BOTH, "def attention(): return 3", BOTH) == ([3], ()), "the cell is newer again"


def test_without_a_cell_that_was_run_it_says_what_to_do():
    assert graded("x = 1") == ([], ("no cell that begins with # kata was run in this kernel: run it, then this one",))


def test_magics_are_no_python():
    found = cells.gather(["# kata\n%matplotlib inline\ndef attention(): pass"], CONTRACT)
    assert found.source == "# kata\npass\ndef attention(): pass"


def test_outside_of_a_notebook_it_says_so():
    with pytest.raises(KataError, match="outside of one, use graders"):
        card.executed()


def test_what_the_person_wrote_stays_text():
    check = Check("attention_values", 1, "failed", "<script>alert(1)</script>\n\x1b[31m& more\x00", sentence="a < b")
    verdict = Verdict("attention", "this notebook", "numpy", "cpu", 7, (check,), output=("<b>printed</b>",))
    shown = card.Report(verdict)._repr_html_()
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "&amp; more" in shown
    assert "attention_values: a &lt; b" in shown
    assert "\x1b" not in shown
    assert "\x00" not in shown
    assert "<script>alert(1)</script>" in repr(card.Report(verdict))


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("page", ["#ffffff", "#111111", "#1f1f1f"])
def test_the_colours_stand_out_in_light_and_dark(page):
    """By the ratio of WCAG 2; Jupyter's and VS Code's dark backgrounds."""
    for colour in card.COLOURS.values():
        light, dark = sorted((_luminance(colour), _luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3.6, colour
