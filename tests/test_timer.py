"""`scripts/timer.py` and `scripts/watch.py` as a person runs them: on a terminal of their own (a pty), and by lines."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from graders import find
from graders.catalogue import ROOT
from graders.history import History
from tests.common import written

KATA = find("attention")
STUB = KATA.stub("numpy").read_text(encoding="utf-8")
RIGHT = KATA.solution("numpy").read_text(encoding="utf-8")
UNSCALED = RIGHT.replace(" / math.sqrt(q.shape[-1])  # (B, H, T, S)", "  # (B, H, T, S)")
ENDLESS = RIGHT.replace("    return _weights(q, k, mask) @ v", "    while True:\n        pass")
PATIENCE = 60.0  # seconds, for a machine under load


# Takes the terminal at its standard input for its own, then becomes the program. (pty.fork() would fork this process,
# in which another test may have started JAX's threads.)
LEAD = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A program on a terminal of its own, as its session's leader."""

    def __init__(self, *arguments, state):
        self.shown = ""
        environment = {**os.environ, "TERM": "xterm-256color", "KATAS_STATE": str(state), "PYTHONPATH": str(ROOT)}
        self.fd, end = pty.openpty()
        command = [sys.executable, "-c", LEAD, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=end, stdout=end, stderr=end, start_new_session=True
        )
        os.close(end)
        self.modes = termios.tcgetattr(self.fd)

    def until(self, *texts, seconds=PATIENCE):
        """Reads the screen until one of these texts came; what came since the last call."""
        deadline = time.monotonic() + seconds
        begin = len(self.shown)
        while not any(text in self.shown[begin:] for text in texts):
            assert time.monotonic() < deadline, f"none of {texts} in {self.shown[begin:][-3000:]!r}"
            self.read(0.2)
        return self.shown[begin:]

    def read(self, seconds):
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def end(self):
        """The exit code, once the program has ended."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"it does not end: {self.shown[-2000:]!r}"
            self.read(0.1)
        while select.select([self.fd], [], [], 0.1)[0]:
            before = len(self.shown)
            self.read(0)
            if len(self.shown) == before:
                break
        return code

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.fd)


@pytest.fixture
def path(tmp_path):
    return written(tmp_path, STUB, "mine_numpy.py")


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "state" / "history.db")


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def run(script, *arguments):
        opened.append(Terminal(ROOT / "scripts" / script, *arguments, state=tmp_path / "state"))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


@pytest.fixture
def piped(tmp_path):
    """Runs a script without a terminal, until it ends; `act(process, until)` is called meanwhile."""

    def run(script, *arguments, stdin="", act=None):
        environment = {**os.environ, "KATAS_STATE": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        read = ""

        def until(text):
            """Reads past the buffer, which `communicate` does not know."""
            nonlocal read
            while text not in read:
                part = os.read(process.stdout.fileno(), 1)
                assert part, f"it ended without {text!r}: {read}"
                read += part.decode(errors="ignore")

        if act:
            act(process, until)
        out, error = process.communicate(stdin, timeout=2 * PATIENCE)
        return process.returncode, read + out, error

    return run


def wait_for(what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found


def test_a_round_on_a_terminal(terminal, path, history):
    """Start, fail, hint, pause, pass, review; the terminal is as it was."""
    one = terminal("timer.py", "attention", "--attempt", path, "--minutes", "10")
    assert "10:00 left" in one.until("with your first save")
    one.press("\n")
    one.until("the clock runs")
    path.write_text(UNSCALED, encoding="utf-8")
    one.until("replay")
    one.press("h")
    one.until("hint  likely: The scores are not divided by sqrt(D).")
    one.press("p")
    one.until("paused")
    one.press("p")
    one.until("going on")
    path.write_text(RIGHT, encoding="utf-8")
    shown = one.until("no working solution")
    assert "passed: 0:" in shown
    assert "2 runs, 1 hint, 1 pause" in shown
    assert "personal best: the first one" in shown
    for answer in ("9\n", "2\n", "4\n", "4\n", "1\n"):
        one.until("1-5: ") if not one.shown.endswith("1-5: ") else None
        one.press(answer)
        one.until("1-5: ")
    one.press("\x04")  # the end of input skips the rest
    assert one.end() == 0
    assert "a score is a number from 1 to 5, not '9'" in one.shown
    assert "weakest: debugging (1) and correctness (2)" in one.shown
    assert "next, for debugging:" in one.shown
    assert termios.tcgetattr(one.fd) == one.modes
    (kept,) = history.rounds()
    assert kept.outcome == "passed"
    assert kept.detail["review"] == {"correctness": 2, "communication": 4, "abstraction": 4, "debugging": 1}
    assert [run.outcome for run in history.runs(round=kept.id, origin="timer")] == ["failed", "passed"]
    assert [history.text(run) for run in history.runs()] == [UNSCALED, RIGHT]


def test_ctrl_c_leaves_the_round_and_the_terminal_sane_and_the_next_start_goes_on(terminal, path, history):
    one = terminal("timer.py", "attention", "--attempt", path)
    one.until("with your first save")
    one.press("\n")
    one.until("59:58 left")
    one.press("\x03")
    assert one.end() == 130
    assert "the next start goes on with it" in one.shown
    assert one.shown.rindex("\x1b[?1049l") > one.shown.rindex("\x1b[?1049h"), "the alternate screen was left"
    assert one.shown.rindex("\x1b[?25h") > one.shown.rindex("\x1b[?25l"), "the cursor is shown again"
    assert termios.tcgetattr(one.fd) == one.modes
    (kept,) = history.rounds(ended=None)
    assert 1 < kept.active < 30
    other = terminal("timer.py", "attention", "--attempt", path)
    other.until("go on with it? [Y/n]")
    other.press("\n")
    assert "59:" in other.until("the clock goes on with Enter")
    other.press("q")
    assert "stopped: " in other.until("no working solution")
    other.press("\x03")
    assert other.end() == 0
    assert [round.outcome for round in history.rounds()] == ["stopped"]


def test_a_killed_round_goes_on(terminal, path, history):
    """Killed while a save is being graded: the round is there with its hints, and nothing of it keeps running."""
    one = terminal("timer.py", "attention", "--attempt", path)
    one.until("with your first save")
    path.write_text(UNSCALED, encoding="utf-8")
    one.until("replay")
    path.write_text(ENDLESS, encoding="utf-8")
    one.until("checking attention_shape")
    one.process.kill()
    one.end()
    (kept,) = history.rounds(ended=None)
    assert kept.detail["runs"] == 1
    path.write_text(RIGHT, encoding="utf-8")
    two = terminal("timer.py", "attention", "--attempt", path, "--resume", "--no-review")
    assert "passed: 0:" in two.until("the first one")
    assert two.end() == 0
    assert [round.outcome for round in history.rounds()] == ["passed"]


def test_an_endless_attempt_freezes_neither_screen_nor_keys(terminal, path):
    one = terminal("timer.py", "attention", "--attempt", path)
    one.until("with your first save")
    path.write_text(ENDLESS, encoding="utf-8")
    one.until("checking attention_shape")
    one.press("p")
    one.until("paused")
    one.press("c")
    one.press("c")
    one.until(*(f"checking attention_shape {seconds} s" for seconds in range(2, 60)))
    path.write_text(UNSCALED, encoding="utf-8")
    one.until("attention_values: without a mask")
    one.press("q")
    one.until("stopped: 0:0")


def test_suspended_and_resumed(terminal, path):
    one = terminal("timer.py", "attention", "--attempt", path, "--no-review")
    one.until("with your first save")
    one.press("\n")
    one.until("the clock runs")
    one.press("\x1a")
    one.until("\x1b[?1049l")
    wait_for(lambda: os.waitpid(one.process.pid, os.WNOHANG | os.WUNTRACED)[0])
    assert termios.tcgetattr(one.fd) == one.modes
    one.process.send_signal(signal.SIGCONT)
    one.until("paused")
    one.press("q")
    assert one.end() == 0
    assert termios.tcgetattr(one.fd) == one.modes


def test_without_a_terminal(piped, path, history):
    """Lines for each event; it runs until it is green though its input has ended."""

    def act(process, until):
        until("the clock runs")
        process.stdin.close()
        process.stdin = None
        path.write_text(UNSCALED, encoding="utf-8")
        wait_for(history.runs)
        path.write_text(RIGHT, encoding="utf-8")

    code, out, error = piped("timer.py", "attention", "--attempt", path, "--minutes", "9", act=act)
    assert (code, error) == (0, "")
    assert "\x1b" not in out
    assert re.search(r"^the clock runs\n   0:00  read, until 0:54\n", out)
    assert "checking\n" in out
    assert "attention_values: without a mask it is softmax(q k^T / sqrt(D)) v\n" in out
    assert "s after the save" in out
    assert re.search(r"\npassed: 0:\d\d of 9:00\n", out)
    assert [round.outcome for round in history.rounds()] == ["passed"]


def test_typed_lines_are_keys_and_scores(piped, path, history):
    lines = "h\n\nq\n3\n2\n"
    code, out, _ = piped("timer.py", "attention", "--attempt", path, stdin=lines)
    assert code == 0
    assert "save the file first" in out
    assert "stopped: 0:00 of 1:00:00" in out
    assert "weakest: communication (2) and correctness (3)" in out
    assert history.rounds()[0].detail["review"] == {"correctness": 3, "communication": 2}


def test_out_of_time(piped, path, history):
    code, out, _ = piped("timer.py", "attention", "--attempt", path, "--minutes", "0.02", "--no-review")
    assert code == 0
    assert "out of time: 0:01 of 0:01" in out
    assert history.rounds()[0].outcome == "out of time"


def test_new_keeps_the_unfinished_round_as_interrupted(piped, path, history):
    kept = history.begin(
        "timed", "attention", "numpy", str(path), 60.0, levels={}, level=None, runs=2, hints=0, pauses=0
    )
    code, out, _ = piped("timer.py", "attention", "--attempt", path, "--new", "--no-review", stdin="q\n")
    assert code == 0
    assert "the unfinished round is kept as interrupted at 0:00 of 1:00:00; a new one begins" in out
    assert [round.outcome for round in history.rounds()] == ["interrupted", "stopped"]
    assert history.rounds()[0].id == kept.id


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("timer.py", ("atention",), "timer: there is no kata 'atention'; did you mean 'attention'?\n"),
        ("timer.py", ("attention", "--resume", "--level", "1"), "timer: there is no unfinished round of attention in"),
        (
            "watch.py",
            ("attention", "--framework", "mxnet"),
            "watch: attention is offered in torch, jax, numpy, not in mxnet",
        ),
        ("watch.py", ("attention", "--attempt", "nowhere.py"), "watch: nowhere.py: there is no such file\n"),
    ],
)
def test_bad_input_is_one_line(piped, script, arguments, said):
    code, out, error = piped(script, *arguments)
    assert (code, out) == (2, "")
    assert error.startswith(said)
    assert error.count("\n") == 1


@pytest.mark.parametrize("script", ["timer.py", "watch.py"])
def test_help_has_an_example(piped, script):
    code, out, _ = piped(script, "--help")
    assert code == 0
    assert f"Example: python scripts/{script} " in out


def test_watch_on_a_terminal(terminal, path, history):
    path.write_text(UNSCALED, encoding="utf-8")
    one = terminal("watch.py", "attention", "--attempt", path)
    assert "left" not in one.until("replay")
    written(path.parent, RIGHT, "mine_numpy.py.new").replace(path)
    one.until("passed: 29 checks")
    one.press("\x03")
    assert one.end() == 130
    assert termios.tcgetattr(one.fd) == one.modes
    assert [(run.origin, run.outcome) for run in history.runs()] == [("watch", "failed"), ("watch", "passed")]


def test_watch_without_a_terminal(piped, path):
    def act(process, until):
        until("not started: `attention` still has the stub")
        path.write_text(UNSCALED, encoding="utf-8")
        until("replay")
        process.send_signal(signal.SIGTERM)

    code, out, error = piped("watch.py", "attention", "--attempt", path, act=act)
    assert (code, error) == (143, "")
    assert "attention_values: without a mask it is softmax(q k^T / sqrt(D)) v\n" in out
