"""The ladder of hints, and what is read from a spec."""

import pytest

from graders import find, katas
from graders.practice import hints
from graders.report import Check

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
