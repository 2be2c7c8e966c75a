"""The one door through which a grader calls the person's code: NumPy in, NumPy out, guarded."""

import ast
import difflib
import inspect
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

    def function(self, name: str) -> Callable[..., Any]:
        """The person's function of that name; Mismatch naming the nearest if there is none."""
        found = getattr(self.module, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
        own = [key for key, value in vars(self.module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, own, n=1, cutoff=0.7)
        raise Mismatch(
            f"expected a function `{name}`, found `{near[0]}`" if near else f"the file has no function `{name}`"
        ).with_details(("expected", self.signatures.get(name, name)))

    def call(self, name: str, *args: Any, arrays: int = 1, **options: Any) -> Any:
        """One guarded call; a single array, or a tuple of `arrays` of them, as NumPy."""
        function = self.function(name)
        self._check_signature(name, function, args, options)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            out = guards.run(lambda: self.backend.run(function, native, extra, self.place))
            return guards.results(out, arrays)

    def sweep(self, name: str, calls: Sequence[Sequence[np.ndarray]], **options: Any) -> list[np.ndarray]:
        """Many calls alike, as finite differences need them: guarded once, around them all."""
        function = self.function(name)
        self._check_signature(name, function, calls[0], options)
        given = {**_named(function, calls[0]), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            _, extra = guards.convert(calls[0], options)
            return guards.run(
                lambda: [
                    guards.result(self.backend.run(function, [self.to(x) for x in args], extra, self.place), name)
                    for args in calls
                ]
            )

    def vjp(
        self, name: str, args: Sequence[np.ndarray], upstream: np.ndarray, *, wrt: Sequence[int], **options: Any
    ) -> list[np.ndarray]:
        """upstream^T times the Jacobian of one call, for each positional argument in wrt.

        In NumPy it is what the person's `<name>_backward(upstream, *args, **options)` returns.
        """
        if self.framework == "numpy":
            found = self.call(f"{name}_backward", upstream, *args, arrays=len(wrt), **options)
            return list(found) if len(wrt) > 1 else [found]
        function = self.function(name)
        self._check_signature(name, function, args, options)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            seed = self.to(upstream)
            out, grads = guards.run(
                lambda: self.backend.vjp(lambda *leaves: function(*leaves, **extra), native, wrt, seed)
            )
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
        function = self.function(name)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(args), self.place), Guards(self, name, given) as guards:
            native, _ = guards.convert(args, options)
            found: Cost = guards.run(lambda: self.backend.cost(lambda xs: function(*xs, **options), native))
            return found

    def trace(self, name: str, args: Sequence[np.ndarray], options: Mapping[str, Any]) -> None:
        """Takes the person's code through one call under the watch, for what it does on the way."""
        function = self.function(name)
        given = {**_named(function, args), **options}
        with self.backend.scope(_arrays(given.values()), self.place), Guards(self, name, given) as guards:
            native, extra = guards.convert(args, options)
            with self.watch:
                guards.run(lambda: self.backend.trace(function, native, extra))

    def foreign_imports(self) -> list[tuple[int, str]]:
        """Where the file imports another framework than its own, and which."""
        tree = ast.parse("".join(linecache.getlines(str(self.path))))
        found = []
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tops = [name.partition(".")[0] for name in names]
            found += [(node.lineno, top) for top in tops if top in FRAMEWORKS and top not in (self.framework, "numpy")]  # type: ignore[attr-defined]
        return found

    def to(self, value: Any) -> Any:
        return self.backend.to(value, self.place) if isinstance(value, np.ndarray) else value

    def _check_signature(self, name: str, function: Any, args: Sequence[Any], options: dict[str, Any]) -> None:
        try:
            inspect.signature(function).bind(*args, **options)
        except TypeError as error:
            raise Mismatch(f"`{name}` cannot be called as the contract says: {error}").with_details(
                ("expected", self.signatures.get(name, name)),
                ("found", f"{name}{inspect.signature(function)}"),
            ) from None
        except ValueError:
            return

    def frames(self, error: BaseException) -> str:
        """The person's own frames of an exception, innermost last."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return "\n".join(f"line {f.lineno}, in {f.name}: {f.line}" for f in frames)


class Guards:
    """What holds on every call: inputs and global state unchanged, results of the right kind."""

    def __init__(self, attempt: Attempt, name: str, given: dict[str, Any]) -> None:
        self.attempt, self.name, self.given = attempt, name, given
        self.backend = attempt.backend
        self.inputs: dict[str, Any] = {}

    def __enter__(self) -> "Guards":
        self.kept = {key: value.copy() for key, value in self.given.items() if isinstance(value, np.ndarray)}
        self.warnings = warnings.catch_warnings(action="ignore")
        self.warnings.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.warnings.__exit__(None, None, None)
        for key, value in self.kept.items():
            if not same_bits(value, self.given[key]):
                self.given[key][...] = value

    def convert(self, args: Sequence[Any], options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments as the framework's arrays, remembered for what is compared afterwards."""
        native = [self.attempt.to(x) for x in args]
        extra = {key: self.attempt.to(x) for key, x in options.items()}
        self.inputs = dict(zip(self.given, [*native, *extra.values()], strict=True))
        return native, extra

    def run(self, call: Callable[[], Any]) -> Any:
        """The call's result, or what it did wrong as a Mismatch."""
        versions = {key: self.backend.version(x) for key, x in self.inputs.items() if key in self.kept}
        state = [(item, item.get()) for item in self.backend.globals()]
        try:
            out = call()
        except (Mismatch, NotStarted):
            raise
        except BaseException as error:
            raise self.raised(error) from None
        finally:
            changed = [(item, before) for item, before in state if not item.same(before, item.get())]
            for item, before in changed:
                item.set(before)
        if changed:
            raise Mismatch(f"{self.name} changes {changed[0][0].name}; leave global state as it was found")
        for key, version in versions.items():
            now = self.backend.back(self.inputs[key])
            if not same_bits(now, self.kept[key]) or self.backend.version(self.inputs[key]) != version:
                raise Mismatch(f"{self.name} changes its argument {key} in place").with_details(self.called())
        return out

    def raised(self, error: BaseException) -> Exception:
        if isinstance(error, NotImplementedError) and error.args == (self.attempt.kata,):
            return NotStarted(self.name)
        if isinstance(error, SystemExit):
            said = f"{self.name} ends the program with sys.exit({error.code!r}); return a result or raise an error"
        else:
            said = f"{self.name} raised {type(error).__name__}" + (f": {error}" if str(error) else "")
        details = [self.called()]
        if frames := self.attempt.frames(error):
            details.append(("at", frames))
        return Mismatch(said, details=tuple(details), raised=error)

    def results(self, out: Any, arrays: int) -> Any:
        if arrays == 1:
            return self.result(out, self.name)
        if not isinstance(out, tuple | list) or len(out) != arrays:
            got = f"{len(out)} values" if isinstance(out, tuple | list) else kind(out)
            raise Mismatch(f"{self.name} returns {got}, expected a tuple of {arrays} arrays").with_details(self.called())
        return tuple(self.result(x, f"{self.name}, result {i + 1},") for i, x in enumerate(out))

    def result(self, out: Any, who: str) -> np.ndarray:
        """One result as NumPy: exactly the framework's array, on its input's device, no alias of an input."""
        backend = self.backend
        if out is None:
            raise Mismatch(f"{who} returns None: no return on this path?").with_details(self.called())
        if not backend.is_array(out):
            raise Mismatch(f"{who} returns {kind(out)}, expected a {backend.array_name}").with_details(self.called())
        where = {backend.device(self.inputs[key]) for key in self.kept}
        if where and backend.device(out) not in where:
            found = backend.device(out)
            raise Mismatch(f"{who} returns a result on {found}, its inputs are on {where.pop()}").with_details(
                self.called()
            )
        for key in self.kept:
            if backend.shares_storage(out, self.inputs[key]):
                raise Mismatch(f"{who} returns an array that shares storage with {key}").with_details(self.called())
        return backend.back(out)

    def called(self) -> tuple[str, str]:
        place = self.attempt.place
        return "called", f"{call_text(self.name, self.given)} {'under' if place in ('jit', 'vmap') else 'on'} {place}"


def call_text(name: str, given: dict[str, Any]) -> str:
    """A call as people read it: shapes and dtypes of arrays, other values as they are."""

    def one(value: Any) -> str:
        return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else repr(value)

    return f"{name}({', '.join(f'{key}: {one(value)}' for key, value in given.items())})"


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b)) or np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def kind(value: Any) -> str:
    """A value's type as people say it."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    origin = type(value).__module__.partition(".")[0]
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {'' if origin == 'builtins' else origin + '.'}{type(value).__name__}"


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
            f"{path.name} does not load: {name}: {error}", details=(("at", attempt.frames(error)),), raised=error
        ) from None
    return attempt


def _syntax(error: SyntaxError, path: Path) -> Mismatch:
    line = (error.text or "").rstrip("\n")
    caret = " " * max((error.offset or 1) - 1, 0) + "^"
    return Mismatch(f"{path.name} has a syntax error on line {error.lineno}: {error.msg}").with_details(
        ("", line), ("", caret)
    )
