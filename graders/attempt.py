"""The one door through which a grader calls the person's code: NumPy in, NumPy out, guarded."""

import ast
import contextlib
import inspect
import io
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from graders import notebook
from graders.backends import Backend
from graders.catalogue import FRAMEWORKS
from graders.cost import Cost
from graders.errors import Mismatch, NotStarted
from graders.guards import Guards
from graders.native import Native, nearest
from graders.scratch import Watch


@dataclass(frozen=True)
class Attempt:
    """An attempt in one place (a device, or a transformation of its calls).

    `attempt.attention(q, k, v, mask=mask)` calls the person's `attention`; `vjp` differentiates it.
    """

    kata: str
    path: Path
    module: ModuleType
    backend: Backend
    watch: Watch
    signatures: dict[str, str] = field(default_factory=dict)
    place: str = "cpu"

    def on(self, place: str) -> "Attempt":
        return replace(self, place=place)

    @property
    def directly(self) -> "Attempt":
        """The attempt where calls are made as the person would make them."""
        return self.on(self.backend.direct) if self.place == "cpu" else self

    @property
    def framework(self) -> str:
        return self.backend.name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: self.call(name, *args, **options)

    def find(self, name: str) -> Callable[..., Any]:
        """The person's function or class of that name; Mismatch naming the nearest if there is none."""
        found = getattr(self.module, name, None)
        if callable(found):
            return found
        own = [key for key, value in vars(self.module).items() if callable(value) and not key.startswith("_")]
        near = nearest(name, own)
        what = "class" if name[0].isupper() else "function"
        raise Mismatch(
            f"expected a {what} `{name}`, found `{near}`" if near else f"the file has no {what} `{name}`"
        ).with_details(("expected", self.signatures.get(name, name)))

    def play(
        self,
        name: str,
        scenario: Callable[[Native], Any],
        *,
        dtype: str = "float32",
        draws: bool = False,
        watched: bool = False,
    ) -> Any:
        """Runs a scenario with the person's own objects behind the guards.

        draws: it may advance the global random number generators. watched: under the watch, for from-scratch.
        """
        native = Native(self, name, dtype)
        sample = np.zeros(1, dtype=dtype)
        with self.backend.scope([sample], self.place), Guards(self, name, {}, draws=draws) as guards:
            guards.doing = lambda: native.doing

            def run() -> Any:
                try:
                    result = scenario(native)
                    native.unchanged()
                except Mismatch as problem:
                    problem.observed = problem.summary
                    raise problem.with_details(("doing", f"{native.doing}, {dtype} on {self.place}")) from None
                return result

            with self.watch if watched else contextlib.nullcontext():
                return guards.run(run)

    def call(self, name: str, *args: Any, arrays: int = 1, **options: Any) -> Any:
        """One guarded call; a single array, or a tuple of `arrays` of them, as NumPy."""
        function = self.find(name)
        self._check_signature(name, function, args, options)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            out = guards.run(lambda: self.backend.run(function, native, extra, self.place))
            return guards.results(out, arrays)

    def outline(self, name: str, args: Sequence[Any], options: Mapping[str, Any], arrays: int = 1) -> list[Any]:
        """Shape and dtype of each result, if the framework can tell without computing it; nothing if it cannot.

        Nor if the call would fail: making it says how.
        """
        function = self.find(name)
        self._check_signature(name, function, args, options)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # the call that follows would print it again
                    out = guards.run(lambda: self.backend.outline(function, native, extra))
            except (Mismatch, NotStarted):
                return []
        found = list(out) if arrays > 1 and isinstance(out, tuple | list) else [out]
        return found if len(found) == arrays and all(hasattr(x, "shape") and hasattr(x, "dtype") for x in found) else []

    def sweep(self, name: str, calls: Sequence[Sequence[np.ndarray]], **options: Any) -> list[np.ndarray]:
        """Many calls alike, as finite differences need them: guarded once, around them all."""
        function = self.find(name)
        self._check_signature(name, function, calls[0], options)
        given = {**_named(function, calls[0]), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            _, extra = guards.convert(calls[0], options)
            outs = guards.run(lambda: self.backend.sweep(function, calls, extra, self.place))
            return (
                [guards.result(out, name) for out in outs] if isinstance(outs, list) else [*guards.result(outs, name)]
            )

    def vjp(
        self,
        name: str,
        args: Sequence[np.ndarray],
        upstream: np.ndarray,
        *,
        wrt: Sequence[int],
        **options: Any,
    ) -> list[np.ndarray]:
        """upstream^T times the Jacobian of one call, for each positional argument in wrt.

        In NumPy it is what the person's `<name>_backward(upstream, *args, **options)` returns.
        """
        if self.framework == "numpy":
            found = self.call(f"{name}_backward", upstream, *args, arrays=len(wrt), **options)
            return list(found) if len(wrt) > 1 else [found]
        function = self.find(name)
        self._check_signature(name, function, args, options)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            seed = self.to(upstream)
            out, grads = guards.run(lambda: self.backend.vjp(function, native, wrt, seed, extra))
            guards.result(out, name)
            names = list(given)
            for position, grad in zip(wrt, grads, strict=True):
                if grad is None:
                    raise Mismatch(
                        f"{name}: no gradient reaches {names[position]}: is it detached, or rebuilt from plain numbers?"
                    ).with_details(guards.called())
            return [self.backend.back(grad) for grad in grads]

    def cost(self, name: str, args: Sequence[np.ndarray], options: Mapping[str, Any]) -> Cost:
        """What one call costs, counted; the same guards."""
        function = self.find(name)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(args), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            found: Cost = guards.run(lambda: self.backend.cost(lambda xs: function(*xs, **extra), native))
            return found

    def trace(self, name: str, args: Sequence[np.ndarray], options: Mapping[str, Any]) -> None:
        """Takes the person's code through one call under the watch, for what it does on the way."""
        function = self.find(name)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            with self.watch:
                guards.run(lambda: self.backend.trace(function, native, extra))

    def foreign_imports(self) -> list[tuple[int, str]]:
        """Where the file imports another framework than its own, or what the kata refuses, and which."""
        tree = ast.parse("".join(linecache.getlines(str(self.path))))
        found = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [(node.lineno, self._foreign(name)) for name in names if self._foreign(name)]
        return found

    def _foreign(self, imported: str) -> str:
        top = imported.partition(".")[0]
        if top in FRAMEWORKS and top not in (self.framework, "numpy"):
            return top
        return next((path for path in self.watch.refused if f"{imported}.".startswith(f"{path}.")), "")

    def to(self, value: Any) -> Any:
        return self.backend.to(value, self.place) if isinstance(value, np.ndarray) else value

    def _check_signature(self, name: str, function: Any, args: Sequence[Any], options: Mapping[str, Any]) -> None:
        try:
            inspect.signature(function).bind(*args, **options)
        except TypeError as error:
            raise Mismatch(f"`{name}` cannot be called as the contract says: {error}").with_details(
                ("expected", self.signatures.get(name, name)),
                ("found", f"{name}{inspect.signature(function)}"),
            ) from None
        except ValueError:
            return

    def inner_function(self, error: BaseException) -> str:
        """The name of the person's function that an exception came from."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return frames[-1].name if frames else ""

    def frames(self, error: BaseException) -> str:
        """The person's own frames of an exception, innermost last."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return "\n".join(f"line {f.lineno}, in {f.name}: {f.line}" for f in frames)


def _named(function: Callable[..., Any], args: Sequence[Any]) -> dict[str, Any]:
    """Positional arguments by their names in the person's signature."""
    try:
        return dict(inspect.signature(function).bind_partial(*args).arguments)
    except (TypeError, ValueError):
        return {f"argument {i}": value for i, value in enumerate(args)}


def _arrays(values: Any) -> list[np.ndarray]:
    return [value for value in values if isinstance(value, np.ndarray)]


def load(
    path: Path,
    kata: str,
    backend: Backend,
    refused: Sequence[str],
    signatures: dict[str, str],
    *,
    source: str | None = None,
) -> Attempt:
    """Executes the attempt's file as a module of its own, in `sys.modules` so that pickling works.

    Raises Mismatch with the caret line of a syntax error, or the person's frames of any other exception.
    """
    source = notebook.source(path) if source is None else source
    lines = source.splitlines(keepends=True)
    linecache.cache[str(path)] = (len(source), None, lines, str(path))
    module = ModuleType("attempt")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    attempt = Attempt(kata, path, module, backend, Watch(refused, str(path)), signatures)
    try:
        with warnings.catch_warnings(action="ignore"):
            exec(compile(source, str(path), "exec"), vars(module))
    except SyntaxError as error:
        raise _syntax(error, path) from None
    except BaseException as error:
        name = "sys.exit" if isinstance(error, SystemExit) else type(error).__name__
        raise Mismatch(
            f"{path.name} does not load: {name}: {error}",
            details=(("at", attempt.frames(error)),),
            raised=error,
        ) from None
    return attempt


def _syntax(error: SyntaxError, path: Path) -> Mismatch:
    line = (error.text or "").rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    return Mismatch(f"{path.name} has a syntax error on line {error.lineno}: {error.msg}").with_details(
        ("", line), ("", caret)
    )
