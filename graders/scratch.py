"""Sees that an attempt calls a refused function, whatever name it was reached by, and on which line."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Use:
    """A refused dotted path that was called, and the attempt's line it was called from."""

    path: str
    line: int | None


class Watch:
    """While active, notes each call of a refused function, class or module in `used`.

    A profile function sees every Python and C call, so an alias does not help. Names resolve lazily, among the
    modules that are imported already: what is not imported cannot be in use.
    """

    def __init__(self, refused: Sequence[str], filename: str) -> None:
        self.refused, self.filename = tuple(refused), filename
        self.used: list[Use] = []
        self.depth = 0
        self.modules_seen = -1
        self.codes: dict[CodeType, str] = {}
        self.builtins: dict[str, str] = {}
        self.packages: dict[str, str] = {}
        self.previous: Callable[..., Any] | None = None

    def __enter__(self) -> "Watch":
        self.depth += 1
        if self.depth == 1 and self.refused:
            self._resolve()
            self.previous = sys.getprofile()
            sys.setprofile(self._see)
        return self

    def __exit__(self, *exc: object) -> None:
        self.depth -= 1
        if self.depth == 0 and self.refused:
            sys.setprofile(self.previous)

    def _resolve(self) -> None:
        if len(sys.modules) == self.modules_seen:
            return
        self.modules_seen = len(sys.modules)
        for path in self.refused:
            target = _find(path)
            if isinstance(target, ModuleType):
                self.packages[target.__name__] = path
            elif isinstance(target, type):
                self.codes |= {f.__code__: path for f in vars(target).values() if hasattr(f, "__code__")}
            elif hasattr(target, "__code__"):
                while target is not None:
                    self.codes[target.__code__] = path
                    target = getattr(target, "__wrapped__", None)
            elif callable(target):
                self.builtins[target.__name__] = path

    def _see(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            path = self.codes.get(frame.f_code)
            if path is None and self.builtins and frame.f_code.co_name == "__call__":
                # torch.ops.aten.<name>(...) and <name>.default(...) are Python objects that carry the name
                called = frame.f_locals.get("self")
                operator = str(getattr(called, "_qualified_op_name", None) or getattr(called, "_name", ""))
                path = self.builtins.get(operator.rpartition("::")[2].partition(".")[0])
            if path is None and self.packages:
                path = self._package(frame.f_globals.get("__name__", ""))
        elif event == "c_call":
            path = self.builtins.get(getattr(arg, "__name__", ""))
        else:
            return
        if path is not None:
            use = Use(path, self._line(frame))
            if use not in self.used:
                self.used.append(use)

    def _package(self, name: str) -> str | None:
        return next((path for own, path in self.packages.items() if name == own or name.startswith(own + ".")), None)

    def _line(self, frame: FrameType | None) -> int | None:
        while frame is not None and frame.f_code.co_filename != self.filename:
            frame = frame.f_back
        return frame.f_lineno if frame else None


def _find(path: str) -> Any:
    """What a dotted path names, if its module is imported already."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is not None:
            for name in parts[cut:]:
                found = vars(found).get(name) if isinstance(found, ModuleType) else getattr(found, name, None)
            return found
    return None
