"""The engine behind timer and watch: real files, saved as editors save them, graded by the warm process."""

import queue
import time

import pytest

from graders import find, runner
from graders.practice.watching import Checking, Gone, Graded, Hinted, Progress, Trouble, Watching
from tests.common import written

KATA = find("attention")
RIGHT = KATA.solution("numpy").read_text(encoding="utf-8")
UNSCALED = RIGHT.replace(" / math.sqrt(q.shape[-1])  # (B, H, T, S)", "  # (B, H, T, S)")
ENDLESS = RIGHT.replace("    return _weights(q, k, mask) @ v", "    while True:\n        pass")


class Watched:
    """A file that is watched up to level 1, and what was told of it."""

    def __init__(self, path, **options):
        self.path, self.told = path, queue.Queue()
        self.engine = Watching(KATA, path, "numpy", self.told.put, **{"level": 1, **options}).start()

    def next(self, kind, *, besides=(Checking, Progress), seconds=60):
        """The next event that is not one of `besides`."""
        while True:
            event = self.told.get(timeout=seconds)
            if isinstance(event, kind):
                return event
            assert isinstance(event, besides), f"{event} came, expected {kind.__name__}"

    def quiet(self, seconds):
        time.sleep(seconds)
        return self.told.empty()


@pytest.fixture
def watch(tmp_path):
    began = []

    def begin(source, **options):
        began.append(Watched(written(tmp_path, source, "mine_numpy.py"), **options))
        return began[-1]

    yield begin
    for watched in began:
        watched.engine.close()


def test_what_is_there_is_graded_and_then_each_save(watch):
    watched = watch(UNSCALED)
    first = watched.next(Graded)
    assert first.verdict.first_failure.name == "attention_values"
    assert first.source == UNSCALED
    watched.path.write_text(RIGHT, encoding="utf-8")
    assert isinstance(watched.told.get(timeout=5), Checking), "checking is said before the grading is done"
    second = watched.next(Graded)
    assert second.verdict.passed
    assert second.source == RIGHT
    assert 0 < second.seconds < 60


def test_a_save_by_rename(watch, tmp_path):
    watched = watch(UNSCALED, first=False)
    written(tmp_path, RIGHT, ".mine.swp").replace(watched.path)
    assert watched.next(Graded).verdict.passed
    watched.path.rename(tmp_path / "mine_numpy.py~")  # as editors that keep a backup do
    written(tmp_path, UNSCALED, "mine_numpy.py")
    assert not watched.next(Graded, besides=(Checking, Progress, Gone)).verdict.passed


def test_a_file_that_was_deleted_is_graded_when_it_is_back(watch):
    watched = watch(RIGHT)
    assert watched.next(Graded).verdict.passed
    watched.path.unlink()
    watched.next(Gone)
    assert watched.quiet(1), "it is said once"
    watched.path.write_text(RIGHT, encoding="utf-8")
    assert watched.next(Graded).verdict.passed


def test_what_did_not_change_is_not_graded_again_unless_asked(watch):
    watched = watch(RIGHT, first=False)
    watched.path.write_text(RIGHT, encoding="utf-8")
    (watched.path.parent / "other.py").write_text("x = 1\n", encoding="utf-8")
    assert watched.quiet(1.5)
    watched.engine.again()
    assert watched.next(Graded).verdict.passed


def test_a_save_ends_the_grading_of_an_older_one(watch):
    watched = watch(ENDLESS)
    while not (isinstance(event := watched.told.get(timeout=60), Progress) and event.check.outcome == "checking"):
        pass
    start = time.monotonic()
    watched.path.write_text(UNSCALED, encoding="utf-8")
    time.sleep(0.1)
    watched.path.write_text(RIGHT, encoding="utf-8")
    graded = watched.next(Graded)
    assert graded.source == RIGHT, "the newest is graded, not what was saved on the way"
    assert graded.verdict.passed
    assert time.monotonic() - start < 9, "the endless one ran into its limit of 10 s"
    assert watched.quiet(1)


def test_many_saves_in_a_row_end_with_the_verdict_on_the_last(watch):
    watched = watch(UNSCALED, first=False)
    for i in range(30):
        watched.path.write_text(f"{UNSCALED}# {i}\n", encoding="utf-8")
        time.sleep(0.02)
    watched.path.write_text(RIGHT, encoding="utf-8")
    while not (graded := watched.next(Graded)).verdict.passed:
        assert graded.source.startswith(UNSCALED)
    assert graded.source == RIGHT


def test_a_hint_names_the_likely_mistake(watch):
    watched = watch(UNSCALED)
    watched.engine.hint()
    graded = watched.next(Graded)
    hinted = watched.next(Hinted)
    assert hinted.check == graded.verdict.first_failure
    assert hinted.likely == ("The scores are not divided by sqrt(D).",)
    watched.path.write_text(RIGHT, encoding="utf-8")
    assert watched.next(Graded).verdict.passed
    watched.engine.hint()
    assert watched.next(Hinted) == Hinted(None)


def test_a_fault_of_the_suite_is_told_and_the_watching_goes_on(watch, monkeypatch):
    watched = watch(UNSCALED, first=False)

    def broken(*_, **__):
        raise ValueError("no such thing")

    with monkeypatch.context() as patch:
        patch.setattr(runner, "grade", broken)
        watched.path.write_text(RIGHT, encoding="utf-8")
        assert watched.next(Trouble) == Trouble("no such thing")
    watched.path.write_text(UNSCALED, encoding="utf-8")
    assert not watched.next(Graded).verdict.passed


def test_closing_ends_what_is_graded(watch):
    watched = watch(ENDLESS)
    watched.told.get(timeout=60)
    start = time.monotonic()
    watched.engine.close()
    assert time.monotonic() - start < 5
    assert not any(thread.is_alive() for thread in watched.engine.threads)
