"""What a comparison found, as plain numbers: what the child sends and what the tables and the page are made of."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graders.cost import Cost

SIDES = ("yours", "reference")
COST_NAMES = {
    "flops": "FLOPs in products",
    "largest": "largest intermediate",
    "peak": "bytes held",
    "ops": "operations",
}
COST_SHORT = {"flops": "FLOPs", "largest": "largest", "peak": "bytes", "ops": "ops"}


@dataclass(frozen=True)
class Task:
    """One measurement. kind: error, cost, time or picture; of: the probe's or picture's title."""

    kind: str
    of: str
    n: int = 0
    place: str = "cpu"
    dtype: str = ""


@dataclass(frozen=True)
class Error:
    """The largest error over the largest exact entry, that of the kernel's own formula in the dtype, and whether a
    check would let it pass."""

    size: float
    own: float
    within: bool


@dataclass(frozen=True)
class Time:
    """Seconds a call, the median; on the attempt's side also the median, lower and upper quartile of the ratios."""

    seconds: float
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Shape:
    """A probe without its functions."""

    title: str
    grows: str
    sizes: tuple[int, ...]
    error_sizes: tuple[int, ...]
    dtype: str  # of cost and time


@dataclass
class Findings:
    """All that was measured: a result, or a sentence on why there is none, for each task and side."""

    kata: str
    framework: str
    attempt: Path
    seed: int
    places: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ()
    probes: tuple[Shape, ...] = ()
    pictures: tuple[str, ...] = ()
    found: dict[tuple[Task, str], Any] = field(default_factory=dict)

    def get(self, task: Task, side: str) -> Any:
        return self.found.get((task, side))

    def cost(self, probe: Shape, what: str, side: str) -> dict[int, float]:
        """One cost by size, as far as it was counted."""
        costs = {n: self.get(Task("cost", probe.title, n), side) for n in probe.sizes}
        return {n: float(getattr(cost, what)) for n, cost in costs.items() if isinstance(cost, Cost)}

    def times(self, probe: Shape, place: str, side: str) -> dict[int, Time]:
        times = {n: self.get(Task("time", probe.title, n, place), side) for n in probe.sizes}
        return {n: time for n, time in times.items() if isinstance(time, Time)}

    def errors(self, probe: Shape, place: str, dtype: str, side: str) -> dict[int, Error]:
        errors = {n: self.get(Task("error", probe.title, n, place, dtype), side) for n in probe.error_sizes}
        return {n: error for n, error in errors.items() if isinstance(error, Error)}

    def counted(self) -> list[str]:
        """The costs that say anything: NumPy shows its allocations alone."""
        names = ("peak",) if self.framework == "numpy" else ("flops", "largest", "ops")
        return [what for what in names if any(any(self.cost(p, what, s).values()) for p in self.probes for s in SIDES)]

    def complaints(self) -> list[tuple[str, str]]:
        """(what, sentence) for what could not be measured, each sentence of a probe once."""
        seen: dict[tuple[str, str], None] = {}
        for (task, side), result in self.found.items():
            parts = result if isinstance(result, dict) else {"": result}  # of a picture
            for name, part in parts.items():
                if isinstance(part, str):
                    title = f"{task.of}, {name}" if name else task.of
                    seen[title if side == "yours" else f"{title}, reference", part] = None
        return list(seen)

    def overall(self) -> dict[str, float]:
        """The attempt over the reference: the geometric mean over the probes, each at its largest common size."""
        ratios: dict[str, list[float]] = {what: [] for what in (*self.counted(), "time")}
        for probe in self.probes:
            for what in self.counted():
                ratios[what] += _last_ratio(*(self.cost(probe, what, side) for side in SIDES))
            times = [t.ratio for t in self.times(probe, "cpu", "yours").values() if math.isfinite(t.ratio)]
            ratios["time"] += times[-1:]
        return {what: math.exp(math.fsum(map(math.log, rs)) / len(rs)) for what, rs in ratios.items() if rs}


def _last_ratio(yours: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    common = [n for n in yours if yours[n] > 0 and reference.get(n, 0) > 0]
    return [yours[common[-1]] / reference[common[-1]]] if common else []


def growth(by_size: Mapping[int, float]) -> float | None:
    """The power of n that it grew with over the last doubling."""
    sizes = [n for n in by_size if by_size[n] > 0]
    if len(sizes) < 2:
        return None
    a, b = sizes[-2:]
    return math.log(by_size[b] / by_size[a]) / math.log(b / a)


def power(exponent: float | None) -> str:
    """n, n² or n^1.5; "constant" where it hardly grew."""
    if exponent is None:
        return ""
    near = round(exponent)
    if abs(exponent - near) < 0.15:
        return {0: "constant", 1: "n", 2: "n²", 3: "n³"}.get(near, f"n^{near}")
    return f"n^{exponent:.1f}"


def short(number: float) -> str:
    """A count in four characters or so: 1,234, 56.7k, 8.9M."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (limit if unit != "k" else 1e3)
            return f"{scaled:.3g}{unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    for limit, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= limit:
            return f"{seconds / limit:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def worst(errors: Iterable[Error]) -> Error | None:
    return max(errors, key=lambda e: math.inf if math.isnan(e.size) else e.size, default=None)
