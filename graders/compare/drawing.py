"""Pictures as inline SVG that takes its colours from the page, so that it is legible in light and in dark."""

import html
import io
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from graders.compare.findings import duration, short

# Each stands for a colour of the page: the SVG says var(--yours) where matplotlib was told YOURS.
INK, MUTED, LINE, YOURS, REFERENCE, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", YOURS: "yours", REFERENCE: "reference", PAPER: "paper"}
ACROSS = 4  # growth curves in a row
GAP = 0.04  # around each square of a matrix
SIDE = {"yours": YOURS, "reference": REFERENCE}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.prop_cycle": "cycler('color', ['#040404', '#050505'])",
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
}


def svg(draw: Callable[[Figure], None], size: tuple[float, float], alt: str) -> str:
    """The drawing as an SVG element that needs nothing from outside."""
    with rc_context({**STYLE, "svg.hashsalt": alt}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inline(out.getvalue(), alt)


def _inline(text: str, alt: str) -> str:
    """matplotlib's file as a part of a page: no prologue, no metadata, ids of its own, colours from the page."""
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace("xlink:href", "href")
    own = f"p{zlib.crc32(alt.encode()):08x}-"
    body = re.sub(r'\bid="', f'id="{own}', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}", body)
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)  # hundredths of a point will do
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    box = re.search(r'viewBox="([^"]+)"', text)
    said = html.escape(alt, quote=True)
    return f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{said}"><title>{said}</title>{body}</svg>'


def panels(figure: Figure, rows: int, columns: int, **more: Any) -> list[list[Axes]]:
    """A grid of squares without ticks, for what is looked at and not read off."""
    grid = figure.subplots(rows, columns, squeeze=False, **more)
    for ax in grid.flat:
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(True)
    return [list(row) for row in grid]


def shade(ax: Axes, values: np.ndarray, side: str, *, top: float | None = None) -> None:
    """A matrix in one colour, 0 the page's own and the largest entry full; what is not finite is crossed out."""
    top = top or float(np.max(np.abs(values), where=np.isfinite(values), initial=0)) or 1.0
    rows, columns = values.shape
    faces, squares, odd = [], [], []
    for (i, j), value in np.ndenumerate(values):
        left, right, above, below = j + GAP, j + 1 - GAP, i + GAP, i + 1 - GAP
        square = [(left, above), (right, above), (right, below), (left, below)]
        if not np.isfinite(value):
            odd.append((j + 0.5, i + 0.5))
        elif (strength := min(abs(float(value)) / top, 1.0)) > 0.015:
            squares.append(square)
            faces.append(strength)
    red, green, blue = (int(SIDE.get(side, side)[i : i + 2], 16) / 255 for i in (1, 3, 5))
    colours = [(red, green, blue, round(strength, 2)) for strength in faces]
    ax.add_collection(PolyCollection(squares, facecolors=colours, edgecolors="none"))
    if odd:
        ax.plot(*zip(*odd, strict=True), "x", color=INK, markersize=3, linewidth=0)
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")


def both(ax: Axes, x: Any, yours: Any, reference: Any, *, marks: bool = True) -> None:
    """A curve of each side: the reference broad and behind, so that both are seen where they agree."""
    if reference is not None:
        ax.plot(x if not isinstance(x, dict) else x["reference"], reference, color=REFERENCE, linewidth=4.5, alpha=0.5,
                solid_capstyle="round", zorder=1)  # fmt: skip
    if yours is not None:
        ax.plot(x if not isinstance(x, dict) else x["yours"], yours, color=YOURS, linewidth=1.5,
                marker="o" if marks else None, markersize=3.2, zorder=2)  # fmt: skip


def failed(ax: Axes, side: str = "yours") -> None:
    """Says that a side gave nothing to draw."""
    ax.text(0.5, 0.5, f"{side}: nothing", transform=ax.transAxes, ha="center", va="center", color=MUTED)


def growth(figure: Figure, curves: Sequence[tuple[str, str, dict[int, float], dict[int, float]]]) -> None:
    """Small multiples on logarithmic axes: (title, what n is, the attempt by n, the reference by n)."""
    axes = figure.subplots(1, ACROSS, sharey=True)
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    for ax, (title, grows, yours, reference) in zip(axes, curves, strict=False):
        both(ax, {"yours": list(yours), "reference": list(reference)}, list(yours.values()), list(reference.values()))
        ax.set(xscale="log", yscale="log", title=title, xlabel=grows)
        ax.set_xticks(ticks := sorted({*yours, *reference}), [short(n) for n in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    values = [value for curve in curves for side in curve[2:] for value in side.values()]
    _readable(axes[0], min(values), max(values))


def _readable(ax: Axes, least: float, most: float) -> None:
    """Two decades at least, so that a flat curve looks flat; numbers as people write them."""
    middle, reach = (least * most) ** 0.5, max((most / least) ** 0.5 * 1.25, 8.0)
    ax.set_ylim(middle / reach, middle * reach)
    ax.yaxis.set_major_locator(LogLocator(base=10, numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    is_time = most < 10 and least < 0.5
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: duration(y) if is_time else short(y)))
