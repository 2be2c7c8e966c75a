"""How a verdict reads."""

import dataclasses

from graders import Check, Verdict
from graders.report import devices, level_outcome, render

PASSED = Check("attention_shape", 1, "passed", seconds=0.25, sentence="the shape is right")
FAILED = Check("attention_values", 1, "failed", "3 entries are off\nexpected  1\ngot       2", 0.1, "it is a softmax")
WAITING = Check("causal_shape", 2, "waiting", sentence="the shape is right")


def verdict(*checks, **fields):
    return Verdict("attention", "my.py", "torch", "cpu", 7, checks, **{"replay": "pytest --seed 7", **fields})


def text(found):
    return "\n".join(line for line, _ in render(found))


def test_json_and_back():
    found = verdict(PASSED, FAILED, output=("a", "b"))
    assert Verdict.from_json(found.to_json()) == found


def test_only_all_passed_is_passed():
    assert verdict(PASSED).passed
    assert not verdict(PASSED, WAITING).passed
    assert not verdict(PASSED, FAILED).passed
    assert not verdict().passed


def test_the_first_failure_stands_in_full_the_rest_in_a_line():
    later = dataclasses.replace(FAILED, name="attention_mask", message="NaN\nall of it", sentence="masks work")
    shown = text(verdict(PASSED, FAILED, later, WAITING))
    assert "✗ level 1  attention                1 of 3 checks\n" in shown
    assert "      ✗ attention_values: it is a softmax\n      ✗ attention_mask: masks work\n" in shown
    assert "· level 2  causal attention         waiting" in shown
    assert "attention_values: it is a softmax\n3 entries are off\n  expected  1\n  got       2\n" in shown
    assert "all of it" not in shown
    assert shown.endswith("  replay    pytest --seed 7\nmy.py")


def test_many_failures_are_counted():
    many = [dataclasses.replace(FAILED, name=f"check_{i}") for i in range(12)]
    shown = text(verdict(*many))
    assert "check_7" in shown
    assert "check_8:" not in shown
    assert "and 4 more" in shown


def test_a_long_sentence_is_cut():
    long = dataclasses.replace(FAILED, sentence="x" * 300)
    assert any(line.endswith("…") and len(line) < 120 for line, _ in render(verdict(long)))


def test_what_was_printed_is_shown_with_a_failure():
    assert "  printed\n    one\n    two\n" in text(verdict(FAILED, output=("one", "two")))


def test_passed_says_how_many_and_how_long():
    assert text(verdict(PASSED)).endswith("passed: 1 checks in 0.25 s\nmy.py")


def test_nothing_graded_is_not_green():
    assert "nothing was graded" in text(verdict())


def test_a_fault_of_the_suite_is_told_from_a_failure():
    fault = dataclasses.replace(
        FAILED, outcome="error", message="a fault of the suite, not of the attempt: KeyError: 'x'"
    )
    shown = text(verdict(PASSED, fault))
    assert "! level 1" in shown
    assert "a fault of the suite, not of the attempt" in shown


def test_outcomes_of_a_level():
    started = dataclasses.replace(PASSED, outcome="not started")
    assert level_outcome([PASSED, PASSED]) == "passed"
    assert level_outcome([PASSED, FAILED, WAITING]) == "failed"
    assert level_outcome([PASSED, started]) == "not started"
    assert level_outcome([PASSED, WAITING]) == "waiting"


def test_a_simulated_device_is_said_to_be_one():
    assert devices("cpu + stand-in") == "cpu + stand-in (no accelerator here: parity is simulated)"
    assert devices("cpu + cuda") == "cpu + cuda"
