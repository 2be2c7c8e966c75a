"""The timed round without a clock, a file or a screen: time is what the test says it is."""

from dataclasses import replace
from datetime import datetime

import pytest

from graders import find
from graders.history import Round, Run
from graders.practice import review, rounds
from graders.practice.rounds import Timed, clock, personal_best, phases
from graders.report import Check, Verdict

KATA = find("attention")


def verdict(*outcomes):
    """One check a level with these outcomes."""
    checks = tuple(Check(f"check_{i}", i, outcome) for i, outcome in enumerate(outcomes, 1))
    return Verdict("attention", "a.py", "numpy", "cpu", 7, checks)


def test_the_phases_share_the_minutes():
    found = phases(60)
    assert [(p.name, p.ends - p.begins) for p in found] == [
        ("read", 360), ("plan", 360), ("implement", 1800), ("test", 720), ("edge cases", 360),
    ]  # fmt: skip
    assert found[-1].ends == 3600
    timed = Timed(60)
    timed.start(1000.0)
    at = {0: "read", 359: "read", 360: "plan", 721: "implement", 2520: "test", 3241: "edge cases", 9999: "edge cases"}
    assert {seconds: timed.phase(1000.0 + seconds).name for seconds in at} == at


def test_pauses_and_gradings_do_not_count():
    timed = Timed(10)
    assert timed.elapsed(50) == 0, "the clock stands before the start"
    timed.start(100)
    timed.start(500)  # once is enough
    assert timed.elapsed(110) == 10
    timed.pause(110)
    assert timed.elapsed(200) == 10
    timed.grade(200)
    timed.pause(210)
    assert timed.elapsed(220) == 10, "a pause that ends in a grading does not start the clock"
    timed.released(230)
    assert timed.elapsed(235) == 15
    timed.grade(240)
    timed.grade(245)  # a save during a grading begins another
    timed.graded(300, verdict("failed", "waiting"))
    assert timed.elapsed(301) == 21
    assert (timed.runs, timed.pauses, timed.levels) == (1, 1, {})


def test_a_level_keeps_the_time_of_its_first_pass():
    timed = Timed(10)
    timed.start(0)
    timed.graded(60, verdict("passed", "failed"))
    timed.graded(90, verdict("failed", "waiting"))
    timed.graded(120, verdict("passed", "passed"))
    assert timed.levels == {1: 60, 2: 120}
    assert timed.outcome == "passed"
    assert timed.elapsed(500) == 120, "the clock stands at the end"


def test_a_round_up_to_a_level_does_not_end_as_a_pass_of_the_kata():
    timed = Timed(10, level=2)
    timed.start(0)
    timed.graded(60, verdict("passed", "passed"))
    assert timed.outcome == "level 2 passed"


def test_time_runs_out_but_a_grading_that_began_is_waited_for():
    timed = Timed(1)
    timed.start(0)
    timed.tick(59.9)
    assert timed.outcome is None
    timed.grade(59.95)
    timed.tick(200)
    assert timed.outcome is None
    timed.graded(200, verdict("passed"))
    assert timed.outcome == "passed"
    late = Timed(1)
    late.start(0)
    late.tick(60)
    assert (late.outcome, late.left(99), late.elapsed(99)) == ("out of time", 0, 60)
    late.end(70, "stopped")
    assert late.outcome == "out of time", "what ended a round first stays"


def test_a_fault_of_the_suite_is_no_run():
    timed = Timed(1)
    timed.start(0)
    timed.graded(1, verdict("error"))
    assert timed.runs == 0


def kept(**changes):
    detail = {"levels": {"1": 61.5}, "level": None, "runs": 3, "hints": 1, "pauses": 0, "from_stub": True}
    detail |= changes.pop("detail", {})
    return replace(Round(4, "timed", "attention", "numpy", "a.py", 60.0, 1e9, 125.0, detail=detail), **changes)


def test_a_round_is_resumed_as_it_was_kept():
    timed = Timed.resumed(kept())
    assert timed.elapsed(1e6) == 125
    timed.start(1e6)
    assert timed.elapsed(1e6 + 5) == 130
    assert timed.detail() == {"levels": {"1": 61.5}, "level": None, "runs": 3, "hints": 1, "pauses": 0}


def run(round, source, at, *, asked=None):
    return Run(0, at, "timer", "attention", "numpy", "a.py", "cpu", 7, asked, "passed", (), "", 0.1, source, round)


def test_the_personal_best_is_of_rounds_that_began_with_nothing():
    first = kept(id=1, active=1800.0, outcome="passed", began=1000.0)
    cheated = kept(id=2, active=5.0, outcome="passed", began=2000.0)
    edited = kept(id=3, active=6.0, outcome="passed", began=3000.0, detail={"from_stub": False})
    stopped = kept(id=4, active=7.0, outcome="stopped", began=4000.0)
    part = kept(id=5, active=8.0, outcome="level 2 passed", began=5000.0)
    better = kept(id=6, active=1500.0, outcome="passed", began=6000.0)
    found = (first, cheated, edited, stopped, part, better)
    runs = (run(1, "a", 1900.0), run(2, "a", 2005.0), run(3, "c", 3006.0), run(6, "d", 7500.0))
    assert personal_best(found, runs) == better
    assert personal_best(found[:-1], runs) == first, "a text that had passed before is no best"
    assert personal_best(found[3:5], runs) is None


def lines(*args):
    return [text for text, _ in rounds.summary(*args)]


def test_the_summary():
    passed = kept(outcome="passed", detail={"levels": {"1": 61.5, "2": 80.0, "3": 100.0, "4": 125.0}})
    assert lines(passed, KATA, None) == [
        "passed: 2:05 of 1:00:00",
        "  level 1  attention                      1:01",
        "  level 2  causal attention               1:20",
        "  level 3  multi-head attention           1:40",
        "  level 4  blockwise attention            2:05",
        "  3 runs, 1 hint, 0 pauses",
        "  personal best: the first one",
    ]
    best = kept(active=245.0, outcome="passed")
    day = f"{datetime.fromtimestamp(1e9):%d %b %Y}"
    assert lines(passed, KATA, best)[-1] == f"  personal best, 2:00 quicker than the 4:05 on {day}"
    assert lines(best, KATA, replace(passed, active=100.0))[-1] == f"  personal best 1:40 on {day}"
    late = kept(outcome="out of time", active=3600.0)
    assert lines(late, KATA, None)[0] == "out of time: 1:00:00 of 1:00:00"
    assert lines(late, KATA, None)[2] == "  level 2  causal attention         not passed"
    edited = kept(outcome="passed", detail={"from_stub": False})
    assert lines(edited, KATA, None)[-1] == "  no personal best: the file held work from before"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.99, "0:59"), (65, "1:05"), (3599, "59:59"), (3725, "1:02:05")]
)
def test_a_clock(seconds, text):
    assert clock(seconds) == text


def test_the_review_names_the_weakest_and_what_to_drill():
    assert [signal.name for signal in review.SIGNALS] == [
        "correctness", "communication", "abstraction", "debugging", "mathematical intuition", "experiment design",
        "collaboration",
    ]  # fmt: skip
    scores = {"correctness": 3, "communication": 2, "debugging": 1, "mathematical intuition": 2, "collaboration": 5}
    assert [signal.name for signal in review.weakest(scores)] == ["debugging", "communication"]
    drills = review.drills(scores, "adam")
    assert [signal.name for signal, _ in drills] == ["debugging", "communication", "mathematical intuition"]
    assert drills[0][1].endswith("python scripts/debug.py adam --bugs 2")
    assert review.drills({"correctness": 3}, "adam") == ()
    assert review.weakest({}) == ()


def test_each_signal_has_its_anchors_in_one_line():
    line = (
        "1 no working solution · 3 passes the examples and obvious edge cases · 5 also rigorous edge cases, own tests, "
    )
    assert review.SIGNALS[0].line == line + "complexity stated"
    for signal in review.SIGNALS:
        assert signal.line.startswith("1 ")
        assert len(signal.anchors) == 3
        assert "\n" not in signal.line + signal.drill
        assert "{" not in signal.drill.format(kata="adam")


def test_a_score_as_typed():
    assert (review.score(" 4 "), review.score("  ")) == (4, None)
    for text in ("0", "6", "3.5", "x", "33"):
        with pytest.raises(ValueError, match="a score is a number from 1 to 5, not"):
            review.score(text)
