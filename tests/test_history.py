"""The history: what is recorded, what comes back, and that nothing recorded is lost."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from graders.catalogue import ROOT
from graders.errors import KataError
from graders.history import History
from graders.report import Check, Verdict

PASSED = Check("attention_shape", 1, "passed", seconds=0.25)
FAILED = Check("causal_values", 2, "failed", "3 of 4 entries are off\nexpected  1", 0.5)
WAITING = Check("multi_head_shape", 3, "waiting")


def verdict(*checks):
    return Verdict("attention", "katas/attention/stub.py", "torch", "cpu", 7, checks)


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "history.db")


def test_a_run_comes_back_as_it_was(history):
    before = time.time()
    kept = history.record(verdict(PASSED, FAILED, WAITING), "x = 1\n", origin="watch", asked=3)
    (run,) = history.runs()
    assert run == kept
    assert run.id == 1
    assert before <= run.at <= time.time()
    assert (run.origin, run.kata, run.framework, run.seed, run.asked) == ("watch", "attention", "torch", 7, 3)
    assert (run.outcome, run.levels, run.seconds) == ("failed", ("passed", "failed", "waiting"), 0.75)
    assert run.failure == "causal_values: 3 of 4 entries are off"
    assert history.text(run) == "x = 1\n"


def test_only_all_levels_are_a_pass(history):
    assert not history.record(verdict(PASSED), "a", origin="pytest", asked=1).passed
    assert not history.may_see_solution("attention", "torch")
    assert history.record(verdict(PASSED), "a", origin="pytest").passed
    assert history.may_see_solution("attention", "torch")
    assert not history.may_see_solution("attention", "jax")


def test_what_was_fixed_in_a_drill_is_no_pass_of_ones_own(history):
    assert history.record(verdict(PASSED), "a", origin="debug").passed
    history.begin("drill", "attention", "torch", "drills/attention-1.py", 0.0)
    history.record(replace(verdict(PASSED), attempt="drills/attention-1.py"), "a", origin="pytest")
    assert not history.may_see_solution("attention", "torch")


def test_what_is_kept_without_grading_says_so(history):
    kept = history.record(verdict(), "a", origin="reset")
    assert (kept.outcome, kept.levels, kept.failure, kept.passed) == ("not graded", (), "", False)


def test_giving_up_shows_the_solution(history):
    event = history.note("give-up", "attention", "jax")
    assert history.events(kind="give-up") == (event,)
    assert history.may_see_solution("attention", "jax")


def test_a_source_is_kept_once_and_may_hold_anything(history):
    for text in ("same", "same", "\udc80 broken", ""):
        history.record(verdict(PASSED), text, origin="pytest")
    assert [history.text(run) for run in history.runs()] == ["same", "same", "? broken", ""]
    with sqlite3.connect(history.path) as db:
        assert db.execute("SELECT count(*) FROM source").fetchone() == (3,)


def test_a_round_goes_on_until_it_ends(history):
    going = history.begin("timed", "attention", "torch", "katas/attention/stub.py", 60.0, phase="read")
    history.save(replace(going, active=12.5, detail={"levels": {"1": 10.0}}))
    (open_round,) = history.rounds(ended=None)
    assert (open_round.active, open_round.detail) == (12.5, {"levels": {"1": 10.0}})
    history.record(verdict(PASSED), "a", origin="timer", round=going.id)
    assert len(history.runs(round=going.id)) == 1
    ended = history.end(open_round, "passed")
    assert history.rounds(ended=None) == ()
    assert history.rounds() == (ended,)


def test_a_run_that_is_not_there_is_named(history):
    with pytest.raises(KataError, match="there is no run 5 in the history"):
        history.run(5)


def test_a_file_that_is_no_history_is_named_and_left_alone(tmp_path):
    path = tmp_path / "history.db"
    path.write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(KataError, match=r"history\.db: the history cannot be used: .*; move the file away"):
        History(path)
    assert path.read_text().startswith("not a database")


def test_a_history_that_cannot_be_written_says_so_and_changes_nothing(history):
    with sqlite3.connect(history.path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON run BEGIN SELECT RAISE(FAIL, 'the disk is full'); END")
    with pytest.raises(KataError, match=r"history\.db: the history cannot be used: the disk is full"):
        history.record(verdict(PASSED), "a", origin="pytest")
    with sqlite3.connect(history.path) as db:
        assert db.execute("SELECT count(*) FROM source").fetchone() == (0,)


def test_a_newer_history_is_left_alone(history):
    with sqlite3.connect(history.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(KataError, match="newer version"):
        History(history.path)


WRITER = """
import sys
from pathlib import Path
from graders.history import History
from graders.report import Check, Verdict
history = History(Path(sys.argv[1]))
while True:
    verdict = Verdict("attention", "a.py", "torch", "cpu", 7, (Check("x", 1, "passed"),))
    print(history.record(verdict, "x" * 5000, origin="watch").id, flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_it_recorded(tmp_path):
    """Two at once, killed in the middle of their writing."""
    path = tmp_path / "history.db"
    History(path)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = set()
    for writer in writers:
        said.update(int(writer.stdout.readline()) for _ in range(20))
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        said.update(int(line) for line in writer.communicate()[0].splitlines())
    found = {run.id for run in History(path).runs()}
    assert said <= found
    assert len(found - said) <= 2, "more than the writes under way were never confirmed"
