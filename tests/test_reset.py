"""A reset keeps the attempt, asks, and restores the stub; it never loses anything."""

import os
import pty
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from graders import KataError, find, reset, stubs
from graders.catalogue import ROOT
from graders.history import History
from graders.report import Check, Verdict

# Another test of this process may have imported JAX, which warns of any fork.
pytestmark = pytest.mark.filterwarnings("ignore")
KATA = find("attention")
STUB = stubs.derive(KATA, "numpy")
MINE = STUB.replace('raise NotImplementedError("attention")', "return q  # é\r", 1)


@pytest.fixture
def suite(tmp_path):
    """The suite in another folder, whose stubs may be written."""
    for name in ("graders", "katas", "solutions", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def kata(suite):
    moved = replace(KATA, folder=suite / "katas" / "attention")
    moved.stub("numpy").write_bytes(MINE.encode())
    return moved


@pytest.fixture
def history(suite):
    return History(suite / "state" / "history.db")


def test_the_attempt_is_kept_byte_by_byte_and_the_stub_is_back(kata, history):
    run = reset.reset(kata, "numpy", history)
    assert kata.stub("numpy").read_text(encoding="utf-8") == STUB
    assert history.text(run).encode() == MINE.encode()
    assert (run.outcome, run.origin, run.levels) == ("not graded", "reset", ())
    assert [(event.kind, event.detail) for event in history.events()] == [("reset", f"run {run.id}")]


def test_an_attempt_that_was_graded_as_it_is_is_that_run(kata, history):
    verdict = Verdict("attention", "stub_numpy.py", "numpy", "cpu", 7, (Check("x", 1, "failed", "wrong"),))
    graded = history.record(verdict, MINE, origin="pytest")
    history.record(verdict, MINE + "# other", origin="pytest")
    assert reset.reset(kata, "numpy", history) == graded
    assert len(history.runs()) == 2


def test_the_stub_itself_is_no_attempt(kata, history):
    kata.stub("numpy").write_text(STUB, encoding="utf-8")
    assert reset.attempt(kata, "numpy") is None
    assert reset.reset(kata, "numpy", history) is None
    kata.stub("numpy").unlink()
    assert reset.reset(kata, "numpy", history) is None
    assert kata.stub("numpy").read_text(encoding="utf-8") == STUB
    assert history.runs() == history.events() == ()


def test_nothing_is_overwritten_if_the_history_cannot_be_written(kata, history):
    with sqlite3.connect(history.path) as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON run BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    with pytest.raises(KataError, match=r"history\.db: the history cannot be used: the disk is full"):
        reset.reset(kata, "numpy", history)
    assert kata.stub("numpy").read_bytes() == MINE.encode()


def test_nothing_is_overwritten_if_the_history_does_not_give_it_back(kata, history, monkeypatch):
    monkeypatch.setattr(History, "text", lambda *_: "something else")
    with pytest.raises(KataError, match="the history does not give the attempt back; nothing was reset"):
        reset.reset(kata, "numpy", history)
    assert kata.stub("numpy").read_bytes() == MINE.encode()


def test_a_save_in_the_meantime_is_not_overwritten(kata, history, monkeypatch):
    note = History.note

    def saved(self, *args, **options):
        kata.stub("numpy").write_text("newer = 1\n", encoding="utf-8")
        return note(self, *args, **options)

    monkeypatch.setattr(History, "note", saved)
    with pytest.raises(KataError, match="changed in the meantime; nothing was reset"):
        reset.reset(kata, "numpy", history)
    assert kata.stub("numpy").read_text(encoding="utf-8") == "newer = 1\n"


def test_what_is_no_text_is_left_alone(kata, history):
    kata.stub("numpy").write_bytes(b"x = '\xff'")
    with pytest.raises(KataError, match=r"stub_numpy\.py: the attempt cannot be kept: .*move the file away"):
        reset.reset(kata, "numpy", history)
    assert kata.stub("numpy").read_bytes() == b"x = '\xff'"


def environment(suite):
    return {**os.environ, "PYTHONPATH": str(suite), "KATAS_STATE": str(suite / "state")}


def script(suite, *arguments, name="reset"):
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    done = subprocess.run(
        command, cwd=suite, env=environment(suite), capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def test_without_a_terminal_it_wants_a_yes(suite, kata):
    code, said = script(suite, "attention", "--framework", "numpy")
    assert code == 2
    assert "stub_numpy.py would be overwritten; say --yes" in said
    assert kata.stub("numpy").read_bytes() == MINE.encode()
    code, said = script(suite, "attention", "--framework", "numpy", "--yes")
    assert code == 0, said
    assert "kept as run 1: python scripts/history.py --attempt 1" in said
    assert kata.stub("numpy").read_text(encoding="utf-8") == STUB
    code, printed = script(suite, "--attempt", "1", name="history")
    assert code == 0
    assert printed.startswith(MINE)
    assert "there was no attempt" in script(suite, "attention", "--framework", "numpy", "--yes")[1]


@pytest.mark.parametrize(("answer", "kept", "code"), [(b"n\n", True, 1), (b"y\n", False, 0), (b"\x03", True, 130)])
def test_on_a_terminal_it_asks(suite, kata, answer, kept, code):
    terminal, end = pty.openpty()
    command = [sys.executable, "scripts/reset.py", "attention", "--framework", "numpy"]
    process = subprocess.Popen(
        command, cwd=suite, env=environment(suite), stdin=end, stdout=end, stderr=end, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(end)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(terminal, 4096)
    assert b"keep them in the history and restore the stub?" in said
    os.write(terminal, answer)
    assert process.wait(60) == code
    os.close(terminal)
    assert kata.stub("numpy").read_bytes() == (MINE if kept else STUB).encode()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["atention"], "there is no kata 'atention'; did you mean 'attention'?"),
        (["lora", "--framework", "numpy"], "lora is offered in torch, jax, not in numpy"),
    ],
)
def test_a_wrong_name_is_one_clear_line(suite, arguments, said):
    code, shown = script(suite, *arguments)
    assert (code, shown) == (2, f"reset: {said}\n")
