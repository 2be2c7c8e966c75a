"""Writes what is derived: the stubs from the solutions, and the README's table of katas.

    python scripts/derive.py
    python scripts/derive.py attention

A stub that somebody has begun to edit is left alone, unless --force is given.
"""

import argparse

from graders import KataError, stubs
from graders.catalogue import FRAMEWORKS, ROOT, Kata, find, katas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kata", nargs="*", help="the katas whose stubs to derive (all)")
    parser.add_argument("--force", action="store_true", help="overwrite stubs that were edited too")
    options = parser.parse_args()
    try:
        for kata in [find(name) for name in options.kata] or katas():
            for framework in kata.frameworks:
                write_stub(kata, framework, force=options.force)
        write_table("katas", table())
    except KataError as error:
        raise SystemExit(f"derive: {error}") from None


def write_stub(kata: Kata, framework: str, *, force: bool = False) -> None:
    path = kata.stub(framework)
    source = stubs.derive(kata, framework)
    if path.exists() and not force and not stubs.is_untouched(path.read_text(encoding="utf-8"), kata.name):
        print(f"left alone, it was edited: {path.relative_to(ROOT)}")
    elif not path.exists() or path.read_text(encoding="utf-8") != source:
        path.write_text(source, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def table() -> str:
    """The README's table, a row a kata."""
    rows = [
        "| kata | minutes | difficulty | track | frameworks | levels |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kata in katas():
        offered = ", ".join(FRAMEWORKS[framework] for framework in kata.frameworks)
        link = f"[{kata.title}](katas/{kata.name}/spec.md)"
        levels = ", ".join(kata.levels)
        rows.append(f"| {link} | {kata.minutes} | {kata.difficulty} | {kata.track} | {offered} | {levels} |")
    return "\n".join(rows)


def write_table(name: str, rows: str) -> None:
    """Puts the rows into the README between `<!-- name -->` and `<!-- end of name -->`."""
    readme, begin, end = ROOT / "README.md", f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    new = f"{before}{begin}\n{rows}\n{end}{after}"
    if new != text:
        readme.write_text(new, encoding="utf-8")
        print("wrote README.md")


if __name__ == "__main__":
    main()
