"""The katas are what stands in katas/; a wrong front matter is named with its fix."""

import pytest

from graders import KataError, bugs, find, katas
from graders.catalogue import read

FRONT = """---
title: Softmax
minutes: 20
frameworks: [numpy]
difficulty: easy
track: basics
levels: [softmax]
refused: []
sources: [Bridle 1990]
---
text
"""


def folder(tmp_path, text=FRONT):
    made = tmp_path / "katas" / "softmax"
    made.mkdir(parents=True)
    (made / "spec.md").write_text(text, encoding="utf-8")
    return made


def test_a_folder_with_a_spec_is_a_kata(tmp_path):
    made = folder(tmp_path)
    kata = find("softmax", tmp_path)
    assert katas(tmp_path) == (kata,)
    assert (kata.name, kata.minutes, kata.levels) == ("softmax", 20, ("softmax",))
    assert kata.stub("numpy") == made / "stub.py"
    assert kata.solution("numpy") == tmp_path / "solutions" / "softmax.py"


def test_further_frameworks_have_a_suffix(tmp_path):
    folder(tmp_path, FRONT.replace("[numpy]", "[torch, jax]"))
    kata = find("softmax", tmp_path)
    assert (kata.stub("torch").name, kata.stub("jax").name) == ("stub.py", "stub_jax.py")
    assert kata.solution("jax").name == "softmax_jax.py"


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("minutes: 20\n", "", "the front matter has no 'minutes'; add it"),
        ("minutes: 20", "minutes: long", "'minutes' should be a int, is 'long'"),
        (
            "track: basics",
            "track: basics\ncolour: red",
            "the front matter has an unknown 'colour'; known: title",
        ),
        ("[numpy]", "[mxnet]", "'frameworks' should list some of torch, jax, numpy"),
        ("[numpy]", "[]", "'frameworks' should list some of"),
        ("easy", "trivial", "'difficulty' should be one of easy, medium, hard"),
        ("title: Softmax", "title: [", "the front matter does not read"),
    ],
)
def test_a_wrong_front_matter_is_named(tmp_path, right, wrong, said):
    made = folder(tmp_path, FRONT.replace(right, wrong))
    with pytest.raises(KataError) as caught:
        read(made)
    assert said in str(caught.value)
    assert str(made / "spec.md") in str(caught.value)


def test_an_unknown_kata_names_the_nearest():
    with pytest.raises(KataError, match="there is no kata 'atention'; did you mean 'attention'"):
        find("atention")
    with pytest.raises(KataError, match=r"there is no kata 'xyz'; there are: .*attention"):
        find("xyz")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[[bug]\n", "the mistakes do not read"),
        ('[[bug]]\nname = "b"\nsays = "s"\nedits = []\n', "bug 'b' lacks 'check'"),
        (
            '[[bug]]\nname = "b"\nsays = "s"\ncheck = "c"\n[[bug.edits]]\nfind = "x"\n',
            "bug 'b' lacks 'frameworks'",
        ),
    ],
)
def test_a_wrong_bug_bank_is_named(tmp_path, toml, said):
    made = folder(tmp_path)
    (made / ".bugs.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(KataError) as caught:
        bugs.bank(read(made))
    assert said in str(caught.value)
    assert ".bugs.toml" in str(caught.value)


def test_an_edit_must_fit_exactly_once(tmp_path):
    edits = (bugs.Edit(("numpy",), "x", "y"),)
    bug = bugs.Bug("b", "c", "s", edits)
    assert bug.apply("a x b", "numpy", tmp_path) == "a y b"
    assert bug.apply("x x", "torch", tmp_path) == "x x"
    for source, count in (("a", 0), ("x x", 2)):
        with pytest.raises(KataError, match=f"bug 'b' finds its text {count} times, expected once: 'x'"):
            bug.apply(source, "numpy", tmp_path)


def test_a_kata_may_go_further_in_one_framework_than_in_another():
    adam = find("adam")
    assert adam.levels_in("torch") == adam.levels
    assert adam.levels_in("jax") == adam.levels[:3]
    kv_cache = find("kv_cache")
    assert kv_cache.levels_in("jax") == kv_cache.levels[:2]
