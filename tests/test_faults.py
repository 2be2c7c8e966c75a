"""Whatever an attempt does, the person reads a clear sentence and the verdict is never "passed".

Each fault is a real attempt file: the right solution whose `attention` does the one thing wrong.
"""

import re
import shutil
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from graders import find, grade
from graders.catalogue import ROOT
from tests.common import written

SOLUTION = find("attention").solution("torch").read_text(encoding="utf-8")

# name: (the body that replaces attention's, what the message must say)
BODIES = {
    "loop": ("while True:\n    pass", r"stopped: no result after 2 s, at line \d+: pass|while True"),
    "loop under a bare except": (
        "while True:\n    try:\n        while True:\n            sum(range(100))\n    except:\n        pass",
        r"stopped: no result after 2 s, at line \d+: sum\(range\(100\)\)",
    ),
    "long C call": (
        "return 7 ** (10 ** 9)",
        r"stopped: no result after 2 s, at line \d+: return 7 \*\* \(10 \*\* 9\)",
    ),
    "sys.exit": ("import sys\nsys.exit(0)", r"attention ends the program with sys\.exit\(0\)"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", r"attention raised KeyboardInterrupt"),
    "os._exit": ("import os\nos._exit(0)", r"ended the whole process with exit code 0"),
    "segfault": (
        "import ctypes\nctypes.string_at(0)",
        r"crashed with a segmentation fault, at line \d+: ctypes",
    ),
    "abort": ("import os\nos.abort()", r"crashed: it was aborted, at line \d+: os\.abort"),
    "memory": (
        "hoard = []\nwhile True:\n    hoard.append(b'x' * 2**28)",
        r"stopped: it used more than [\d.]+ GB of memory, at line \d+|raised MemoryError|for want of memory",
    ),
    "flood": (
        "for i in range(10**6):\n    print(f'line {i} ' + 'x' * 100)\nreturn v",
        r"stopped: it printed more than 8 MB, at line \d+",
    ),
    "raises": ("return 1 / 0", r"attention raised ZeroDivisionError: division by zero"),
    "None": ("q @ k.mT", r"attention returns None: no return on this path\?"),
    "tuple": ("return q, k", r"attention returns a tuple of 2, expected a torch\.Tensor"),
    "list": ("return q.tolist()", r"attention returns a list of 2, expected a torch\.Tensor"),
    "float": ("return 1.0", r"attention returns a float, expected a torch\.Tensor"),
    "subclass": (
        "return torch.nn.Parameter(_softmax(q @ k.mT / math.sqrt(q.shape[-1])) @ v)",
        r"attention returns a torch\.Parameter, expected a torch\.Tensor",
    ),
    "alias": ("return v[:, :, :4]", r"attention returns an array that shares storage with v"),
    "NaN": (
        "return (q @ k.mT).softmax(-1) @ v * math.nan",
        r"168 of 168 entries of out are NaN, the first at out\[0, 0, 0, 0\]",
    ),
    "infinity": ("return (q @ k.mT).softmax(-1) @ v * math.inf", r"entries of out are infinite"),
    "mutation": (
        "q.mul_(0.5)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"attention changes its argument q in place",
    ),
    "mutation undone": (
        "q.mul_(2)\nq.div_(2)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"attention changes its argument q in place",
    ),
    "reseeds torch": (
        "torch.manual_seed(0)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes torch's global RNG",
    ),
    "reseeds NumPy": (
        "import numpy\nnumpy.random.seed(0)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes NumPy's global RNG",
    ),
    "reseeds random": (
        "import random\nrandom.seed(0)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes Python's random",
    ),
    "default dtype": (
        "torch.set_default_dtype(torch.float64)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes torch's default dtype",
    ),
    "grad mode": (
        "torch.set_grad_enabled(False)\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes torch's grad mode",
    ),
    "error state": (
        "import numpy\nnumpy.seterr(all='ignore')\nreturn (q @ k.mT).softmax(-1) @ v",
        r"changes NumPy's error state",
    ),
}

# name: (the whole file, what the message must say)
FILES = {
    "syntax error": (
        "def attention(q, k, v\n    return q\n",
        r"has a syntax error on line 1: '\(' was never closed",
    ),
    "empty": ("", r"the file has no function `attention`"),
    "misspelt": (
        "def atention(q, k, v, *, mask=None):\n    return q\n",
        r"expected a function `attention`, found `atention`",
    ),
    "not a function": ("attention = 3\n", r"the file has no function `attention`"),
    "signature": (
        "def attention(q, k):\n    return q\n",
        r"`attention` cannot be called as the contract says: too many positional arguments",
    ),
    "missing option": (
        "def attention(q, k, v):\n    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v\n",
        r"`attention` cannot be called as the contract says: got an unexpected keyword argument 'mask'",
    ),
    "import fails": (
        "import nowhere_to_be_found\n",
        r"does not load: ModuleNotFoundError: No module named 'nowhere",
    ),
    "raises while loading": ("x = 1 / 0\n", r"does not load: ZeroDivisionError"),
    "exits while loading": ("import sys\nsys.exit(3)\n", r"does not load: sys\.exit: 3"),
    "ends while loading": ("import os\nos._exit(0)\n", r"ended the whole process with exit code 0"),
    "loops while loading": ("while True:\n    pass\n", r"stopped: no result after 2 s, at line \d: "),
    "binary": ("\x00\x01", r"does not load|syntax error|null bytes"),
}


def with_body(body: str) -> str:
    """The solution with attention's body replaced."""
    head, rest = SOLUTION.split("    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)\n", 1)
    _, tail = rest.split("\n\n\n", 1)
    return head + textwrap.indent(body, "    ") + "\n\n\n" + tail


@pytest.fixture(autouse=True)
def _short_steps(monkeypatch):
    monkeypatch.setenv("KATAS_SECONDS", "2")
    monkeypatch.setenv("KATAS_MEMORY_GB", "1")


def check(attempt, expected):
    verdict = grade("attention", attempt)
    assert not verdict.passed
    failure = verdict.first_failure
    assert failure is not None
    assert failure.outcome == "failed", failure
    assert re.search(expected, failure.message), failure.message
    assert "site-packages" not in failure.message, "another's frames are shown"
    assert "graders/" not in failure.message, "grader code is shown"
    return verdict


@pytest.mark.parametrize("fault", BODIES)
def test_a_body(fault, tmp_path, monkeypatch):
    body, expected = BODIES[fault]
    if fault == "memory":
        monkeypatch.setenv("KATAS_SECONDS", "20")  # the memory is to run out first, on a busy machine too
    check(written(tmp_path, with_body(body)), expected)


@pytest.mark.parametrize("fault", FILES)
def test_a_file(fault, tmp_path):
    source, expected = FILES[fault]
    check(written(tmp_path, source), expected)


def test_the_syntax_error_shows_the_caret(tmp_path):
    verdict = check(
        written(tmp_path, "def attention(q, k, v, *, mask=None):\n    return q +\n"), "syntax error on line 2"
    )
    line, caret = verdict.first_failure.message.splitlines()[1:3]
    assert line.strip() == "return q +"
    assert caret.index("^") == line.index("+") + 1


def test_the_signatures_are_shown(tmp_path):
    verdict = check(written(tmp_path, FILES["signature"][0]), "cannot be called")
    assert "found     attention(q, k)" in verdict.first_failure.message
    assert "expected  attention(q: torch.Tensor" in verdict.first_failure.message


def test_only_the_persons_frames_are_shown(tmp_path):
    source = with_body("return helper(q)") + "\n\ndef helper(q):\n    return torch.cat([q, 3])\n"
    verdict = check(written(tmp_path, source), "attention raised TypeError")
    frames = verdict.first_failure.message.split("at        ")[1]
    assert re.search(r"line \d+, in attention: return helper\(q\)\n +line \d+, in helper: return torch.cat", frames)


def test_earlier_checks_are_kept_when_the_child_dies(tmp_path):
    source = with_body("if mask is not None and mask.ndim == 4:\n    import os\n    os._exit(0)\nreturn " + RIGHT)
    verdict = check(written(tmp_path, source), "ended the whole process")
    outcomes = {c.name: c.outcome for c in verdict.checks}
    assert outcomes["attention_shape"] == outcomes["attention_values"] == "passed"
    assert outcomes["attention_mask"] == "failed"
    assert outcomes["attention_gradients"] == outcomes["causal_shape"] == "waiting"


RIGHT = (
    "_softmax((q @ k.mT / math.sqrt(q.shape[-1]))"
    ".masked_fill(~(q.new_ones(1) > 0 if mask is None else mask), -math.inf)) @ v"
)


def test_a_flood_shows_the_first_and_the_last_lines(tmp_path):
    start = time.monotonic()
    verdict = check(written(tmp_path, with_body(BODIES["flood"][0])), "printed more than 8 MB")
    assert time.monotonic() - start < 20
    assert verdict.output[0].startswith("line 0 ")
    assert "[...]" in verdict.output
    assert len(verdict.output) <= 41


def test_a_few_prints_do_no_harm(tmp_path):
    assert grade("attention", written(tmp_path, with_body("print(q.shape)\nreturn " + RIGHT)), level=1).passed


def test_a_conftest_and_a_torch_beside_the_attempt_are_not_imported(tmp_path):
    written(tmp_path, "raise SystemExit('conftest was imported')", "conftest.py")
    written(tmp_path, "raise SystemExit('the wrong torch was imported')", "torch.py")
    assert grade("attention", written(tmp_path, SOLUTION)).passed


def test_what_the_attempt_starts_is_ended(tmp_path):
    kept = tmp_path / "pid"
    body = (
        f"import subprocess\nkept = subprocess.Popen(['sleep', '600']).pid\nopen({str(kept)!r}, 'w').write(str(kept))"
    )
    check(written(tmp_path, with_body(f"{body}\nwhile True:\n    pass")), "no result after 2 s")
    started = int(kept.read_text(encoding="utf-8"))
    gone = not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE
    assert gone, f"process {started} is still there"


def test_the_timeout_of_all_of_it(tmp_path):
    slow = with_body("import time\ntime.sleep(0.4)\nreturn " + RIGHT)
    verdict = grade("attention", written(tmp_path, slow), timeout=2.0)
    assert verdict.first_failure.outcome == "failed"
    assert "stopped: not done after 2 s in all" in verdict.first_failure.message


def test_the_server_survives_a_fault(tmp_path):
    check(written(tmp_path, with_body(BODIES["segfault"][0])), "segmentation fault")
    assert grade("attention", find("attention").solution("torch"), level=1).passed


def test_stub_kept_in_one_branch_is_a_failure_not_a_stub(tmp_path):
    body = "raise NotImplementedError('masks come later')"
    check(written(tmp_path, with_body(body)), "attention raised NotImplementedError: masks come later")


@pytest.mark.parametrize("fault", ["segfault", "os._exit", "loop", "None", "mutation"])
def test_through_pytest_too(fault, tmp_path):
    body, expected = BODIES[fault]
    attempt = written(tmp_path, with_body(body))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "katas/attention", "--attempt", str(attempt)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(expected, done.stdout), done.stdout
    assert done.stdout.rstrip().endswith(str(attempt)), "the path comes last, to click on"


def test_spawn_gives_the_same(tmp_path, monkeypatch):
    """Where a process cannot be forked, the child is started anew."""
    monkeypatch.setenv("KATAS_START", "spawn")
    attempt = written(tmp_path, with_body(BODIES["None"][0]))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "katas/attention", "--attempt", str(attempt)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert re.search(BODIES["None"][1], done.stdout), done.stdout + done.stderr


def test_a_copy_elsewhere_is_graded_as_well(tmp_path):
    shutil.copy(find("attention").solution("numpy"), tmp_path / "mine.py")
    assert grade("attention", tmp_path / "mine.py", framework="numpy").passed
