"""What a person types and what they see: `pytest katas/...` with each of its options, as processes of their own."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from graders import bugs, find, grade
from graders.catalogue import ROOT
from graders.errors import Mismatch
from graders.history import History
from tests.common import written

ATTENTION = find("attention")
RIGHT = ATTENTION.solution("numpy").read_text(encoding="utf-8")
UNSCALED = RIGHT.replace(" / math.sqrt(q.shape[-1])  # (B, H, T, S)", "  # (B, H, T, S)")
RETURN = "    return _weights(q, k, mask) @ v"
SCREEN = 40  # lines


def run(*arguments, stdin=subprocess.DEVNULL):
    command = [sys.executable, "-m", "pytest", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=stdin, timeout=120, input=None
    )
    return done.returncode, done.stdout + done.stderr


def test_the_solution_is_green_on_a_screen():
    code, shown = run("katas/attention", "--solution", "--framework", "numpy")
    assert code == 0, shown
    assert re.search(r"^Attention, NumPy, cpu, seed \d+\n\n  ✓ level 1  attention +\d+ of \d+ checks\n", shown)
    assert re.search(r"\npassed: \d+ checks in \d+\.\d\d s\nsolutions/attention_numpy\.py\n$", shown)
    assert len(shown.splitlines()) < SCREEN


def test_the_stub_is_not_started(tmp_path):
    from graders import stubs

    code, shown = run("katas/attention", "--attempt", written(tmp_path, stubs.derive(ATTENTION, "torch")))
    assert code == 1
    assert "○ level 1  attention                not started" in shown
    assert len(re.findall("waiting", shown)) == 3
    assert "not started: `attention` still has the stub's body" in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) < SCREEN


def test_a_hint_tries_the_mistakes_of_other_checks_while_there_is_time_only(monkeypatch):
    own = [bug for bug, _ in bugs.variants(ATTENTION, "numpy") if bug.check == "attention_values"]
    item = SimpleNamespace(name="test_attention_values")
    request = SimpleNamespace(kata=ATTENTION, framework="numpy", device="cpu")
    tried = []
    problem = Mismatch("unknown", observe=tried.append)
    assert bugs.likely(problem, item, request) == []
    assert len(tried) > len(own)
    monkeypatch.setattr(bugs, "PATIENCE", -1.0)
    tried.clear()
    assert bugs.likely(problem, item, request) == []
    assert len(tried) == len(own)


def test_a_hint_names_no_mistake_whose_check_was_passed(monkeypatch):
    """What a later check sees may look like a mistake that an earlier one has shown not to be there."""
    monkeypatch.setattr(bugs, "PATIENCE", 60.0)  # seconds; the machine may be busy
    said = next(bug.says for bug in bugs.bank(ATTENTION) if bug.name == "no-scale")
    item = SimpleNamespace(name="test_attention_edges")
    request = SimpleNamespace(kata=ATTENTION, framework="numpy", device="cpu")
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, 1, 2, 4))
    weights = np.exp(q @ k.swapaxes(-1, -2))
    unscaled = weights / weights.sum(-1, keepdims=True) @ v
    problem = Mismatch("off", observe=lambda variant: variant.attention(q, k, v), observed=unscaled)
    assert bugs.likely(problem, item, request) == [said]
    assert bugs.likely(problem, item, request, {"attention_values"}) == []


def test_a_failure_card(tmp_path):
    path = written(tmp_path, UNSCALED, "mine_numpy.py")
    code, shown = run("katas/attention", "--attempt", path, "--seed", 5, "--hint")
    assert code == 1
    assert "✗ level 1  attention                3 of 10 checks" in shown
    assert "attention_values: without a mask it is softmax(q k^T / sqrt(D)) v\n" in shown
    assert re.search(r"\n\d+ of 168 entries of out are off, the worst by [\d.]+, [\d,]+ x the budget of", shown)
    assert re.search(r"  called    attention\(q: \(2, 3, 4, 6\) float(32|64), k: \(2, 3, 5, 6\) float", shown)
    assert re.search(r"\n  expected  \S+  at out\[.*\]\n  got       \S+\n", shown)
    assert "  likely    The scores are not divided by sqrt(D)." in shown
    assert f"  replay    pytest katas/attention --attempt {path} --seed 5\n" in shown
    assert shown.endswith(f"{path}\n")
    assert len(shown.splitlines()) < SCREEN


def test_a_seed_replays_the_same_numbers(tmp_path):
    path = written(tmp_path, UNSCALED, "mine_numpy.py")
    cards = [re.sub(r"in \d+\.\d\d s", "", run("katas/attention", "--attempt", path, "--seed", 7)[1]) for _ in range(2)]
    assert cards[0] == cards[1]
    assert run("katas/attention", "--attempt", path, "--seed", 8)[1] != cards[0]


def test_a_level_ends_the_grading_there(tmp_path):
    source = RIGHT.replace("def blockwise_attention", "def blockwize_attention")
    path = written(tmp_path, source, "mine_numpy.py")
    code, shown = run("katas/attention", "--attempt", path, "--level", 3)
    assert code == 0, shown
    assert "level 3" in shown
    assert "level 4" not in shown
    code, shown = run("katas/attention", "--attempt", path)
    assert code == 1
    assert "expected a function `blockwise_attention`, found `blockwize_attention`" in shown


def test_one_check_alone_can_be_asked_for():
    code, shown = run("katas/attention/.grader.py::test_attention_values", "--solution", "--framework", "numpy")
    assert code == 0
    assert "1 of 1 checks" in shown


def test_pytests_own_k_works():
    code, shown = run("katas/attention", "--solution", "--framework", "numpy", "-k", "causal_values")
    assert code == 0
    assert "passed: 1 checks" in shown


def test_verbose_is_pytests_own_report():
    code, shown = run("katas/attention", "--solution", "--framework", "numpy", "--level", "1", "-v")
    assert code == 0
    assert re.search(r"test_attention_shape PASSED", shown)
    assert re.search(r"\d+ passed, \d+ deselected in", shown)


def test_collect_only_lists_the_checks():
    code, shown = run("katas/attention", "--collect-only", "-q", "--framework", "numpy")
    assert code == 0
    assert "test_attention_shape" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--attempt", "nowhere.py"], "--attempt nowhere.py: there is no such file"),
        (["--attempt", "README.md", "--solution"], "--attempt and --solution exclude each other"),
        (["--framework", "mxnet"], "invalid choice: 'mxnet' (choose from"),
        (["--framework", "numpy", "--device", "stand-in"], "--device stand-in: numpy has only cpu here"),
        (["--level", "9"], "there is no level 9: attention has 4"),
        (["--level", "0"], "there is no level 0: attention has 4"),
        (["--solution", "-n", "2"], "katas are graded in one process each: run them without -n"),
    ],
)
def test_a_wrong_option_is_one_clear_error(arguments, said):
    code, shown = run("katas/attention", *arguments)
    assert code == 4, shown
    assert said in shown
    assert "Traceback" not in shown


def test_of_several_katas_those_in_the_framework_are_graded():
    code, shown = run("katas/attention", "katas/lora", "--solution", "--framework", "numpy", "--level", "1")
    assert code == 0, shown
    assert shown.startswith("Attention, NumPy")
    assert "LoRA" not in shown


def test_the_stand_in_is_a_device():
    code, shown = run("katas/attention", "--solution", "--device", "stand-in", "--level", "1")
    assert code == 0, shown
    assert shown.startswith("Attention, PyTorch, stand-in + cpu (no accelerator here: parity is simulated), seed")


def test_the_cpu_alone_is_said():
    code, shown = run("katas/attention", "--solution", "--device", "cpu", "--level", "1")
    assert code == 0, shown
    assert shown.startswith("Attention, PyTorch, cpu, seed")


def test_the_name_of_a_file_tells_the_framework(tmp_path):
    assert run("katas/attention", "--attempt", written(tmp_path, RIGHT, "x_numpy.py"))[1].startswith("Attention, NumPy")


def test_what_the_attempt_prints_is_shown_with_a_failure(tmp_path):
    path = written(tmp_path, UNSCALED.replace(RETURN, f"    print('here I am')\n{RETURN}"), "x_numpy.py")
    shown = run("katas/attention", "--attempt", path)[1]
    assert "  printed\n    here I am" in shown


def test_what_is_shown_as_printed_comes_from_the_failing_check_alone(tmp_path):
    """The first check passes and the third fails; all print."""
    source = UNSCALED.replace(RETURN, f"    print(q.shape, mask is None)\n{RETURN}")
    shown = run("katas/attention", "--attempt", written(tmp_path, source, "x_numpy.py"))[1]
    printed = shown.partition("  printed\n")[2].partition("  replay")[0].splitlines()
    assert printed == ["    (2, 3, 4, 6) True"]


def test_a_long_check_shows_how_long_it_has_run(tmp_path):
    sleeps = f"    if not SLEPT:\n        SLEPT.append(1)\n        __import__('time').sleep(2.5)\n{RETURN}"
    slow = RIGHT.replace(RETURN, sleeps)
    path = written(tmp_path, f"{slow}\n\nSLEPT = []\n")
    code, shown = run("katas/attention", "--framework", "numpy", "--attempt", path, "--color=yes", "--level=1")
    assert code == 0, shown
    assert re.search(r"attention_shape\b.*checking attention_shape, 1 s.*checking attention_shape, 2 s", shown, re.S)
    _, plain = run("katas/attention", "--framework", "numpy", "--attempt", path, "--level=1")
    assert "checking" not in plain


def test_a_closed_output_is_no_fault_of_the_suite(tmp_path):
    source = UNSCALED.replace(RETURN, f"    __import__('os').close(1)\n{RETURN}")
    code, shown = run("katas/attention", "--attempt", written(tmp_path, source, "x_numpy.py"))
    assert code == 1
    assert "fault of the suite" not in shown


def test_a_debugger_runs_in_this_process(tmp_path):
    path = written(tmp_path, UNSCALED, "x_numpy.py")
    code, shown = run("katas/attention", "--attempt", path, "--pdb")
    assert "(Pdb)" in shown
    assert code in (1, 2)


def test_files_beside_the_attempt_do_no_harm(tmp_path):
    written(tmp_path, "raise SystemExit('conftest')", "conftest.py")
    written(tmp_path, "raise SystemExit('numpy')", "numpy.py")
    code, shown = run("katas/attention", "--attempt", written(tmp_path, RIGHT, "x_numpy.py"), "--level", "1")
    assert code == 0, shown


def test_the_suites_own_tests_are_pytests_as_ever():
    code, shown = run("tests/test_stubs.py", "-q")
    assert code == 0
    assert re.search(r"\d+ passed in", shown)


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("KATAS_STATE", str(tmp_path / "state"))
    return History()


def test_a_run_is_recorded_with_its_source(tmp_path, history):
    path = written(tmp_path, UNSCALED, "x_numpy.py")
    run("katas/attention", "--attempt", path, "--seed", "5")
    (kept,) = history.runs()
    assert (kept.origin, kept.kata, kept.framework, kept.seed) == ("pytest", "attention", "numpy", 5)
    assert kept.outcome == "failed"
    assert kept.levels == ("failed", "waiting", "waiting", "waiting")
    assert kept.failure.startswith("attention_values: ")
    assert history.text(kept) == UNSCALED


def test_neither_the_solution_nor_a_selection_nor_grade_is_recorded(tmp_path, history):
    path = written(tmp_path, RIGHT, "x_numpy.py")
    run("katas/attention", "--framework", "numpy", "--solution")
    run("katas/attention", "--attempt", path, "-k", "shape")
    run("katas/attention/.grader.py::test_attention_shape", "--attempt", path)
    assert grade("attention", path, framework="numpy").passed
    assert history.runs() == ()


def test_a_history_that_cannot_be_used_does_not_stop_the_grading(tmp_path, history):
    history.path.write_text("no database " * 200)
    code, shown = run("katas/attention", "--framework", "numpy", "--attempt", written(tmp_path, RIGHT, "x_numpy.py"))
    assert code == 0, shown
    assert "passed: " in shown
    assert "this run is not in the history: " in shown


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path, history):
    paths = [written(tmp_path, source, f"{i}_numpy.py") for i, source in enumerate([RIGHT, UNSCALED])]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda path: run("katas/attention", "--attempt", path, "--seed", "5"), paths * 2))
    assert [code for code, _ in done] == [0, 1, 0, 1], done
    said = [re.sub(r"in \d+\.\d+ s", "", shown) for _, shown in done]
    assert said[0] == said[2]
    assert said[1] == said[3]
    kept = sorted((history.text(run), run.outcome) for run in history.runs())
    assert kept == sorted([(RIGHT, "passed"), (UNSCALED, "failed")] * 2)
