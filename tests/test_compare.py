"""The comparison: what is measured of attempts that are right, wrong, or never return; the page; the script."""

import ast
import math
import os
import pty
import re
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest

from graders import find, katas, stubs
from graders.catalogue import ROOT, read
from graders.compare import Probe, child, code, page, plan, report, timing
from graders.compare.findings import Error, Task, Time, duration, growth, power, short
from graders.compare.measure import measure
from graders.cost import Cost
from graders.errors import KataError
from graders.history import History
from tests.common import OFFERED, name, written

SPEC = """---
title: Tiny
minutes: 5
difficulty: easy
track: none
frameworks: [numpy]
levels: [one]
refused: []
sources: []
---
"""
SOLUTION = '''"""Twice, and thrice."""

import numpy as np


def twice(x):
    """2 x."""
    return _scaled(x, 2.0)  # by the helper


def thrice(x):
    """3 x."""
    return _scaled(x, 3.0)


def _scaled(x, factor):
    """factor x."""
    out = x * factor
    return out
'''
COMPARE = """
import numpy as np
from graders.checks import Case, Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import both


def twice(rng, n):
    return Case("twice", (rng.normal(size=n),), lambda x: x + x)


def thrice(rng, n):
    def play(m, x):
        return {"out": m.array(m.thrice(m.to(x)), "out")}

    return Scenario("thrice", {"x": rng.normal(size=n)}, play, lambda x: {"out": x + x + x})


def ready(m, x):
    x = m.to(x)
    return lambda: m.thrice(x)


def take(m, rng):
    return {"y": m.twice(np.arange(4.0))}


def draw(figure, yours, reference):
    ax = figure.subplots()
    both(ax, np.arange(4), *(data["y"] if data else None for data in (yours, reference)))
    ax.set_title("a < b & c")


PROBES = (
    Probe("twice", "entries", (8, 64, 512), twice),
    Probe("thrice", "entries", (8, 64), thrice, ready),
)
PICTURES = (Picture("A line", "x < y & so on.", 'the "line" of <both>', take, draw),)
"""


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "katas" / "tiny"
    folder.mkdir(parents=True)
    (tmp_path / "solutions").mkdir()
    written(folder, SPEC, "spec.md")
    written(folder, COMPARE, ".compare.py")
    written(tmp_path / "solutions", SOLUTION, "tiny.py")
    return read(folder)


@pytest.fixture
def compared(tiny, tmp_path, monkeypatch):
    def run(source, seconds="30", **options):
        monkeypatch.setenv("KATAS_SECONDS", seconds)
        return measure(tiny, "numpy", written(tmp_path, source), source, seed=3, **options)

    return run


def right(twice="return x + x", thrice="return 3 * x", more=""):
    return f"import numpy as np\n{more}\n\ndef twice(x):\n    {twice}\n\ndef thrice(x):\n    {thrice}\n"


def errors(findings, probe, side="yours"):
    tasks = [Task("error", probe, n, "cpu", d) for n in (8, 64, 512) for d in ("float64", "float32")]
    return [found for task in tasks if (found := findings.get(task, side)) is not None]


def test_a_right_attempt_has_errors_costs_times_and_a_picture(compared):
    findings = compared(right())
    assert findings.complaints() == []
    assert [len(errors(findings, title)) for title in ("twice", "thrice")] == [6, 4]
    assert all(e.within and 0 <= e.size < 1e-6 for e in errors(findings, "twice") + errors(findings, "thrice"))
    for probe in findings.probes:
        for side in ("yours", "reference"):
            assert list(findings.cost(probe, "peak", side)) == list(probe.sizes)
            assert all(time.seconds > 0 for time in findings.times(probe, "cpu", side).values())
        ratios = [time.ratio for time in findings.times(probe, "cpu", "yours").values()]
        assert len(ratios) == len(probe.sizes)
        assert all(0 < ratio < 100 for ratio in ratios)
        assert all(t.low <= t.ratio <= t.high for t in findings.times(probe, "cpu", "yours").values())
    taken = findings.get(Task("picture", "A line"), "yours")
    assert taken["y"].tolist() == [0, 2, 4, 6]
    assert findings.counted() == ["peak"]
    assert set(findings.overall()) == {"peak", "time"}


def test_both_sides_get_the_same_inputs_and_a_wrong_answer_is_a_large_error(compared):
    findings = compared(right(twice="return 2.5 * x", thrice="return 3 * x + float('nan')"))
    assert [(round(e.size, 6), e.within) for e in errors(findings, "twice")] == [(0.25, False)] * 6
    assert all(math.isnan(e.size) and not e.within for e in errors(findings, "thrice"))
    assert all(e.within for e in errors(findings, "twice", "reference"))
    figures = {figure.label: (figure.value, figure.note) for figure in report.summary(findings, "", SOLUTION)}
    assert figures["results compared"] == ("0 of 10", "10 beyond what a check allows")
    (table, *_) = report.tables(findings)
    assert [cell.text for cell in table.rows[3]][2] == "NaN"
    assert table.rows[0][2].tone == "bad"


def test_an_attempt_that_does_not_return_is_stopped_and_the_rest_is_measured(compared):
    loop = "if len(x) > 8:\n        while True: pass\n    return x + x"
    findings = compared(right(twice=loop), seconds="6", pictures=False)
    said = dict(findings.complaints())
    assert re.fullmatch(r"stopped: no result after 6 s, at line 6: while True: pass", said["twice"])
    assert [e.within for e in errors(findings, "twice")[:2]] == [True, True]
    assert all(e.within for e in errors(findings, "thrice"))
    (twice, thrice) = findings.probes
    assert list(findings.times(twice, "cpu", "reference")) == [8, 64, 512], "the reference is measured alone"
    assert list(findings.cost(twice, "peak", "reference")) == [8, 64, 512]
    assert list(findings.times(thrice, "cpu", "yours")) == [8, 64]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise RuntimeError('no idea')", r"twice raised RuntimeError: no idea \(line 5, in twice: raise .*\)"),
        ("raise NotImplementedError('tiny')", "`twice` still has the stub's body"),
        ("import sys; sys.exit(3)", r"twice ends the program with sys.exit\(3\); .*"),
        ("import os; os._exit(3)", r"ended the whole process with exit code 3 \(os._exit\?\)"),
        ("return None", r"twice returns None: no return on this path\?"),
        ("return x[:1] * 2", r"out: shape \(1,\), expected \(8,\)"),
    ],
)
def test_what_goes_wrong_is_said_once(compared, body, said):
    findings = compared(right(twice=body), pictures=False)
    complaints = [sentence for what, sentence in findings.complaints() if what == "twice"]
    assert re.fullmatch(said, complaints[0]), complaints
    assert len([e for e in errors(findings, "thrice") if isinstance(e, Error)]) == 4
    assert all(isinstance(e, Error) for e in errors(findings, "twice", "reference"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def twice(x:\n", "syntax error on line 1"),
        ("import no_such_module\n", "No module named 'no_such_module'"),
        ("import os\nos._exit(0)\n", "attempt.py does not load: ended the whole process"),
    ],
)
def test_an_attempt_that_does_not_load_leaves_the_reference_alone(compared, source, said):
    findings = compared(source, pictures=False)
    ((what, sentence),) = findings.complaints()
    assert (what, said in sentence) == ("tiny", True), sentence
    assert all(isinstance(e, Error) for e in errors(findings, "twice", "reference"))


def test_a_missing_function_is_named(compared):
    findings = compared(right().replace("def twice", "def twices"), pictures=False)
    assert dict(findings.complaints())["twice"] == "expected a function `twice`, found `twices`"


def test_a_kata_without_a_plan_is_compared_by_its_code_alone(tiny, tmp_path):
    (tiny.folder / ".compare.py").unlink()
    findings = measure(tiny, "numpy", written(tmp_path, right()), right(), seed=1)
    assert (findings.found, report.tables(findings)) == ({}, [])
    shown = page.render(tiny, findings, right())
    assert "thrice" in shown


GIVEN = "from graders.compare import Probe\nPICTURES = ()\nPROBES = "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("PROBES = 3", "TypeError"),
        ("PROBES = PICTURES = (1,)", "1 is no Probe"),
        (f"{GIVEN}[Probe('a', 'n', (1,), None)] * 2", "two are called 'a' in numpy"),
        (f"{GIVEN}[Probe('a', 'n', (1,), None, only=('mxnet',))]", "'a' is for 'mxnet', which is no framework"),
    ],
)  # fmt: skip
def test_a_plan_that_is_wrong_is_named(tiny, text, said):
    path = written(tiny.folder, text, ".compare.py")
    with pytest.raises(KataError, match=re.escape(str(path))) as raised:
        plan.load(tiny, "numpy")
    assert said in str(raised.value)


def test_a_device_that_is_not_here_is_named(compared):
    with pytest.raises(KataError, match="--device cuda: numpy has only cpu here"):
        compared(right(), device="cuda")


@pytest.mark.parametrize(("kata", "framework"), OFFERED, ids=name)
def test_every_plan_measures_its_solution(kata, framework, monkeypatch):
    """Each probe at its smallest size, each picture that needs no long training: taken, drawn, the reference right."""
    from graders import attempt, backends
    from graders.compare import drawing

    monkeypatch.setattr(timing, "SET_UPS", 1)
    monkeypatch.setattr(timing, "BUDGET", 0.01)
    made = plan.load(kata, framework)
    assert made.probes, f"{kata.folder / '.compare.py'} has no probes for {framework}"
    assert made.pictures, f"{kata.folder / '.compare.py'} has no pictures for {framework}"
    signatures = stubs.signatures(kata, framework)
    backend = backends.load(framework)
    sides = {"reference": attempt.load(kata.solution(framework), kata.name, backend, kata.refused, signatures)}
    for probe in made.probes:
        assert list(probe.sizes) == sorted(probe.sizes)
        n = probe.error_sizes[0]
        ((_, found),) = child.MEASURES["error"](probe, Task("error", probe.title, n, "cpu", probe.usual), sides, 1)
        assert isinstance(found, Error), found
        assert found.within, f"{probe.title}: {found}"
        ((_, cost),) = child.MEASURES["cost"](probe, Task("cost", probe.title, probe.sizes[0]), sides, 1)
        assert isinstance(cost, Cost), cost
        ((_, time),) = child.MEASURES["time"](probe, Task("time", probe.title, probe.sizes[0]), sides, 1)
        assert isinstance(time, Time), time
    for picture in made.pictures:
        assert len(picture.alt) > 40
        if picture.seconds <= 20:
            ((_, data),) = child.take(picture, sides, 1)
            assert isinstance(data, dict), data
            assert not [part for part in data.values() if isinstance(part, str)], data
            drawn = [
                drawing.svg(partial(picture.draw, yours=a, reference=b), picture.size, picture.alt)
                for a, b in ((data, data), (None, data), (data, None))
            ]
            assert all("var(--yours)" in svg for svg in (drawn[0], drawn[2]))
            assert "var(--yours)" not in drawn[1]


@pytest.mark.parametrize("kata", katas(), ids=name)
def test_a_plan_gives_no_answer_away(kata):
    """It calls through the door, and its answers are kernels."""
    tree = ast.parse((kata.folder / ".compare.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module.partition(".")[0] for module in imported} & {"solutions", "scripts", "tests"}


class Page(HTMLParser):
    """What stands in a page: tags in balance, addresses, ids, pictures, text."""

    VOID = ("meta", "link", "br", "img", "use", "path", "line", "rect", "circle")

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.pictures, self.addresses, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        assert len(given) == len(attrs), f"<{tag}> has an attribute twice"
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [value for key, value in attrs if key in ("href", "src", "xlink:href", "action", "srcset")]
        if tag in ("svg", "img"):
            self.pictures.append(given)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and tag not in ("meta", "link", "br", "img"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_needs_nothing_from_outside_and_serves_light_and_dark(compared, tiny):
    source = right()
    text = page.render(tiny, compared(source), source)
    shown = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", text), "it refers to something outside"
    assert all(address.startswith("#") for address in shown.addresses)
    assert len(shown.ids) == len(set(shown.ids)), "an id stands twice"
    targets = set(re.findall(r"url\(#([^)]+)\)", text)) | {address[1:] for address in shown.addresses}
    assert targets <= set(shown.ids)
    assert len(shown.pictures) >= 3
    assert all(p.get("role") == "img" and len(p.get("aria-label", "")) > 10 for p in shown.pictures)
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="color-scheme" content="light dark">' in text
    light, dark = (dict(re.findall(r"--(\w[\w-]*): (#\w+)", part)) for part in text.split("@media (prefers-color", 1))
    assert set(dark) == set(light)
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert used <= set(light)
    for scheme in (light, dark):
        for tone in ("ink", "muted", "yours", "reference", "bad", "good", "word", "text"):
            assert contrast(scheme[tone], scheme["paper"]) >= 4.5, f"{tone} on paper in {scheme}"
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", text), "a colour was not handed to the page"
    assert 'the "line" of <both>' in [p["aria-label"] for p in shown.pictures]
    assert "x < y & so on." in shown.texts


def contrast(a, b):
    """The ratio of the luminances of two colours (WCAG 2)."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dim, bright = sorted((luminance(a), luminance(b)))
    return (bright + 0.05) / (dim + 0.05)


def test_a_locked_page_has_the_figures_and_not_the_code(compared, tiny):
    source = right(twice="return x + x  # <script>")
    findings = compared(source)
    locked, opened = (
        page.render(tiny, findings, source, locked="Not before a pass."),
        page.render(tiny, findings, source),
    )
    assert "Not before a pass." in Page(locked).texts
    assert "_scaled" not in locked
    assert "_scaled" in opened
    assert "Time on the CPU" in locked
    Page(opened)
    assert "<script" not in opened


def test_what_an_attempt_gives_to_a_picture_may_be_of_any_kind(compared, tiny):
    """What cannot be drawn is said, and the reference drawn alone."""
    findings = compared(right(twice="return np.zeros((2, 3))"))
    shown = Page(page.render(tiny, findings, right()))
    assert any("cannot be drawn" in text for text in shown.texts)
    assert any(p["aria-label"].startswith("the ") for p in shown.pictures)


def test_a_part_of_a_picture_may_fail_alone(compared, tiny):
    """An attempt of which one level is written has its part of the picture."""
    apart = '{"y": lambda: m.twice(np.arange(4.0)), "z": lambda: m.thrice(np.arange(4.0))}'
    parts = COMPARE.replace('{"y": m.twice(np.arange(4.0))}', apart)
    written(tiny.folder, parts, ".compare.py")
    source = right(thrice="raise NotImplementedError('tiny')")
    findings = compared(source)
    assert ("A line, z", "`thrice` still has the stub's body") in findings.complaints()
    curves = Page(page.render(tiny, findings, source)).pictures
    assert any(p["aria-label"] == 'the "line" of <both>' for p in curves)
    assert list(page._whole(findings.get(Task("picture", "A line"), "yours"))) == ["y"]


def test_code_is_compared_by_function_and_helpers_by_what_they_do():
    yours = SOLUTION.replace("_scaled", "_times").replace("out = x * factor\n    return out", "return x * factor")
    pairs = {pair.reference: pair for pair in code.beside(yours, SOLUTION)}
    assert pairs["_scaled"].yours == "_times"
    assert pairs["_scaled"].title == "_times / _scaled"
    kinds = [row.kind for row in pairs["_scaled"].rows]
    assert "changed" in kinds
    (row, *_) = [row for row in pairs["twice"].rows if row.kind == "changed"]
    assert ("_times", True) in row.yours
    assert ("_scaled", True) in row.reference
    assert pairs["imports and constants"].is_same


def test_what_only_one_side_has_stands_alone():
    yours = SOLUTION + "\n\ndef extra():\n    for i in range(3):\n        print(i)\n"
    *_, last = code.beside(yours, SOLUTION)
    assert (last.yours, last.reference, last.count("yours"), last.count("reference")) == ("extra", "", 3, 0)
    assert {row.kind for row in last.rows} == {"yours"}


def test_lines_of_code_are_without_docstrings_comments_and_blank_lines():
    assert code.code_lines(SOLUTION) == 8
    assert code.code_lines('x = """a\n# no comment\n\nb"""\n# one\n') == 3
    assert code.code_lines("class A:\n    '''Doc.'''\n\n    def f(self):\n        return 1  # one\n") == 3
    assert code.code_lines("def broken(:\n") == 0


def test_no_line_of_either_side_is_lost():
    ours, theirs = (ROOT / "solutions" / file for file in ("attention.py", "attention_numpy.py"))
    pairs = code.beside(ours.read_text(), theirs.read_text())
    for side, path in (("yours", ours), ("reference", theirs)):
        shown = ["".join(text for text, _ in getattr(row, side)) for pair in pairs for row in pair.rows]
        lines = [line.strip() for line in shown if line.strip()]
        assert sorted(lines) == sorted(x.strip() for unit in code.parts(path.read_text()) for x in unit.lines)


def test_numbers_as_people_read_them():
    assert [short(x) for x in (0, 14, 4096, 16_384, 1_234_567, 2.5e9)] == ["0", "14", "4,096", "16.4k", "1.23M", "2.5G"]
    assert [duration(x) for x in (2.5, 0.0123, 5.6e-5, 3e-8)] == ["2.5 s", "12.3 ms", "56 µs", "30 ns"]
    assert [power(growth({1: 1.0, 2: y})) for y in (1.0, 2.0, 4.0, 2.83)] == ["constant", "n", "n²", "n^1.5"]
    assert power(growth({4: 1.0})) == ""
    assert growth({1: 0.0, 2: 0.0}) is None


def test_a_probe_says_where_errors_are_taken_and_in_what():
    probe = Probe("a", "n", (1, 2, 4), zip, accurate=(1,), dtypes=("float64",))
    assert (probe.error_sizes, probe.usual) == ((1,), "float64")
    probe = Probe("a", "n", (1, 2), zip)
    assert (probe.error_sizes, probe.usual) == ((1, 2), "float32")


def run_script(tmp_path, *arguments, answer=None):
    """scripts/compare.py with a history of its own; with an answer, at a terminal."""
    environment = {**os.environ, "KATAS_STATE": str(tmp_path), "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/compare.py", *arguments]
    if answer is None:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr
    main, second = pty.openpty()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=second, stdout=second, stderr=second)
    os.close(second)
    shown = b""
    try:
        while part := os.read(main, 4096):
            shown += part
            if shown.endswith(b"[y/N] "):
                os.write(main, answer.encode())
    except OSError:
        pass  # the terminal ends with its process
    os.close(main)
    return process.wait(), shown.decode(), ""


def events(tmp_path):
    return [(event.kind, event.kata, event.framework) for event in History(tmp_path / "history.db").events()]


def test_the_script_says_kindly_what_is_missing(tmp_path):
    attempt = written(tmp_path, stubs.derive(find("attention"), "numpy"), "mine_numpy.py")
    status, out, err = run_script(tmp_path, "attention", "--attempt", str(attempt))
    assert (status, err) == (1, "")
    assert "Attention, NumPy, beside the reference" in out
    out = " ".join(out.split())
    assert "mine_numpy.py still has the stub's bodies" in out
    assert "once all 4 levels pass in NumPy (pytest katas/attention), or with --give-up, which is recorded." in out
    status, out, _ = run_script(tmp_path, "attention", "--attempt", str(attempt), "--give-up", answer="n\n")
    assert status == 1
    assert "records that you asked for it" in out
    assert events(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("atention",), "compare: there is no kata 'atention'; did you mean 'attention'?"),
        (("adam", "--framework", "mxnet"), "compare: adam is offered in torch, jax, numpy, not in mxnet"),
        (("adam", "--attempt", "nowhere.py"), "compare: nowhere.py: there is no such file"),
        (("adam", "--device", "stand-in"), "compare: --device stand-in: it is one of auto, cpu, cuda"),
        (("adam", "--html", "no/such/folder.html"), "compare: --html no/such/folder.html: there is no folder "),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    status, out, err = run_script(tmp_path, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1


def test_the_script_compares_and_records_that_one_gave_up(tmp_path):
    solution = ROOT / "solutions" / "adam_numpy.py"
    target = tmp_path / "out.html"
    shown = ("adam", "--attempt", str(solution), "--seed", "5", "--html", str(target))
    status, out, err = run_script(tmp_path, *shown, "--give-up")
    assert (status, err) == (0, "")
    assert events(tmp_path) == [("give-up", "adam", "numpy")]
    assert max(map(len, out.splitlines())) <= 100
    for word in ("Adam, NumPy, beside the reference, seed 5", "Error", "Cost as sizes grow", "Time", "20 of 20"):
        assert word in out
    assert re.search(r"def adam_step\(\s+def adam_step\(", out), "the code stands side by side"
    assert "solutions/adam_numpy.py" in out.splitlines()[-1]
    Page(target.read_text(encoding="utf-8"))


def test_arrays_that_are_not_finite_are_crossed_out():
    from graders.compare import drawing

    values = np.array([[0.5, np.nan], [np.inf, 1.0]])
    svg = drawing.svg(lambda figure: drawing.shade(figure.subplots(), values, "yours"), (2, 2), "two and two")
    assert "var(--ink)" in svg
    assert "nan" not in svg.lower()
