"""The comparison as one page that needs nothing from outside and is legible in light and in dark."""

import html
import keyword
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

from graders.catalogue import FRAMEWORKS, Kata
from graders.compare import plan, report
from graders.compare.code import Pair, Spans, beside, code_lines
from graders.compare.findings import COST_NAMES, SIDES, Findings, Task
from graders.errors import KataError

TEMPLATE = Path(__file__).with_name("page.html")


def render(kata: Kata, findings: Findings, yours: str, *, locked: str = "") -> str:
    """The page. locked: why the reference's code is not shown; empty if it is."""
    import jinja2

    reference = kata.solution(findings.framework).read_text(encoding="utf-8")
    pictures = own_pictures(kata, findings)  # first, for it may add to the complaints
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    device = " and ".join(place.upper() if place == "cpu" else "CUDA" for place in findings.places)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=kata.title,
        framework=FRAMEWORKS[findings.framework],
        lede=f"An attempt in {FRAMEWORKS[findings.framework]} beside the reference solution, on the same inputs.",
        summary=report.summary(findings, yours, reference),
        complaints=findings.complaints(),
        pictures=pictures,
        growth=growth_curves(findings),
        tables=report.tables(findings),
        pairs=None if locked else [_shown(pair) for pair in beside(yours, reference)],
        lines=(code_lines(yours), code_lines(reference)),
        locked=locked,
        footer=f"{findings.attempt.name}, seed {findings.seed}, {device}, Python {platform.python_version()}, "
        f"{time.strftime('%d %B %Y').lstrip('0')}.",
    )


def own_pictures(kata: Kata, findings: Findings) -> list[dict[str, str]]:
    """What only this kata has, drawn from what both sides gave."""
    from graders.compare import drawing

    found = []
    for picture in plan.load(kata, findings.framework).pictures:
        taken = [findings.get(Task("picture", picture.title), side) for side in SIDES]
        data = [_whole(x) for x in taken]
        if data == [None, None]:
            continue
        try:
            drawn = drawing.svg(partial(picture.draw, yours=data[0], reference=data[1]), picture.size, picture.alt)
        except Exception as error:
            if data[0] is None:
                raise KataError(f"the picture {picture.title!r} cannot be drawn: {error}") from error
            # what the attempt gave may be of any kind: the reference's alone is drawn then
            findings.found[Task("picture", picture.title), "yours"] = f"cannot be drawn: {error}"
            drawn = drawing.svg(partial(picture.draw, yours=None, reference=data[1]), picture.size, picture.alt)
        found.append({"title": picture.title, "caption": picture.caption, "svg": drawn})
    return found


def _whole(taken: Any) -> dict[str, Any] | None:
    """What was taken of a side without the parts that failed."""
    if not isinstance(taken, dict):
        return None
    return {name: part for name, part in taken.items() if not isinstance(part, str)} or None


def growth_curves(findings: Findings) -> list[dict[str, str]]:
    """Rows of curves for each cost and for the time on each device."""
    from graders.compare import drawing

    rows: list[tuple[str, list[Any]]] = []
    for place in findings.places:
        curves: list[Any] = []
        for p in findings.probes:
            both = [{n: t.seconds for n, t in findings.times(p, place, side).items()} for side in SIDES]
            curves.append((p.title, p.grows, *both))
        rows.append((f"Time on {'the CPU' if place == 'cpu' else 'CUDA'}", curves))
    for what in findings.counted():
        curves = [(p.title, p.grows, *(findings.cost(p, what, side) for side in SIDES)) for p in findings.probes]
        positive = [
            (title, grows, *({n: y for n, y in c.items() if y > 0} for c in cs)) for title, grows, *cs in curves
        ]
        rows.append((COST_NAMES[what][0].upper() + COST_NAMES[what][1:], positive))
    found = []
    for title, curves in rows:
        shown = [curve for curve in curves if any(curve[2:])]
        for start in range(0, len(shown), drawing.ACROSS):
            part = shown[start : start + drawing.ACROSS]
            names = ", ".join(curve[0] for curve in part)
            alt = f"{title} of {names} as sizes grow: the attempt's curve and the reference's."
            drawn = drawing.svg(partial(drawing.growth, curves=part), (10.4, 2.3), alt)
            found.append({"title": title if not start else "", "svg": drawn})
    return found


def _shown(pair: Pair) -> dict[str, Any]:
    def lines(side: str) -> str:
        count = pair.count(side)
        return f"{count} line{'s' * (count != 1)}"

    return {
        "yours": pair.yours,
        "reference": pair.reference,
        "yours_lines": lines("yours"),
        "reference_lines": lines("reference"),
        "rows": [
            {"kind": row.kind, "yours": _markup(row.yours), "reference": _markup(row.reference)} for row in pair.rows
        ],
    }


def _markup(spans: Spans) -> str:
    """A line with its keywords and strings coloured, and what differs marked."""
    marked = [mark for text, mark in spans for _ in text]
    line = "".join(text for text, _ in spans)
    kinds = _kinds(line)
    out: list[str] = []
    start = 0
    for i in range(1, len(line) + 1):
        if i == len(line) or (kinds[i], marked[i]) != (kinds[start], marked[start]):
            text = html.escape(line[start:i])
            text = f'<span class="{kinds[start]}">{text}</span>' if kinds[start] else text
            out.append(f"<mark>{text}</mark>" if marked[start] else text)
            start = i
    return "".join(out)


def _kinds(line: str) -> list[str]:
    """Of each character: "k" in a keyword, "s" in a string that begins and ends on this line, else ""."""
    kinds = [""] * len(line)
    i = 0
    while i < len(line):
        if line[i] in "\"'":
            end = line.find(line[i], i + 1)
            end = len(line) if end < 0 else end + 1
            kinds[i:end] = "s" * (end - i)
        elif line[i].isalpha() or line[i] == "_":
            end = i
            while end < len(line) and (line[end].isalnum() or line[end] == "_"):
                end += 1
            if keyword.iskeyword(line[i:end]):
                kinds[i:end] = "k" * (end - i)
        else:
            end = i + 1
        i = end
    return kinds
