"""What a save, a key and time do to a practice, with a real history and an engine that only notes what it is asked."""

import contextlib
import io
import os
import signal
import subprocess
import sys

import psutil
import pytest
from rich.console import Console

from graders import find
from graders.errors import KataError
from graders.history import History
from graders.practice.keys import Answers
from graders.practice.loop import Practice
from graders.practice.opening import choose, unfinished
from graders.practice.rounds import Timed
from graders.practice.screen import Page
from graders.practice.terminal import Desk, Ended
from graders.practice.watching import Checking, Gone, Graded, Hinted, Progress, Trouble
from graders.report import Check, Verdict
from tests.common import written

KATA = find("attention")
STUB = KATA.stub("numpy").read_text(encoding="utf-8")
FAILS = Check("attention_values", 1, "failed", "3 of 4 entries are off\nexpected  1", 0.5, "it is softmax(q k^T) v")
WAITS = Check("causal_values", 2, "waiting", sentence="query i sees the keys j <= i")


class Asked:
    def __init__(self):
        self.calls = []

    def hint(self):
        self.calls.append("hint")

    def again(self):
        self.calls.append("again")


def verdict(*checks):
    return Verdict("attention", "a.py", "numpy", "cpu", 7, checks, replay="pytest katas/attention --seed 7")


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "history.db")


@pytest.fixture
def begin(tmp_path, history):
    """A practice of the stub, with a clock of so many minutes or none."""

    def practice(minutes=10.0, **options):
        path = written(tmp_path, STUB, "mine_numpy.py")
        choice = choose("attention", None, path, options.pop("level", None))
        timed = Timed(minutes, choice.level) if minutes else None
        origin = "timer" if minutes else "watch"
        return Practice(choice, history, origin, Asked(), timed=timed, from_stub=choice.untouched, **options)

    return practice


def drawn(practice, now, width=100, height=30):
    console = Console(width=width, height=height, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(Page(practice, now), end="")
    return capture.get().split("\n")


def save(practice, now, *checks):
    """A save whose grading takes a second."""
    practice.event(Checking(True), now)
    practice.event(Graded(verdict(*checks), "source", 1.0), now + 1)


def test_enter_starts_the_clock_and_the_record(begin, history):
    practice = begin()
    assert history.rounds() == ()
    practice.key("enter", 100)
    practice.tick(130)
    (kept,) = history.rounds(ended=None)
    assert (kept.kind, kept.kata, kept.framework, kept.minutes) == ("timed", "attention", "numpy", 10)
    assert kept.active == 30
    assert kept.detail["from_stub"] is True


def test_the_first_save_starts_the_clock_but_what_was_there_does_not(begin, history):
    practice = begin()
    practice.event(Checking(False), 5)
    practice.event(Graded(verdict(FAILS), "source", 0.3, saved=False), 6)
    assert not practice.timed.started
    save(practice, 10, FAILS, WAITS)
    assert practice.timed.started
    assert practice.timed.elapsed(21) == 10, "the second of the grading is not the person's"
    assert [run.round for run in history.runs()] == [None, 1]
    assert history.rounds()[0].detail["runs"] == 1


def test_each_second_is_kept(begin, history):
    practice = begin()
    practice.key("enter", 0)
    for quarter in range(1, 41):
        practice.tick(quarter / 4)
    assert history.rounds()[0].active >= 9


def test_a_pass_ends_the_round(begin, history):
    practice = begin()
    practice.key("enter", 0)
    save(practice, 60, FAILS, WAITS)
    save(practice, 121, Check("attention_values", 1, "passed"), Check("causal_values", 2, "passed"))
    practice.tick(123)
    (kept,) = history.rounds()
    assert practice.over
    assert (kept.outcome, kept.active, kept.detail["levels"]) == ("passed", 120, {"1": 120, "2": 120})
    assert [(run.outcome, run.origin, run.round) for run in history.runs()] == [
        ("failed", "timer", kept.id),
        ("passed", "timer", kept.id),
    ]
    assert [history.text(run) for run in history.runs()] == ["source", "source"]


@pytest.mark.parametrize(("act", "outcome"), [("q", "stopped"), ("wait", "out of time")])
def test_other_ends(begin, history, act, outcome):
    practice = begin()
    practice.key("enter", 0)
    if act == "q":
        practice.key("q", 30)
    practice.tick(600)
    practice.save(601)
    assert practice.over
    assert history.rounds()[0].outcome == outcome


def test_hints_come_one_by_one_and_are_recorded(begin, history):
    practice = begin()
    practice.key("enter", 0)
    practice.key("h", 1)
    assert practice.note == "save the file first: a hint looks at what fails"
    save(practice, 2, FAILS, WAITS)
    practice.key("h", 4)
    assert practice.engine.calls == ["hint"]
    practice.event(Hinted(FAILS, ("The scores are not divided by sqrt(D).",)), 5)
    practice.key("h", 6)
    assert practice.hints == [
        "likely: The scores are not divided by sqrt(D).",
        "the check asks: it is softmax(q k^T) v",
    ]
    for _ in range(20):
        practice.key("h", 7)
    assert practice.note.startswith("no further hint; the reference is shown after a pass")
    events = history.events(kind="hint", round=1)
    assert [event.detail for event in events] == practice.hints
    assert practice.timed.hints == len(events) == history.rounds()[0].detail["hints"]
    save(practice, 10, FAILS, WAITS)
    practice.key("h", 12)
    practice.event(Hinted(FAILS, ("The mask is added to the weights.",)), 13)
    assert practice.hints == ["likely: The mask is added to the weights."], "on a new verdict, only what is new"


def test_a_file_that_is_gone_and_a_fault_are_said_and_the_clock_goes_on(begin):
    practice = begin()
    practice.key("enter", 0)
    practice.event(Checking(True), 10)
    practice.event(Gone(), 20)
    assert "is not there; it is graded when it is back" in practice.note
    practice.event(Checking(True), 30)
    practice.event(Trouble("no server"), 40)
    assert practice.note == "not graded: no server"
    assert practice.timed.elapsed(41) == 21


def test_keys_without_a_clock(begin, history):
    practice = begin(None)
    for key in ("p", "enter", "x", "", "r", "down", "k"):
        practice.key(key, 1)
    assert practice.engine.calls == ["again"]
    save(practice, 2, FAILS)
    assert history.runs()[0].origin == "watch"
    practice.key("q", 3)
    assert practice.over
    assert history.rounds() == ()


def test_the_history_that_cannot_be_written_ends_nothing(begin, history, monkeypatch):
    practice = begin()
    practice.key("enter", 0)

    def full(*_, **__):
        raise KataError("the disk is full")

    for name in ("record", "save", "note"):
        monkeypatch.setattr(history, name, full)
    save(practice, 1, FAILS)
    practice.key("h", 3)
    practice.event(Hinted(FAILS), 4)
    assert practice.hints
    assert practice.note == "not kept: the disk is full"
    assert not practice.over


def test_the_screen_is_exactly_as_large_as_it_is(begin):
    practice = begin()
    for width, height in ((100, 30), (40, 10), (12, 3), (200, 60)):
        lines = drawn(practice, 0, width, height)
        assert len(lines) == height
        assert all(len(line) <= width for line in lines)
    assert "10:00 left" in drawn(practice, 0)[0]
    assert any("the clock starts with Enter" in line for line in drawn(practice, 0))
    assert not any("softmax(q kᵀ" in line for line in drawn(practice, 0)), "the spec is read on the clock"
    practice.key("enter", 0)
    text = "\n".join(drawn(practice, 0, height=60))
    assert "softmax(q kᵀ" in text
    assert " edge " in text.splitlines()[1]
    practice.key("page down", 1)
    assert drawn(practice, 1) != drawn(begin(), 1)


def test_the_screen_shows_a_failure_before_the_grading_is_done(begin):
    practice = begin()
    practice.event(Checking(True), 0)
    assert any(line.startswith("checking") for line in drawn(practice, 0.1))
    practice.event(Progress(Check("attention_mask", 1, "checking")), 0.1)
    practice.event(Progress(FAILS), 0.2)
    text = "\n".join(drawn(practice, 2.2))
    assert "checking attention_mask 2 s" in text
    assert "3 of 4 entries are off" in text
    assert "level 4" in text
    practice.event(Graded(verdict(FAILS, WAITS), "source", 0.31), 2.3)
    text = "\n".join(drawn(practice, 3))
    assert "not yet, 0.31 s after the save" in text
    assert "replay    pytest katas/attention --seed 7" in text


def test_what_was_asked_for_is_chosen_or_refused_in_one_line(tmp_path):
    path = written(tmp_path, STUB, "mine_jax.py")
    assert choose("attention", None, path, None).framework == "jax"
    assert choose("attention", None, None, 4).level is None, "up to the last level is all of them"
    for arguments, said in (
        (("atention", None, None, None), "did you mean 'attention'"),
        (("attention", "mxnet", None, None), "attention is offered in torch, jax, numpy, not in mxnet"),
        (("attention", None, tmp_path / "no.py", None), "there is no such file"),
        (("attention", None, None, 5), "there is no level 5: attention has 4 in PyTorch"),
    ):
        with pytest.raises(KataError, match=said):
            choose(*arguments)


def test_an_unfinished_round_is_found_unless_its_process_still_runs(begin, history):
    practice = begin()
    practice.key("enter", 0)
    (kept,) = history.rounds()
    kept.detail["process"] = [os.getppid(), psutil.Process(os.getppid()).create_time()]
    history.save(kept)
    with pytest.raises(KataError, match=f"is going on in another terminal, process {os.getppid()}"):
        unfinished(history, practice.choice)
    code = "import psutil, os; print(os.getpid(), psutil.Process().create_time())"
    pid, began = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    (kept,) = history.rounds()
    kept.detail["process"] = [int(pid), float(began)]
    history.save(kept)
    assert unfinished(history, practice.choice) == kept
    assert unfinished(history, begin(level=2).choice) is None, "a round up to another level is another one"
    history.end(kept, "stopped")
    assert unfinished(history, practice.choice) is None


def test_ctrl_c_between_questions_is_noticed_at_the_next():
    with Answers() as answers:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            answers.read()


def test_a_signal_ends_the_practice_though_something_swallowed_it():
    class Busy:
        over = False

        def __init__(self):
            self.news = []

        def key(self, *_):
            with contextlib.suppress(Ended):
                os.kill(os.getpid(), signal.SIGTERM)

        def tick(self, _):
            pass

    desk = Desk(Console(file=io.StringIO()))
    with pytest.raises(Ended) as ended:
        desk.play(Busy(), lambda: desk.inbox.put("x"))
    assert ended.value.code == 128 + signal.SIGTERM
