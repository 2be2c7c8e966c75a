"""The child process and its limits; what a fault of ours looks like beside an attempt's."""

import os
import time

import pytest

from graders.sandbox import Limits, Sandbox

# Another test of this process may have imported JAX, which warns of any fork.
pytestmark = pytest.mark.filterwarnings("ignore")


def sends(send, *messages):
    for message in messages:
        send(message)


def dies_after(send, message):
    send(message)
    os._exit(3)


def raises(send):
    del send
    raise KeyError("ours")


def sleeps(send, seconds):
    send("asleep")
    time.sleep(seconds)


def prints(send, times):
    for i in range(times):
        print(f"line {i}")
    send("printed")


def slowly(send):
    for i in range(20):
        time.sleep(0.1)
        send(i)


def ran(target, *args, **limits):
    box = Sandbox(target, args, limits=Limits(**limits))
    return box, list(box.messages())


def test_each_message_arrives_in_order():
    box, messages = ran(sends, 1, ("two", 2), {"three": 3})
    assert messages == [1, ("two", 2), {"three": 3}]
    assert box.death is None


def test_messages_sent_before_a_death_are_kept():
    box, messages = ran(dies_after, "kept")
    assert messages == ["kept"]
    assert box.death.sentence == "ended the whole process with exit code 3 (os._exit?)"
    assert not box.death.ours


def test_a_target_that_raises_is_a_fault_of_ours():
    box, _ = ran(raises)
    assert box.death.ours
    assert "KeyError: 'ours'" in box.death.sentence


def test_a_step_has_a_time_limit():
    start = time.monotonic()
    box, messages = ran(sleeps, 60, seconds=0.5)
    assert messages == ["asleep"]
    assert box.death.sentence.startswith("stopped: no result after 0.5 s")
    assert time.monotonic() - start < 10


def test_all_steps_have_one_too():
    box, messages = ran(slowly, seconds=5.0, total=0.7)
    assert 0 < len(messages) < 20
    assert box.death.sentence.startswith("stopped: not done after 0.7 s in all")


def test_the_first_and_the_last_lines_of_output_are_kept():
    box, _ = ran(prints, 1000)
    lines = box.output()
    assert (lines[0], lines[20], lines[-1], len(lines)) == ("line 0", "[...]", "line 999", 41)
    box, _ = ran(prints, 3)
    assert box.output() == ["line 0", "line 1", "line 2"]


def test_output_can_be_read_from_a_point_on():
    box, _ = ran(prints, 3)
    assert box.output(len("line 0\n")) == ["line 1", "line 2"]


def test_nothing_is_left_in_the_temporary_folder():
    box, _ = ran(sends, 1)
    box.close()
    assert not box.folder.exists()


def test_the_environment_overrides_the_limits(monkeypatch):
    monkeypatch.setenv("KATAS_SECONDS", "33")
    monkeypatch.setenv("KATAS_MEMORY_GB", "2")
    limits = Limits.from_environment(total=5.0)
    assert (limits.seconds, limits.override, limits.memory, limits.total) == (33.0, 33.0, 2 * 2**30, 5.0)


@pytest.mark.parametrize(("name", "value"), [("KATAS_SECONDS", "soon"), ("KATAS_MEMORY_GB", "-1")])
def test_a_wrong_setting_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(pytest.UsageError, match=f"{name} should be a positive number, is '{value}'"):
        Limits.from_environment(total=5.0)


def works(send, seconds):
    """So much work, on one processor that six others want as well; they end with this process."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for _ in range(6):
        if os.fork() == 0:
            while True:
                pass
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass
    send("done")


@pytest.mark.parametrize("limits", [{"seconds": 2.0}, {"seconds": 60.0, "total": 2.0}])
def test_waiting_for_a_busy_processor_does_not_count(limits):
    start = time.monotonic()
    box, messages = ran(works, 0.8, **limits)
    assert messages == ["done"], box.death
    assert time.monotonic() - start > 2.0, "the processor was not busy: this shows nothing"


def test_sleeping_counts():
    box, messages = ran(sleeps, 30.0, seconds=1.0)
    assert messages == ["asleep"]
    assert box.death.sentence.startswith("stopped: no result after 1 s")
