"""The ladder of hints, what is read from a spec, and that a hint names the mistake, one of two, or nothing."""

import itertools

import pytest

from graders import bugs, find, katas
from graders.batch import Job, grade_each
from graders.practice import hints
from graders.renaming import renamed
from graders.report import Check
from scripts.hints import drawn, outcome

KATA = find("attention")
MASKED = Check("attention_masked_row", 1, "failed", "...", sentence="a row that may attend to nothing gives zeros")


def test_the_ladder():
    likely = "Masked scores are filled with -1e9: a row that may attend to nothing then gets the mean of v."
    first, asks, contract, *usual, top = hints.ladder(KATA, "numpy", MASKED, (likely,))
    assert first == f"likely: {likely}"
    assert asks == "the check asks: a row that may attend to nothing gives zeros"
    assert contract.startswith("level 1 asks:\n`attention(q, k, v, *, mask=None)`")
    assert "causal_attention" not in contract
    assert usual
    assert all(hint.startswith("a usual mistake here: ") for hint in usual)
    assert not any(likely in hint for hint in usual), "it was given already"
    assert top.endswith("python scripts/compare.py attention --give-up")


def test_without_a_likely_mistake_the_ladder_begins_with_the_check():
    assert hints.ladder(KATA, "numpy", MASKED)[0].startswith("the check asks: ")


@pytest.mark.parametrize("kata", katas(), ids=lambda kata: kata.name)
def test_each_spec_has_a_contract_for_each_level(kata):
    for level in range(1, len(kata.levels) + 1):
        assert hints.contract(kata, level), f"{kata.name} has no `### Level {level}` under `## Contract`"
    assert hints.spec(kata).startswith("# ")
    assert "minutes:" not in hints.spec(kata).splitlines()[0]


def test_a_hint_names_one_of_two_mistakes_or_nothing():
    """Also under other names of variables; `scripts/hints.py` takes them all."""
    says = {bug.name: bug.says for bug in bugs.bank(KATA)}
    single = {(bug.name,): source for bug, source in itertools.islice(bugs.variants(KATA, "numpy"), 5, 40, 7)}
    pairs = dict(itertools.islice(drawn(KATA, "numpy"), 8))
    jobs = [Job(" + ".join(names), renamed(source, 1), 1, hint=True) for names, source in (single | pairs).items()]
    found = {
        job.name: outcome(checks[-1], {says[name] for name in job.name.split(" + ")})[0]
        for job, checks in grade_each(KATA, "numpy", jobs)
    }
    assert {found[" + ".join(names)] for names in single} == {"named"}, found
    assert {found[" + ".join(names)] for names in pairs} <= {"named", "silent"}, found


def test_mistakes_that_give_the_same_number_are_told_apart_by_others():
    """Values kept around the returns, and the larger of two means, give one value loss on half of the seeds."""
    kata = find("ppo")
    names = {"larger-of-the-means", "value-clipped-around-returns"}
    says = {bug.name: bug.says for bug in bugs.bank(kata)}
    sources = {bug.name: source for bug, source in bugs.variants(kata, "torch") if bug.name in names}
    jobs = [Job(name, source, seed, hint=True) for name, source in sources.items() for seed in range(4)]
    for job, checks in grade_each(kata, "torch", jobs):
        assert checks[-1].likely == (says[job.name],), f"{job.name}, seed {job.seed}"


@pytest.mark.parametrize(
    ("check", "found"),
    [
        (Check("x", 1, "failed", "wrong\nlikely    A.\nlikely    B."), "named"),
        (Check("x", 1, "failed", "wrong\nlikely    C."), "misnamed"),
        (Check("x", 1, "failed", "so learns  A."), "named"),
        (Check("x", 1, "failed", "unlikely    C."), "silent"),
        (Check("x", 1, "passed", ""), "not caught"),
        (Check("x", 1, "error", "likely    A."), "not caught"),
    ],
)
def test_what_a_hint_is_worth(check, found):
    assert outcome(check, {"A."})[0] == found
