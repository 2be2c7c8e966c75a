"""The ladder of hints for a failing check: the likely mistake, then what the check asks, then how it usually fails."""

import re

from graders import bugs
from graders.catalogue import Kata
from graders.report import Check

TOP = "no further hint; the reference is shown after a pass, or with: python scripts/compare.py {kata} --give-up"


def ladder(kata: Kata, framework: str, failing: Check, likely: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The hints for one failing check, from the least to the most telling, after the likely mistake if there is one."""
    rungs = [f"{'or' if i else 'likely'}: {said}" for i, said in enumerate(likely)]
    rungs.append(f"the check asks: {failing.sentence}" if failing.sentence else f"the failing check is {failing.name}")
    if asked := contract(kata, failing.level):
        rungs.append(f"level {failing.level} asks:\n{asked}")
    usual = [bug.says for bug in bugs.bank(kata) if bug.check == failing.name and framework in bug.frameworks()]
    rungs += [f"a usual mistake here: {said}" for said in dict.fromkeys(usual) if said not in likely]
    return (*rungs, TOP.format(kata=kata.name))


def contract(kata: Kata, level: int | None = None) -> str:
    """The contract in the kata's spec, all of it or one level's; "" if it has no such section."""
    text = (kata.folder / "spec.md").read_text(encoding="utf-8")
    whole = re.search(r"^## Contract\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if whole is None or level is None:
        return whole[1].strip() if whole else ""
    own = re.search(rf"^### Level {level}\b[^\n]*\n(.*?)(?=^### |\Z)", whole[1], re.MULTILINE | re.DOTALL)
    return own[1].strip() if own else ""


def spec(kata: Kata) -> str:
    """The kata's spec without its front matter, as Markdown."""
    text = (kata.folder / "spec.md").read_text(encoding="utf-8")
    return re.sub(r"\A---\n.*?^---\n", "", text, count=1, flags=re.MULTILINE | re.DOTALL).strip()
