"""What the history says of a kata: its state, its reviews, when it is due; and scripts/history.py on real histories."""

import os
import pty
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from graders.catalogue import ROOT
from graders.history import Event, History, Round, Run
from graders.practice import progress
from graders.practice.progress import Review
from graders.report import Check, Verdict

START = datetime(2026, 3, 2, 12, 0).timestamp()  # noon, so that an hour more or less is the same day
DAY = 86400.0
RUN = Run(
    id=1, at=START, origin="pytest", kata="attention", framework="numpy", attempt="katas/attention/stub_numpy.py",
    device="cpu", seed=7, asked=None, outcome="passed", levels=("passed",), failure="", seconds=0.1, source="a",
    round=None,
)  # fmt: skip
ROUND = Round(
    1, "timed", "attention", "numpy", RUN.attempt, 60.0, START, 1800.0, START + 2000, "passed", {"from_stub": True}
)
HINT = Event(1, START, "hint", "attention", "numpy", None, "")


def runs(*outcomes, **fields):
    """Runs a minute apart, each of a text of its own."""
    return [
        replace(RUN, id=i, at=START + 60 * i, outcome=outcome, source=f"text {i}", **fields)
        for i, outcome in enumerate(outcomes, 1)
    ]


def of(found, rounds=(), events=()):
    return progress.progress("attention", "numpy", found, rounds, events)


def ratings(found=(), rounds=(), events=()):
    return [review.rating for review in progress.reviews(found, rounds, events)]


@pytest.mark.parametrize(
    ("outcomes", "state", "attempts"),
    [
        ([], "new", 0),
        (["not started", "error", "not graded"], "new", 0),
        (["not started", "failed"], "started", 1),
        (["failed", "passed"], "passed", 2),
        (["failed", "passed", "failed"], "failing again", 3),
        (["passed", "failed", "passed"], "passed", 3),
        (["passed", "not graded", "not started", "error"], "passed", 1),
    ],
)
def test_the_state_is_that_of_the_last_run(outcomes, state, attempts):
    found = of(runs(*outcomes))
    assert (found.state, found.attempts) == (state, attempts)


def test_a_pass_of_some_levels_is_no_pass():
    assert of(runs("passed", asked=1)).state == "started"
    assert of([*runs("passed", "failed"), replace(RUN, id=3, at=START + 500, asked=1)]).state == "failing again"
    assert ratings(runs("passed", asked=1)) == []


def test_what_a_drill_graded_counts_nowhere():
    drill = replace(ROUND, kind="drill", attempt=".katas/drills/attention-1_numpy.py")
    by_debug = runs("failed", "passed", origin="debug")
    by_pytest = runs("passed", attempt=drill.attempt)
    found = of([*by_debug, *by_pytest], [drill])
    assert (found.state, found.attempts, found.best, found.last, found.due) == ("new", 0, None, None, None)


def test_the_best_time_is_that_of_a_timed_round_that_passed():
    rounds = [
        replace(ROUND, active=1200.0),
        replace(ROUND, id=2, active=900.0),
        replace(ROUND, id=3, active=60.0, outcome="stopped"),
        replace(ROUND, id=4, active=50.0, detail={"from_stub": False}),
        replace(ROUND, id=5, active=30.0, kind="drill", attempt="drills/attention-1_numpy.py"),
    ]
    passes = [replace(run, round=run.id) for run in runs(*["passed"] * 5)]
    assert of(passes, rounds).best == 900.0
    assert of(passes).best is None


def test_last_is_the_last_that_was_practised():
    assert of(runs("failed", "failed", "not started")).last == START + 120
    assert of(runs("failed"), [ROUND]).last == START + 2000


@pytest.mark.parametrize(
    ("changes", "hinted", "rating"),
    [
        ({"active": 0.60 * 3600}, False, "Easy"),
        ({"active": 0.61 * 3600}, False, "Good"),
        ({"active": 60.0, "detail": {"from_stub": False}}, False, "Good"),
        ({"outcome": "level 2 passed"}, False, None),
        ({"active": 60.0}, True, "Hard"),
        ({"outcome": "out of time"}, False, "Again"),
        ({"outcome": "interrupted"}, False, None),
        ({"outcome": None, "ended": None}, False, None),
    ],
)
def test_how_a_round_is_rated(changes, hinted, rating):
    events = [replace(HINT, round=1)] if hinted else []
    assert ratings([], [replace(ROUND, **changes)], events) == ([rating] if rating else [])


def test_a_round_stopped_before_anything_was_written_is_no_review():
    stopped = replace(ROUND, outcome="stopped")
    assert ratings(runs("not started", round=1), [stopped]) == []
    assert ratings(runs("failed", round=1), [stopped]) == ["Again"]


def test_a_text_that_passed_before_is_no_practice():
    before = replace(RUN, at=START - 3 * DAY)
    again = replace(RUN, id=2, at=START + 60, round=1)
    assert ratings([before, again], [ROUND]) == ["Good"]
    assert of([before, again], [ROUND]).best is None
    assert ratings([before, replace(again, round=None)]) == ["Good"]
    assert ratings([before, replace(again, source="b")], [ROUND]) == ["Good", "Easy"]


def test_a_pass_seen_by_pytest_during_a_round_is_the_rounds():
    found = [replace(RUN, at=START + 1990), replace(RUN, id=2, at=START + 1995, round=1)]
    assert ratings(found, [ROUND]) == ["Easy"]
    assert of(found, [ROUND]).best == 1800.0


def test_a_days_first_pass_outside_of_rounds():
    assert ratings(runs("failed", "passed", "passed", "failed")) == ["Good"]
    assert ratings(runs("passed"), events=[replace(HINT, at=START + 30)]) == ["Hard"]
    assert ratings(runs("passed"), events=[replace(HINT, at=START + 90)]) == ["Good"]
    next_day = replace(RUN, id=9, at=START + DAY, source="new")
    hints = [replace(HINT, at=START + 30)]
    assert ratings([*runs("passed"), next_day], events=hints) == ["Hard", "Good"], "a hint before the last review"


def test_a_pass_after_a_lost_round_of_the_same_day_does_not_undo_it():
    lost = replace(ROUND, outcome="out of time", ended=START + 3600)
    assert ratings([replace(RUN, at=START + 4000)], [lost]) == ["Again"]
    assert ratings([replace(RUN, at=START + DAY)], [lost]) == ["Again", "Good"]


def test_giving_up_is_not_knowing():
    gave_up = replace(HINT, kind="give-up")
    assert ratings(runs("passed"), events=[gave_up]) == ["Again"]
    assert ratings(events=[replace(gave_up, round=1)]) == []


def test_due_grows_with_each_recall_and_falls_with_a_failure():
    assert progress.due([]) is None
    at, days, found = START, [], []
    for rating in ("Good", "Good", "Good", "Again", "Hard"):
        found.append(Review(at, rating))
        at = progress.due(found)
        days.append(round((at - found[-1].at) / DAY))
    assert days[0] < days[1] < days[2]
    assert days[3] < days[2]
    assert all(each >= 1 for each in days)


def test_easy_is_due_later_than_good_and_good_than_hard():
    again, hard, good, easy = (progress.due([Review(START, rating)]) for rating in progress.RATINGS)
    assert again <= hard < good < easy


def test_the_same_history_is_due_at_the_same_time():
    found = [Review(START + i * DAY, rating) for i, rating in enumerate(("Good", "Hard", "Easy"))]
    assert progress.due(found) == progress.due(found)


def test_it_is_due_from_the_beginning_of_the_day():
    found = replace(of(runs("passed")), due=START)
    morning = datetime.fromtimestamp(START).replace(hour=0, minute=1)
    assert found.is_due(morning.timestamp())
    assert not found.is_due((morning - timedelta(minutes=2)).timestamp())
    assert not replace(found, due=None).is_due(START)


# The program, on a history of its own.


@pytest.fixture
def history(tmp_path, monkeypatch):
    """Attention passed a long time ago, Adam failing now, both in NumPy; one round with a hint."""
    monkeypatch.setenv("KATAS_STATE", str(tmp_path))
    history = History()
    monkeypatch.setattr("time.time", lambda: START)
    record(history, "attention", "x = 1\n", "failed")
    record(history, "attention", "x = 2\n", "passed")
    record(history, "attention", "x = 3\ny = '[red]'\n", "passed")
    monkeypatch.undo()
    monkeypatch.setenv("KATAS_STATE", str(tmp_path))
    round = history.begin("timed", "adam", "numpy", "stub_numpy.py", 40.0)
    record(history, "adam", "z = 1\n", "failed", round=round.id)
    history.note("hint", "adam", "numpy", round=round.id, detail="eps stands inside the root")
    history.end(replace(round, active=75.0), "stopped")
    return history


def record(history, kata, source, outcome, framework="numpy", **options):
    check = Check("shape", 1, outcome, "out has [red] shape (2, 3)\nmore" if outcome == "failed" else "")
    verdict = Verdict(kata, f"katas/{kata}/stub_numpy.py", framework, "cpu", 7, (check,))
    return history.record(verdict, source, origin="watch", **options)


def script(*arguments):
    command = [sys.executable, "scripts/history.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def cells(shown, first):
    """The row that begins with this."""
    (line,) = (line for line in shown.splitlines() if line.split()[:1] == [first])
    return " ".join(line.split())


@pytest.mark.usefixtures("history")
def test_the_list_is_plain_when_piped():
    code, shown, error = script()
    assert (code, error) == (0, "")
    assert "\x1b" not in shown
    assert cells(shown, "adam") == "adam NumPy easy 40 started 1 - today tomorrow"
    assert cells(shown, "attention").startswith("attention NumPy medium 60 passed 3 - ")
    assert cells(shown, "lora") == "lora PyTorch medium 45 new - - - -"
    assert cells(shown, "kata") == "kata framework difficulty minutes state attempts best last due"


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--due"], ["attention"]),
        (["--due", "--difficulty", "easy"], []),
        (["--difficulty", "easy"], ["adam"]),
        (["transform medium"], ["attention", "lora"]),
        (["--framework", "numpy"], ["adam", "attention"]),
    ],
)
def test_the_list_is_filtered(arguments, names):
    code, shown, error = script(*arguments)
    assert (code, error) == (0, "")
    found = [line.split()[0] for line in shown.splitlines()[1:]]
    assert set(names) <= set(found), "others than these three may be there"
    assert {"adam", "attention", "lora"} & set(found) <= set(names)
    assert ("nothing is due" in shown) == (names == [])


def test_the_most_overdue_comes_first(history, monkeypatch):
    monkeypatch.setattr("time.time", lambda: START - 90 * DAY)
    record(history, "lora", "a = 1\n", "passed", "torch")
    monkeypatch.undo()
    monkeypatch.setenv("KATAS_STATE", str(history.path.parent))
    code, shown, _ = script("--due")
    assert code == 0
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["lora", "attention"]
    assert shown.count("days ago") == 4


@pytest.mark.usefixtures("history")
def test_a_kata_lists_its_runs_rounds_and_requests():
    code, shown, _ = script("adam")
    assert code == 0
    assert "Adam, NumPy, started, 1 attempt, best -, last today, due tomorrow" in shown
    assert cells(shown, "4").endswith(" NumPy watch failed ✗ 7 shape: out has [red] shape (2, 3)")
    assert cells(shown, "1").endswith(" NumPy timed stopped 1:15 40 min 1")
    assert cells(shown, "hint").endswith(" NumPy eps stands inside the root")


@pytest.mark.usefixtures("history")
def test_an_attempt_is_printed_as_it_was():
    code, shown, error = script("--attempt", "3")
    assert (code, shown) == (0, "x = 3\ny = '[red]'\n")
    assert error == "run 3: attention, NumPy, 2026-03-02 12:00, watch: passed\n"


@pytest.mark.usefixtures("history")
def test_two_attempts_are_compared():
    code, shown, _ = script("--diff", "2", "3")
    assert code == 0
    assert "\x1b" not in shown
    assert shown.startswith("--- run 2, attention, NumPy, ")
    assert shown.endswith("@@ -1 +1,2 @@\n-x = 2\n+x = 3\n+y = '[red]'\n")
    assert script("--diff", "3", "3")[1:] == ("", "runs 3 and 3 graded the same text\n")


@pytest.mark.usefixtures("history")
def test_a_diff_is_coloured_on_a_terminal():
    terminal, end = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "scripts/history.py", "--diff", "2", "3"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:
        pass
    os.close(terminal)
    assert process.wait(30) == 0
    assert b"\x1b[31m-x = 2" in shown
    assert b"\x1b[32m+x = 3" in shown


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attempt", "99"], "there is no run 99 in the history"),
        (["--diff", "1", "99"], "there is no run 99 in the history"),
        (["atention"], "there is no kata 'atention'; did you mean 'attention'?"),
        (["--difficulty", "tough"], "--difficulty should be one of easy, medium, hard, is 'tough'"),
        (["--framework", "mxnet"], "--framework should be one of torch, jax, numpy, is 'mxnet'"),
    ],
)
def test_what_is_wrong_is_one_clear_line(arguments, said):
    code, shown, error = script(*arguments)
    assert (code, shown) == (2, "")
    assert error.startswith(f"history: {said}")
    assert error.count("\n") == 1
