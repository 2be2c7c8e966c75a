"""Debugging drills: the mistakes show whichever are left, what counts as fixed, and the program from start to end."""

import ast
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from graders import KataError, bugs, find, grade
from graders.bugs import Bug
from graders.catalogue import ROOT
from graders.history import History
from graders.practice import drill, drilling
from graders.practice.drill import Candidate, Drill
from tests.common import OFFERED, name, written

KATA = find("attention")
RIGHT = drill.bare(KATA.solution("numpy").read_text(encoding="utf-8"))
LINES = RIGHT.splitlines()
PROJECTION, SCORES = ") @ w_o", "scores = q @ np.swapaxes(k[..., start:stop, :], -1, -2)"


def candidate(title, check, find_, replace):
    """A mistake in the bare solution that stands in no bank."""
    assert RIGHT.count(find_) == 1
    wrong = RIGHT.replace(find_, replace)
    (opcode,) = [o for o in drill.SequenceMatcher(None, LINES, wrong.splitlines()).get_opcodes() if o[0] != "equal"]
    _, i1, i2, j1, j2 = opcode
    return Candidate(Bug(title, check, f"{title} is wrong.", ()), ((i1, i2, tuple(wrong.splitlines()[j1:j2])),))


NO_PROJECTION = candidate("no-projection", "multi_head_shape", PROJECTION, ")")
ALL_SCORES = candidate("all-scores", "blockwise_cost", SCORES, "scores = (q @ np.swapaxes(k, -1, -2))[..., start:stop]")
DRILL = drill.compose(LINES, [NO_PROJECTION, ALL_SCORES], seed=3)


# The text and its mistakes.


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_a_bare_solution_is_the_solution_without_what_tells(kata, framework):
    source = kata.solution(framework).read_text(encoding="utf-8")
    bare = drill.bare(source)
    assert "#" not in bare.replace('"#', "")
    assert ast.get_docstring(ast.parse(bare)) == ast.get_docstring(ast.parse(source)).split("\n\n")[0]
    assert ast.dump(ast.Module(ast.parse(bare).body[1:], [])) == ast.dump(ast.Module(ast.parse(source).body[1:], []))


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_each_mistake_of_the_bank_can_be_made_and_undone(kata, framework):
    right = drill.bare(kata.solution(framework).read_text(encoding="utf-8"))
    sources = {bug.name: source for bug, source in bugs.variants(kata, framework)}
    found = list(drill.candidates(kata, framework, right.splitlines()))
    assert len(found) >= 0.9 * len(sources)
    for each in found:
        made = drill.compose(right.splitlines(), [each], seed=1)
        assert made.text == drill.bare(sources[each.bug.name])
        assert made.repaired(made.text) == right, each.bug.name
        assert made.repaired(made.text, but=[each.bug.name]) == made.text


def test_comments_within_strings_stay():
    assert drill.bare('"""A."""\nx = "# no comment"  # one\n# gone\ny = 1\n') == '"""A."""\nx = "# no comment"\ny = 1\n'


def test_one_mistake_is_undone_and_the_other_stays():
    assert PROJECTION not in DRILL.text
    assert SCORES not in DRILL.text
    only = DRILL.repaired(DRILL.text, but=["all-scores"])
    assert PROJECTION in only
    assert SCORES not in only
    assert DRILL.repaired(DRILL.text) == RIGHT


def test_what_the_person_changed_elsewhere_stays_changed():
    edited = "import os\n" + DRILL.text.replace(
        "    if causal and queries", "    print(queries)\n    if causal and queries"
    )
    assert DRILL.repaired(edited) == "import os\n" + RIGHT.replace(
        "    if causal and queries", "    print(queries)\n    if causal and queries"
    )


def test_what_the_person_tried_there_is_undone_too():
    tried = DRILL.text.replace("(*x.shape[:2], -1)\n", "(*x.shape[:2], -1) @ w_o.T\n")
    assert DRILL.repaired(tried) == RIGHT
    assert DRILL.repaired(tried, but=["no-projection"]) == tried.replace(
        "(q @ np.swapaxes(k, -1, -2))[..., start:stop]", SCORES[9:]
    )
    around = tried.replace("    heads = causal_attention(", "    outs = causal_attention(")
    assert "@ w_o.T" in DRILL.repaired(around), "its surroundings are no longer known"


def test_lines_that_are_missing_are_put_back():
    found = 'keys ({keys}): the first would see none")\n    return attention'
    raises = f'    if queries > keys:\n        raise ValueError(f"more queries ({{queries}}) than {found}'
    gone = candidate("gone", "causal_errors", raises, "    return attention")
    made = drill.compose(LINES, [gone, ALL_SCORES], seed=1)
    assert made.repaired(made.text, but=["all-scores"]).count("raise ValueError") == RIGHT.count("raise ValueError")
    theirs = made.text.replace(
        "    return attention(q, k, v, mask=_c", "    assert queries\n    return attention(q, k, v, mask=_c"
    )
    assert made.repaired(theirs) == RIGHT


def test_it_comes_back_from_the_history_as_it_was():
    assert Drill.of(json.loads(json.dumps(DRILL.kept()))) == DRILL


def test_where_a_mistake_stands():
    places = [DRILL.place(hunk) for mistake in DRILL.mistakes for hunk in mistake.hunks]
    assert places == ["line 75, in multi_head_attention", "line 98, in blockwise_attention"]
    assert PROJECTION.strip(" )") not in DRILL.lines()[74]


# Which mistakes are chosen.


def test_mistakes_that_touch_or_have_one_check_do_not_go_together():
    touching = candidate(
        "touching",
        "blockwise_values",
        "        if causal:\n            scores =",
        "        if True:\n            scores =",
    )
    same = candidate("same", "blockwise_cost", "peak = new_peak", "peak = new_peak + 0")
    assert not ALL_SCORES.fits(touching)
    assert not touching.fits(ALL_SCORES)
    assert not ALL_SCORES.fits(same)
    assert ALL_SCORES.fits(NO_PROJECTION)


def test_a_drill_is_what_it_says():
    """The same seed gives the same; every selection of what is left fails in full, and the repaired text passes."""
    chosen = drill.choose(KATA, "numpy", 2, seed=2)
    assert drill.choose(KATA, "numpy", 2, seed=2) == chosen
    assert drill.choose(KATA, "numpy", 2, seed=3).mistakes != chosen.mistakes
    assert len({mistake.check for mistake in chosen.mistakes}) == 2
    assert grade_text(chosen.repaired(chosen.text)).passed
    for left in ([chosen.mistakes[0].name], [chosen.mistakes[1].name], [m.name for m in chosen.mistakes]):
        verdict = grade_text(chosen.repaired(chosen.text, but=left))
        assert verdict.first_failure.outcome == "failed", left


def grade_text(text, **options):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return grade("attention", written(Path(folder), text), framework="numpy", **options)


def test_a_mistake_that_hides_another_is_not_taken():
    hider = candidate(
        "hider",
        "blockwise_cost",
        "    peak = np.full(",
        "    q = q * q.shape[-1] ** 0.5\n"
        "    return causal_attention(q, k, v) if causal else attention(q, k, v)\n    peak = np.full(",
    )
    hidden = candidate("hidden", "blockwise_values", "out = out * rescale + weights", "out = out + weights")
    assert drill.shows(KATA, "numpy", LINES, [hider], 1)
    assert drill.shows(KATA, "numpy", LINES, [hidden], 1)
    assert not drill.shows(KATA, "numpy", LINES, [hider, hidden], 1)
    assert drill.shows(KATA, "numpy", LINES, [hidden, NO_PROJECTION], 1)


def test_what_nothing_catches_is_not_taken():
    harmless = candidate("harmless", "blockwise_values", "peak = new_peak", "peak = new_peak + 0")
    assert not drill.shows(KATA, "numpy", LINES, [harmless], 1)
    unknown = candidate("unknown", "no_such_check", "peak = new_peak", "peak = 0")
    assert not drill.shows(KATA, "numpy", LINES, [unknown], 1)


def test_more_mistakes_than_there_are_is_said(monkeypatch):
    with pytest.raises(KataError, match="a drill has 1 to 4 mistakes, not 5"):
        drill.choose(KATA, "numpy", 5, seed=1)
    monkeypatch.setattr(drill, "candidates", lambda *_: iter([NO_PROJECTION]))
    with pytest.raises(KataError, match=r"\.bugs\.toml: no 2 mistakes were found in numpy that show together"):
        drill.choose(KATA, "numpy", 2, seed=1)


# What counts as fixed.


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("KATAS_STATE", str(tmp_path / "state"))
    return History()


@pytest.fixture
def going(history):
    return drilling.begin(KATA, "numpy", DRILL, drilling.place(KATA, "numpy"), history)


def saved(going, text):
    """One save, graded as the program does."""
    going.path.write_text(text, encoding="utf-8")
    going.graded(grade("attention", going.path, framework="numpy"), text)
    return set(going.fixed)


def test_each_fix_counts_when_it_is_made(going, history):
    """The second mistake's check waits behind the first one's level; its fix counts all the same."""
    assert going.path.name == "attention-1_numpy.py"
    assert saved(going, DRILL.text) == set()
    assert history.runs() == (), "nothing of the person's is in it"
    later = DRILL.repaired(DRILL.text, but=["no-projection"])
    assert saved(going, later) == {"all-scores"}
    assert saved(going, later + "def (\n") == {"all-scores"}, "a syntax error says nothing"
    assert saved(going, DRILL.text) == set(), "a mistake that is back is back"
    wrong = later.replace("reshape(*x.shape[:2], -1)", "reshape(*x.shape[:2], -1) @ w_o * 2")
    assert saved(going, wrong) == {"all-scores"}, "half a fix: the shape is right, the values are not"
    assert saved(going, RIGHT) == {"all-scores", "no-projection"}
    kept = history.runs(round=going.round.id)
    assert [run.outcome for run in kept] == ["failed", "failed", "failed", "failed", "passed"]
    assert {run.origin for run in kept} == {"debug"}
    assert not history.may_see_solution("attention", "numpy")


def test_a_fix_that_does_not_fix_does_not_count(going):
    tried = DRILL.text.replace(
        "(q @ np.swapaxes(k, -1, -2))[..., start:stop]", "(q @ np.swapaxes(k, -2, -1))[..., start:stop]"
    )
    assert tried != DRILL.text
    assert saved(going, tried) == set()


def test_the_clock_stands_while_it_is_graded(going):
    going.run(100.0)
    assert going.elapsed(103.0) == 3.0
    going.stand(104.0)
    assert going.elapsed(200.0) == 4.0
    going.run(200.0)
    going.keep(201.0)
    assert going.history.rounds()[0].active == 5.0
    going.end("passed", 202.0)
    (kept,) = going.history.rounds()
    assert (kept.active, kept.outcome, kept.kind) == (6.0, "passed", "drill")


def test_a_drill_goes_on_where_it_was(going, history):
    saved(going, DRILL.repaired(DRILL.text, but=["no-projection"]))
    going.run(0.0)
    going.keep(7.0)
    text = going.path.read_text(encoding="utf-8")
    going.path.unlink()
    again = drilling.resume(KATA, "numpy", history)
    assert again.drill == DRILL
    assert set(again.fixed) == {"all-scores"}
    assert again.round.active == 7.0
    assert again.path.read_text(encoding="utf-8") == text, "the file was gone"
    again.end("stopped", 8.0)
    assert drilling.resume(KATA, "numpy", history) is None
    assert drilling.place(KATA, "numpy").name == "attention-2_numpy.py"


def test_two_programs_do_not_work_at_one_drill(going, history, started):
    program = started()
    program.until("0 of 2 mistakes fixed")
    with pytest.raises(KataError, match=f"is going on in another terminal, process {program.process.pid};"):
        drilling.resume(KATA, "numpy", history)
    assert going.path.exists()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (KATA.stub("numpy"), "a drill is written beside the katas, not over them"),
        (KATA.solution("numpy"), "a drill is written beside the katas, not over them"),
        (Path("x.txt"), "a drill's name ends in .py"),
        (Path("nowhere/x.py"), "there is no such folder"),
    ],
)
def test_a_drill_is_never_written_over_what_counts(path, said):
    with pytest.raises(KataError, match=said):
        drilling.refuse(path)


# The program.


class Program:
    """scripts/debug.py in a process of its own; what it prints as it comes."""

    def __init__(self, *arguments, terminal=False):
        command = [sys.executable, "scripts/debug.py", "attention", "--framework", "numpy", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.shown = ""
        if terminal:
            self.reads, end = pty.openpty()
            self.before = termios.tcgetattr(end)
            self.end = end
            streams = {"stdin": end, "stdout": end, "stderr": end}
        else:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
        if not terminal:
            self.reads = self.process.stdout.fileno()

    def until(self, text, seconds=120):
        """Reads until that is shown; what was shown since the last time."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.shown}"
            if select.select([self.reads], [], [], 0.5)[0]:
                part = os.read(self.reads, 65536)
                assert part, f"{text!r} was not shown: {self.shown}"
                self.shown += part.decode(errors="replace")
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def close(self):
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if not self.process.stdin:
            os.close(self.reads)
            os.close(self.end)

    def type(self, text):
        os.write(self.reads if not self.process.stdin else self.process.stdin.fileno(), text.encode())

    def rest(self, seconds=120):
        """Its exit code, and the rest of what it showed."""
        deadline = time.monotonic() + seconds
        while True:
            assert time.monotonic() < deadline, f"it does not end: {self.shown}"
            try:
                part = os.read(self.reads, 65536) if select.select([self.reads], [], [], 0.2)[0] else b""
            except OSError:
                break
            self.shown += part.decode(errors="replace")
            if not part and self.process.poll() is not None:
                break
        return self.process.wait(60), self.shown


@pytest.fixture
def started():
    """Starts programs, and leaves none behind."""
    programs = []

    def start(*arguments, **options):
        programs.append(Program(*arguments, **options))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.wait()
        program.close()


def test_a_drill_from_start_to_end_though_it_is_killed(history, started):
    program = started("--seed", "3")
    program.until("0 of 2 mistakes fixed")
    (kept,) = history.rounds()
    made = Drill.of(kept.detail["drill"])
    path = Path(kept.attempt)
    assert path.read_text(encoding="utf-8") == made.text
    first, second = (mistake.name for mistake in made.mistakes)
    time.sleep(0.5)
    path.write_text(made.repaired(made.text, but=[first]), encoding="utf-8")
    program.until("1 of 2 mistakes fixed")
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait()

    program = started()
    shown = program.until("1 of 2 mistakes fixed")
    assert "going on with the drill that was begun, at " in shown
    assert first not in shown
    assert second not in shown
    time.sleep(0.5)
    path.write_text(made.repaired(made.text), encoding="utf-8")
    code, shown = program.rest()
    assert code == 0, shown
    assert "2 of 2 mistakes fixed" in shown
    assert "all fixed in " in shown
    for mistake in made.mistakes:
        assert f"{mistake.name}: fixed after " in shown
        assert f"  {mistake.says}\n" in shown
        assert f"  {made.place(mistake.hunks[0])} of the file as it was given\n" in shown
    assert "\x1b" not in shown
    (kept,) = history.rounds()
    assert kept.outcome == "passed"
    assert kept.active + 0.01 >= kept.detail["fixed"][first] > kept.detail["fixed"][second] > 0
    assert [run.outcome for run in history.runs()] == ["failed", "passed"]


@pytest.mark.usefixtures("going")
def test_giving_up_on_a_terminal_tells_and_leaves_it_sane(history, started):
    program = started(terminal=True)
    program.until("0 of 2 mistakes fixed")
    assert termios.tcgetattr(program.end)[3] & termios.ECHO == 0
    program.type("q")
    code, shown = program.rest()
    assert code == 1
    assert "given up after " in shown
    assert shown.count(": not fixed") == 2
    assert termios.tcgetattr(program.end) == program.before
    assert [round.outcome for round in history.rounds()] == ["stopped"]


@pytest.mark.usefixtures("going")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_up_or_leaves(history, started, number):
    program = started()
    program.until("0 of 2 mistakes fixed")
    os.kill(program.process.pid, number)
    code, shown = program.rest()
    (kept,) = history.rounds()
    if number == signal.SIGINT:
        assert (code, kept.outcome) == (1, "stopped")
        assert "given up after " in shown
    else:
        assert (code, kept.outcome) == (128 + number, None)
        assert "given up" not in shown
    assert "Traceback" not in shown


@pytest.mark.usefixtures("going")
def test_leaving_keeps_it_and_another_can_be_begun(history, started):
    program = started()
    program.until("0 of 2 mistakes fixed")
    program.type("l\n")
    code, shown = program.rest()
    assert code == 1
    assert "the drill is kept as it is; the same command goes on" in shown
    code, shown = started("--seed", "4").rest()
    assert code == 2
    assert "a drill is under way in " in shown
    program = started("--seed", "2", "--bugs", "1", "--new")
    program.until("0 of 1 mistakes fixed")
    program.type("q\n")
    assert program.rest()[0] == 1
    assert [round.outcome for round in history.rounds()] == ["interrupted", "stopped"]
    assert len({round.attempt for round in history.rounds()}) == 2


@pytest.mark.usefixtures("history")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bugs", "9"], "debug: a drill has 1 to 4 mistakes, not 9"),
        (["--framework", "mxnet"], "debug: attention is offered in torch, jax, numpy, not in mxnet"),
        (["--to", "katas/attention/stub_numpy.py"], "a drill is written beside the katas, not over them"),
        (["--to", "README.md"], "a drill's name ends in .py"),
    ],
)
def test_what_is_wrong_is_one_clear_line(started, arguments, said):
    code, shown = started(*arguments).rest()
    assert code == 2
    assert said in shown
    assert "Traceback" not in shown


@pytest.mark.usefixtures("history")
def test_a_file_that_is_there_is_not_overwritten(started, tmp_path):
    path = written(tmp_path, "my work", "mine_numpy.py")
    code, shown = started("--to", str(path)).rest()
    assert code == 2
    assert "is there already; choose another file" in shown
    assert path.read_text(encoding="utf-8") == "my work"
