"""What the tables of a comparison say, the same for the terminal and the page."""

import math
from dataclasses import dataclass

from graders.compare.code import code_lines
from graders.compare.findings import (
    COST_NAMES,
    COST_SHORT,
    SIDES,
    Error,
    Findings,
    Shape,
    Task,
    Time,
    duration,
    growth,
    power,
    short,
)


@dataclass(frozen=True)
class Cell:
    """A text and what to make of it: "" as it is, good, bad, or quiet."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under two lines of headings; the first columns name the row."""

    title: str
    caption: str
    groups: tuple[tuple[str, int], ...]  # (heading, columns it spans)
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: str = ""  # on the page alone, which has room for the kernel's own error


DASH = Cell("—", "quiet")


def tables(findings: Findings) -> list[Table]:
    """Error, cost and time, as far as there is anything in them."""
    found = [_errors(findings, place) for place in findings.places]
    found += [_costs(findings)] if findings.counted() else []
    found.append(_times(findings))
    return [table for table in found if table.rows]


def _errors(findings: Findings, place: str) -> Table:
    rows = []
    dtypes = [dtype for dtype in findings.dtypes if any(t.dtype == dtype for t, _ in findings.found)]
    for probe in findings.probes:
        for n in probe.error_sizes:
            cells = []
            for dtype in dtypes:
                task = Task("error", probe.title, n, place, dtype)
                both = [findings.get(task, side) for side in SIDES]
                own = next((e.own for e in both if isinstance(e, Error)), None)
                cells += [*map(_error, both), Cell(f"{own:.1e}", "quiet") if own is not None else DASH]
            rows.append((_call(probe, probe.error_sizes, n), Cell(f"{n:,}", "quiet"), *cells))
    caption = (
        "The largest error over the answer's largest entry, against a float64 kernel; marked: more than a check "
        "lets pass."
    )
    more = "kernel: what its own formula makes in that dtype (in float64: float32's, made finer)."
    where = "" if findings.places == ("cpu",) else f" on {place}"
    groups = (("", 2), *((dtype, 3) for dtype in dtypes))
    head = ("call", "n", *(("yours", "reference", "kernel") * len(dtypes)))
    return Table(f"Error{where}", caption, groups, head, tuple(rows), more)


def _error(error: object) -> Cell:
    if not isinstance(error, Error):
        return DASH
    text = "NaN" if math.isnan(error.size) else f"{error.size:.1e}" if error.size else "0"
    return Cell(text, "" if error.within else "bad")


def _call(probe: Shape, sizes: tuple[int, ...], n: int) -> Cell:
    """The probe's name in its first row, what n is in its second."""
    if n == sizes[0]:
        return Cell(probe.title)
    return Cell(f"n: {probe.grows}" if n == sizes[1] else "", "quiet")


def _costs(findings: Findings) -> Table:
    counted = findings.counted()
    rows = []
    for probe in findings.probes:
        costs = {(what, side): findings.cost(probe, what, side) for what in counted for side in SIDES}
        if not any(costs.values()):
            continue
        for n in probe.sizes:
            cells = [Cell(short(found[n])) if n in (found := costs[what, side]) else DASH
                     for what in counted for side in SIDES]  # fmt: skip
            rows.append((_call(probe, probe.sizes, n), Cell(f"{n:,}", "quiet"), *cells))
        powers = {key: growth(found) for key, found in costs.items()}
        cells = [_power(powers[what, side], powers[what, "reference"]) for what in counted for side in SIDES]
        rows.append((Cell(""), Cell("grows as", "quiet"), *cells))
    caption = (
        "Counted in one call, not timed. FLOPs: 2 a multiply-add of matrix products, nothing else; largest: elements "
        "of the largest intermediate; ops: operations dispatched. grows as: over the last doubling."
    )
    if findings.framework == "numpy":
        caption = "Bytes held at the most beyond the inputs, in one call; NumPy shows its allocations alone."
    groups = (("", 2), *((COST_SHORT[what], 2) for what in counted))
    return Table("Cost as sizes grow", caption, groups, ("call", "n", *(SIDES * len(counted))), tuple(rows))


def _power(mine: float | None, right: float | None) -> Cell:
    worse = mine is not None and right is not None and mine > right + 0.4
    return Cell(power(mine), "bad" if worse else "quiet")


def _times(findings: Findings) -> Table:
    rows = []
    for probe in findings.probes:
        times = {(place, side): findings.times(probe, place, side) for place in findings.places for side in SIDES}
        if not any(times.values()):
            continue
        for n in probe.sizes:
            cells = []
            for place in findings.places:
                mine, right = (times[place, side].get(n) for side in SIDES)
                cells += [Cell(duration(t.seconds)) if t else DASH for t in (mine, right)] + [ratio(mine)]
            rows.append((_call(probe, probe.sizes, n), Cell(f"{n:,}", "quiet"), *cells))
    dtypes = " or ".join(dict.fromkeys(probe.dtype for probe in findings.probes))
    clock = ", in seconds of CPU time" if "cpu" in findings.places else ""
    caption = (
        f"Medians of a call in {dtypes}, one thread{clock}, both taken in turns in one run after a warm-up. ratio: the "
        "median of the pairs' ratios (and quartiles); seconds are this machine's, the ratio is what to compare."
    )
    groups = (("", 2), *((place, 3) for place in findings.places))
    head = ("call", "n", *(("yours", "reference", "ratio") * len(findings.places)))
    return Table("Time", caption, groups, head, tuple(rows))


def ratio(time: Time | None) -> Cell:
    if time is None or math.isnan(time.ratio):
        return DASH
    text = f"{times(time.ratio)} ({time.low:.2f} to {time.high:.2f})"
    return Cell(text, "bad" if time.low > 1.5 else "good" if time.high < 0.95 else "")


def times(number: float) -> str:
    return f"{number:.2f}×" if number < 9.95 else f"{number:,.0f}×"


@dataclass(frozen=True)
class Figure:
    """One figure of the summary."""

    label: str
    value: str
    note: str


def summary(findings: Findings, yours: str, reference: str) -> list[Figure]:
    """The comparison in a line: errors, costs and time over the reference's, lines of code."""
    errors = [e for (task, side), e in findings.found.items() if side == "yours" and isinstance(e, Error)]
    wrong = sum(not e.within for e in errors)
    said = "all within what a check allows" if not wrong else f"{wrong} beyond what a check allows"
    found = [Figure("results compared", f"{len(errors) - wrong} of {len(errors)}", said)] if errors else []
    names = {"time": "time", **COST_NAMES}
    overall = findings.overall()
    found += [Figure(names[what], times(overall[what]), "the reference's") for what in names if what in overall]
    return [*found, Figure("lines of code", str(code_lines(yours)), f"the reference's {code_lines(reference)}")]
