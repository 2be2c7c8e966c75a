"""`grade()`: a Verdict whatever happens, from a warm process that can be lost."""

import os
import signal
import threading
import time

import psutil
import pytest

from graders import KataError, find, grade, runner
from tests.common import written

KATA = find("attention")
SOLUTION = KATA.solution("numpy")


def test_the_verdict():
    verdict = grade("attention", SOLUTION, framework="numpy", seed=11)
    assert verdict.passed
    assert (verdict.kata, verdict.framework, verdict.device, verdict.seed) == (
        "attention",
        "numpy",
        "cpu",
        11,
    )
    assert {check.level for check in verdict.checks} == {1, 2, 3, 4}
    assert all(check.seconds >= 0 and check.sentence for check in verdict.checks)


def test_the_first_framework_is_the_default():
    assert grade("attention", KATA.stub("torch"), level=1).framework == "torch"


def test_a_level_and_a_check_alone():
    assert {c.level for c in grade("attention", SOLUTION, framework="numpy", level=2).checks} == {1, 2}
    alone = grade("attention", SOLUTION, framework="numpy", check="causal_offset")
    assert [check.name for check in alone.checks] == ["causal_offset"]


def test_what_cannot_be_graded_raises():
    with pytest.raises(KataError, match="there is no kata 'atention'"):
        grade("atention", SOLUTION)
    with pytest.raises(ValueError, match="attention is offered in torch, jax, numpy, not in mxnet"):
        grade("attention", SOLUTION, framework="mxnet")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        grade("attention", "nowhere.py")


def test_a_device_that_is_not_there_is_an_error_not_a_failure():
    verdict = grade("attention", SOLUTION, framework="numpy", device="cuda")
    assert not verdict.passed
    assert verdict.first_failure.outcome == "error"
    assert "--device cuda: numpy has only cpu here" in verdict.first_failure.message


def test_the_whole_grading_has_a_time_limit(tmp_path):
    head = "    return _weights(q, k, mask) @ v"
    source = SOLUTION.read_text(encoding="utf-8").replace(head, f"    import time; time.sleep(60)\n{head}")
    start = time.monotonic()
    verdict = grade("attention", written(tmp_path, source), framework="numpy", timeout=3.0)
    assert time.monotonic() - start < 20
    assert not verdict.passed
    assert "not done after 3 s in all" in verdict.first_failure.message


def test_settings_are_those_of_the_call(tmp_path, monkeypatch):
    """Not of when the warm process was started."""
    runner._SERVERS.pop((os.getpid(), "numpy"), None)
    path = written(tmp_path, "import time\ntime.sleep(1.5)\n" + SOLUTION.read_text(encoding="utf-8"))
    monkeypatch.setenv("KATAS_SECONDS", "0.5")
    assert not grade("attention", path, framework="numpy", check="attention_shape").passed
    monkeypatch.delenv("KATAS_SECONDS")
    assert grade("attention", path, framework="numpy", check="attention_shape").passed


def test_a_lost_process_is_replaced():
    assert grade("attention", SOLUTION, framework="numpy", level=1).passed
    server = runner._SERVERS[os.getpid(), "numpy"]
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    assert grade("attention", SOLUTION, framework="numpy", level=1).passed


def test_a_process_lost_in_the_middle_gives_an_error(tmp_path):
    """The grading process kills its own grandparent, which no attempt is meant to do: the Verdict says so."""
    kill = "import os, psutil, signal\n[os.kill(p.pid, signal.SIGKILL) for p in psutil.Process().parents()[1::-1]]\n"
    verdict = grade("attention", written(tmp_path, kill), framework="numpy")
    assert not verdict.passed
    assert verdict.first_failure.outcome == "error"
    assert grade("attention", SOLUTION, framework="numpy", level=1).passed


def test_gradings_at_once_do_not_disturb_each_other(tmp_path):
    wrong = written(tmp_path, "def attention(q, k, v, *, mask=None):\n    return q\n")
    found = {}

    def one(i):
        path = SOLUTION if i % 2 else wrong
        found[i] = grade("attention", path, framework="numpy", level=1, seed=i).passed

    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: bool(i % 2) for i in range(6)}


def test_checks_are_told_as_they_come():
    seen = []
    verdict = grade("attention", SOLUTION, framework="numpy", level=1, progress=seen.append)
    assert [check for check in seen if check.outcome != "checking"] == list(verdict.checks)
    assert [check.name for check in seen if check.outcome == "checking"] == [check.name for check in verdict.checks]
    assert all(check.sentence and check.level == 1 for check in seen)


def test_a_grading_can_be_stopped(tmp_path):
    """At once, with what the attempt started, and the next grading is as good as any."""
    source = "import subprocess\nsubprocess.Popen(['sleep', '300'])\nwhile True:\n    pass\n"
    path = written(tmp_path, source)
    runner.stop("numpy")  # nothing is under way: nothing happens
    found = []
    grading = threading.Thread(target=lambda: found.append(grade("attention", path, framework="numpy")))
    grading.start()
    deadline = time.monotonic() + 20
    while not sleepers() and time.monotonic() < deadline:
        time.sleep(0.02)
    start = time.monotonic()
    runner.stop("numpy")
    grading.join()
    assert time.monotonic() - start < 5, "the limit of 10 s a check ended it, not the stop"
    assert found[0].first_failure.outcome == "error"
    assert "stopped by whoever asked for it" in found[0].first_failure.message
    assert not sleepers()
    assert grade("attention", SOLUTION, framework="numpy", level=1).passed


def test_an_interrupted_grading_gives_its_verdict_to_nobody_else(tmp_path):
    """As when a notebook's kernel is interrupted: the next call must not read the answer to the last one."""
    slow = written(tmp_path, "import time\ntime.sleep(3)\n" + SOLUTION.read_text(encoding="utf-8"), "slow.py")
    empty = written(tmp_path, "", "empty.py")
    grade("attention", SOLUTION, framework="numpy", level=1)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        grade("attention", slow, framework="numpy")
    verdict = grade("attention", empty, framework="numpy")
    assert verdict.attempt.endswith("empty.py")
    assert verdict.first_failure.outcome == "failed"


def spares(count, *, besides=()):
    """The processes that wait to grade the same again, once there are so many and the others have ended."""
    server = psutil.Process(runner._SERVERS[os.getpid(), "numpy"].process.pid)
    deadline = time.monotonic() + 20
    while len(found := server.children()) != count or set(found) & set(besides):
        assert time.monotonic() < deadline, f"{found} wait, expected {count}"
        time.sleep(0.02)
    return found


def test_who_watches_is_graded_by_a_process_that_waits(tmp_path):
    """It reads the attempt only when it is asked, draws its own seed, and is given up for any other request."""

    def graded(source, **options):
        options = {"level": 1, **options}
        path = written(tmp_path, source)
        return grade("attention", path, framework="numpy", progress=lambda _: None, **options)

    right = SOLUTION.read_text(encoding="utf-8")
    wrong = right.replace(" / math.sqrt(q.shape[-1])  # (B, H, T, S)", "  # (B, H, T, S)")
    first = graded(wrong)
    (waiting,) = spares(1)
    second = graded(right)
    assert not first.passed
    assert second.passed
    assert first.seed != second.seed
    (waiting,) = spares(1, besides=[waiting])
    other = graded(right, level=2, seed=5)
    assert other.passed
    assert {check.level for check in other.checks} == {1, 2}
    (waiting,) = spares(1, besides=[waiting])
    waiting.kill()
    assert graded(right, level=2, seed=5).passed, "one that was lost is replaced"
    assert grade("attention", SOLUTION, framework="numpy", level=1).passed
    assert spares(0) == [], "who does not watch keeps none"


def test_a_process_that_waits_ends_with_its_parent(tmp_path):
    path = written(tmp_path, SOLUTION.read_text(encoding="utf-8"))
    grade("attention", path, framework="numpy", level=1, progress=lambda _: None)
    (waiting,) = spares(1)
    server = runner._SERVERS[os.getpid(), "numpy"]
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    waiting.wait(5)
    assert grade("attention", path, framework="numpy", level=1).passed


def test_nothing_is_left_running(tmp_path):
    source = "import subprocess\nsubprocess.Popen(['sleep', '301'])\n" + SOLUTION.read_text(encoding="utf-8")
    assert grade("attention", written(tmp_path, source), framework="numpy", level=1).passed
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and sleepers(301):
        time.sleep(0.05)
    assert not sleepers(301)


def sleepers(seconds=300):
    """Each test that leaves one behind has its own number of seconds: another may run at the same time."""
    return [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["cmdline"] == ["sleep", str(seconds)]]
