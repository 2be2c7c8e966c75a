"""What holds on every call of the person's code: inputs and global state unchanged, results of the right kind."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graders.errors import KataError, Mismatch, NotStarted

if TYPE_CHECKING:
    from graders.attempt import Attempt


class Guards:
    """What holds on every call: inputs and global state unchanged, results of the right kind."""

    def __init__(self, attempt: "Attempt", name: str, given: dict[str, Any], *, draws: bool = False) -> None:
        self.attempt, self.name, self.given = attempt, name, given
        self.backend = attempt.backend
        self.inputs: dict[str, Any] = {}
        self.draws = draws  # whether the call may advance the global random number generators
        self.doing: Callable[[], str] | None = None

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
        except (KataError, Mismatch, NotStarted):
            raise
        except BaseException as error:
            raise self.raised(error) from None
        finally:
            changed = [(item, before) for item, before in state if not item.same(before, item.get())]
            for item, before in changed:
                item.set(before)
        changed = [item for item in changed if not (self.draws and item[0].random)]
        if changed:
            raise Mismatch(f"{self.name} changes {changed[0][0].name}; leave global state as it was found")
        for key, version in versions.items():
            now = self.backend.back(self.inputs[key])
            if (
                not same_bits(now, self.kept[key].astype(now.dtype))
                or self.backend.version(self.inputs[key]) != version
            ):
                raise Mismatch(f"{self.name} changes its argument {key} in place").with_details(self.called())
        return out

    def raised(self, error: BaseException) -> Exception:
        if isinstance(error, NotImplementedError) and error.args == (self.attempt.kata,):
            return NotStarted(self.attempt.inner_function(error) or self.name)
        if isinstance(error, SystemExit):
            said = f"{self.name} ends the program with sys.exit({error.code!r}); return a result or raise an error"
        else:
            said = f"{self.name} raised {type(error).__name__}" + (f": {error}" if str(error) else "")
        details = [self.called()]
        if frames := self.attempt.frames(error):
            details.append(("at", frames))
        first = str(error).partition("\n")[0]  # further lines may name the file, which another attempt has elsewhere
        seen = f"{self.name}: {type(error).__name__}: {first}"
        return Mismatch(said, details=tuple(details), observed=seen, raised=error)

    def results(self, out: Any, arrays: int) -> Any:
        if arrays == 1:
            return self.result(out, self.name)
        if not isinstance(out, tuple | list) or len(out) != arrays:
            got = f"{len(out)} values" if isinstance(out, tuple | list) else kind(out)
            raise Mismatch(f"{self.name} returns {got}, expected a tuple of {arrays} arrays").with_details(
                self.called()
            )
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
        if self.doing is not None:
            return "doing", f"{self.doing()} on {place}"
        return (
            "called",
            f"{call_text(self.name, self.given)} {'under' if place in ('jit', 'vmap') else 'on'} {place}",
        )


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
