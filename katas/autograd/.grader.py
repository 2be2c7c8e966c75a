"""The hidden grader of the autograd kata.

One expression is run by the person's values or tensors and by the kernel's dual numbers, which know its derivatives
and how far rounding may move them.
"""

import contextlib
import linecache
import math
import numbers
import operator
import random
import sys
import threading
from dataclasses import dataclass
from functools import partial
from operator import methodcaller
from types import ModuleType

import numpy as np
from hypothesis import strategies as st

from graders import level
from graders.checks import Scenario, check_from_scratch, compare, for_all
from graders.checks.values import SLACK, again, refuse, run
from graders.errors import Mismatch
from graders.guards import kind
from graders.kernels import autograd as kernels

EPS = 2.0**-52
DEEP = 50_000
WIDE = 20_000
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
FUNCTIONS = ("exp", "log", "tanh", "relu")
POWERS = (2, 3, 1, 0, -1, -2, 2.0, 0.5, -1.5)
NUMBERS = (2, -3, 0.5, -1.75)
LARGEST, NEAREST = 50.0, 0.05  # what drawn expressions keep to: results below, divisors and kinks at a distance
NAMES = "xyzuvw"
EXAMPLES = 60
BATCH, ROWS, COLUMNS = 2, 3, 4
SCORE = 0.95
STEPS = 10  # a training that called backward less often was not done with it
ALONE_ROWS = 30  # digits that predict is given one at a time
HINTS = 12  # trainings that a hint may take


@dataclass(frozen=True)
class Op:
    """An operation: how it is written, with {} for each operand, and what does it."""

    text: str
    apply: object


@dataclass(frozen=True)
class Program:
    """Operations in a row, each on leaves, numbers or earlier results, which are called a, b, c, ...

    The result is the last one.
    """

    steps: tuple

    def run(self, leaves):
        known = dict(leaves)
        for i, (op, operands) in enumerate(self.steps):
            known[result(i)] = op.apply(*(known[x] if isinstance(x, str) else x for x in operands))
        return known[result(len(self.steps) - 1)]

    def reached(self):
        """The leaves and results that the last one is made of."""
        found = {result(len(self.steps) - 1)}
        for i, (_, operands) in reversed(list(enumerate(self.steps))):
            if result(i) in found:
                found.update(x for x in operands if isinstance(x, str))
        return found

    def text(self):
        lines = [op.text.format(*operands) for op, operands in self.steps]
        return "; ".join([*(f"{result(i)} = {line}" for i, line in enumerate(lines[:-1])), lines[-1]])


def result(i):
    """The name of the i-th result: a, b, ... skipping the names of leaves, then r20, r21, ..."""
    letters = list("abcdefghijklmnopqrst")
    return letters[i] if i < len(letters) else f"r{i}"


def infix(sign):
    return Op(f"{{}} {sign} {{}}", OPERATORS[sign])


def method(name, *args, **options):
    given = [*map(str, args), *(f"{key}={value}" for key, value in options.items())]
    return Op(f"{{}}.{name}({', '.join(given)})", methodcaller(name, *args, **options))


def power(n):
    return Op(f"{{}} ** {n}", lambda x: x**n)


NEGATIVE = Op("-{}", operator.neg)
MATMUL = Op("{} @ {}", operator.matmul)


def only(op, *operands):
    return Program(((op, operands),))


def then(program, op, *more):
    """The program, and an operation on its result."""
    return Program((*program.steps, (op, (result(len(program.steps) - 1), *more))))


def number(value, what):
    """A plain number, or what NumPy has for one."""
    alone = isinstance(value, np.ndarray) and value.shape == ()
    if not alone and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise Mismatch(f"{what} is {'None' if value is None else kind(value)}, expected a number")
    return np.asarray(float(value))


def judge(attempt, scenario, exact, sizes, *, missing=()):
    """What the scenario gives is exact, but for `sizes` of rounding; what is named in `missing` may be missing."""
    got = run(attempt, scenario)
    for name, right in exact.items():
        if name not in got and name in missing:
            continue
        if problem := compare(got[name], np.asarray(right), SLACK * EPS * sizes[name], name):
            problem.observed = got
            raise refuse(problem, attempt, scenario, again(scenario))


def of(name):
    return name if name == "out" else f"the gradient of {name}"


def answers(found, sizes):
    """The kernel's answers and their rounding, under the names of the report."""
    return {of(name): x for name, x in found.items()}, {of(name): x for name, x in sizes.items()}


def value_of(out, text, *, expected="Value"):
    if not hasattr(out, "backward"):
        raise Mismatch(f"{text} gives {'None' if out is None else kind(out)}, expected a {expected}")
    return number(out.data, f"the data of {text}")


def scalars(m, arrays):
    return {name: m.Value(x.item()) for name, x in arrays.items()}


def slopes(leaves, arrays):
    """The gradients, after a look at the leaves themselves: they stay what they were."""
    for name, leaf in leaves.items():
        if not np.array_equal(leaf.data, arrays[name]):
            raise Mismatch(f"{name} was {arrays[name]} and its data is now {leaf.data}")
    return {of(name): number(leaf.grad, f"{name}.grad") for name, leaf in leaves.items()}


def check_scalars(attempt, program, *, backward=True, **leaves):
    """The program on Values: its result and, after backward, the gradient of each leaf."""
    arrays = {name: np.asarray(x) for name, x in leaves.items()}
    real = {name: x.astype(float) for name, x in arrays.items()}
    found, sizes = kernels.gradients(lambda **duals: program.run(duals), real)
    text = program.text()

    def play(m, **_):
        values = scalars(m, arrays)
        out = program.run(values)
        results = {"out": value_of(out, text)}
        if not backward:
            return results
        m.step(f"backward of {text}")
        out.backward()
        return results | slopes(values, arrays)

    exact, sizes = answers(found, sizes)
    missing = () if backward else [of(name) for name in arrays]
    judge(attempt, Scenario(at(text, arrays), arrays, play, dict), exact, sizes, missing=missing)


def at(text, arrays):
    return f"{text}  at {', '.join(f'{name} = {float(x):.6g}' for name, x in arrays.items())}"


def sided(op):
    """The operator between two leaves, and with a number on either side."""
    return [only(op, "x", "y"), only(op, "x", 2.5), only(op, 2.5, "x"), only(op, "x", 3), only(op, 3, "x")]


def operated():
    return [*(program for sign in OPERATORS for program in sided(infix(sign))), only(NEGATIVE, "x")]


def points(rng):
    """Two numbers, of which the second is negative, away from 0."""
    return {"x": rng.uniform(0.5, 2), "y": -rng.uniform(0.5, 2)}


def strained(leaves):
    """The same with one or the other 0, and both tiny: a guard against zero shows there."""
    for name in leaves:
        yield {**leaves, name: 0 * leaves[name]}
    yield {name: 1e-12 * x for name, x in leaves.items()}


def divides_by_zero(program, leaves):
    ((op, operands),) = program.steps
    return op.text == "{} / {}" and not np.all(leaves.get(operands[1], operands[1]))


def operations(leaves):
    """Each operator and the leaves of it: as they are, and strained as far as it is defined there."""
    for program in operated():
        yield program, used(program, leaves)
        for others in strained(used(program, leaves)):
            if not divides_by_zero(program, others):
                yield program, others


def used(program, leaves):
    """The leaves that stand in the program."""
    standing = {x for _, operands in program.steps for x in operands}
    return {name: x for name, x in leaves.items() if name in standing}


# Far, by way of a product, whose own rounding the exponential then carries: e ** x may be made of a rounded e.
FAR_EXP = then(only(infix("*"), "x", 200), method("exp"))


def applied(rng):
    """Each function and power, at numbers of both signs where it has them."""
    positive, negative = rng.uniform(0.3, 3), -rng.uniform(0.3, 3)
    for name in FUNCTIONS:
        for x in (positive, *([negative] if name != "log" else [])):
            yield only(method(name), "x"), x
    for x in (300.0, -300.0, 1e-3):
        yield only(method("tanh"), "x"), x
    yield only(method("log"), "x"), 1e-12 * positive
    for n in POWERS:
        yield only(power(n), "x"), positive
        if n == int(n):
            yield only(power(n), "x"), negative
    for n in (0, 1, 2, 3):
        yield only(power(n), "x"), 0.0


@level(1)
def test_value_starts(attempt):
    """a Value has its number as .data and a .grad of 0.0, and so have results"""

    def play(m):
        x = m.Value(3.5)
        for node, what, data in ((x, "x", 3.5), (-x, "-x", -3.5)):
            m.step(f"{what} with x = Value(3.5)")
            m.check(value_of(node, what) == data, f"the data of {what} is {node.data}, expected {data}")
            m.check(number(node.grad, f"the grad of {what}") == 0, f"the grad of {what} starts at {node.grad}")
        return {}

    run(attempt, Scenario("Value", {}, play, dict))


@level(1)
def test_operator_values(attempt, rng):
    """+ - * / and unary -, between Values and with a number on either side"""
    for program, leaves in operations(points(rng)):
        check_scalars(attempt, program, backward=False, **leaves)
    for sign in OPERATORS:
        check_scalars(attempt, only(infix(sign), "x", "y"), backward=False, x=7, y=-2)


@level(1)
def test_function_values(attempt, rng):
    """exp, log, tanh, relu and ** a number"""
    for program, x in (*applied(rng), (FAR_EXP, 3.0), (FAR_EXP, -3.0)):
        check_scalars(attempt, program, backward=False, x=x)


@level(1)
def test_operator_gradients(attempt, rng):
    """backward through + - * / and unary -, on either side"""
    for program, leaves in operations(points(rng)):
        check_scalars(attempt, program, **leaves)


@level(1)
def test_function_gradients(attempt, rng):
    """backward through exp, log, tanh and relu"""
    for program, x in applied(rng):
        if "**" not in program.text():
            check_scalars(attempt, program, x=x)


@level(1)
def test_power_gradients(attempt, rng):
    """backward through ** a number: whole, negative and broken exponents, negative bases, and at 0"""
    for program, x in applied(rng):
        if "**" in program.text():
            check_scalars(attempt, program, x=x)


@level(1)
def test_chain_rule(attempt, rng):
    """each operation passes on what comes from above, times its own derivative"""
    leaves = {**points(rng), "z": -1.3}
    for program in operated():
        whole = then(program, infix("*"), "z")
        check_scalars(attempt, whole, **used(whole, leaves))
    for program, x in applied(rng):
        check_scalars(attempt, then(program, infix("*"), "z"), x=x, z=-1.3)


def sound(op, *operands):
    """The kernel's result if the operation may stand in a drawn expression, else None.

    Results keep a size; divisors, bases and the arguments of log and relu a distance from 0; what max chooses from
    a distance from each other. A vector in a matrix product is left out, since it may be refused.
    """
    divided = operands[-1] if op.text == "{} / {}" else operands[0]
    value = getattr(divided, "value", divided)
    if any(sign in op.text for sign in ("/", "log", "relu", "**")) and np.min(np.abs(value), initial=1) < NEAREST:
        return None
    if ("log" in op.text or ".5" in op.text.partition("**")[2]) and np.min(value, initial=1) < 0:
        return None
    if "max" in op.text and np.min(np.diff(np.sort(value, axis=None)), initial=1) < NEAREST:
        return None
    if op is MATMUL and min(x.value.ndim for x in operands) < 2:
        return None
    try:
        found = op.apply(*operands)
    except (ValueError, IndexError, ZeroDivisionError):
        return None  # shapes that do not fit
    return found if np.max(np.abs(found.value), initial=0) <= LARGEST else None


NODE = object()  # where an operation takes a leaf or a result, and not a number
ALONE = [(op, (NODE,)) for op in (NEGATIVE, *map(method, FUNCTIONS), *map(power, POWERS))]
PAIRS = [(infix(sign), (NODE, NODE)) for sign in OPERATORS]
MIXED = [(infix(sign), given) for sign in OPERATORS for n in NUMBERS for given in ((NODE, n), (n, NODE))]
FORMS = st.one_of(*map(st.sampled_from, (PAIRS, PAIRS, ALONE, MIXED)))


@st.composite
def programs(draw, leaves, forms, *, shared):
    """A program over these leaves (kernel numbers by name); shared: what was used comes again, else each once.

    In the end all that is left unused is added up, so that everything hangs together and no order is forced.
    """
    known, unused, steps = dict(leaves), list(leaves), []

    def add(op, *operands):
        steps.append((op, operands))
        name = result(len(steps) - 1)
        known[name] = op.apply(*(known[x] if isinstance(x, str) else x for x in operands))
        unused[:] = [*(other for other in unused if other not in operands), name]

    for _ in range(draw(st.integers(1, 14))):
        op, form = draw(forms)
        chosen = draw(st.permutations(unused))
        if shared and form.count(NODE) > 1:
            chosen = draw(st.permutations([chosen[0], draw(st.sampled_from([chosen[0], *list(known)[-6:]]))]))
        nodes = iter(chosen)
        operands = tuple(next(nodes, 2) if x is NODE else x for x in form)
        if sound(op, *(known[x] if isinstance(x, str) else x for x in operands)) is None:
            op, operands = method("tanh"), chosen[:1]
        add(op, *operands)

    def alone(name):
        if known[name].value.shape == ():
            return name
        add(method("sum"), name)
        return unused[-1]

    while len(unused) > 1:
        pair = unused[:2]
        if known[pair[0]].value.shape != known[pair[1]].value.shape:
            pair = [alone(name) for name in pair]
        add(infix("+"), *pair)
    return Program(tuple(steps))


@st.composite
def expressions(draw, *, shared):
    """A program of numbers, and its leaves."""
    sizes = st.integers(1, 24).map(lambda n: n / 8)
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    leaves = {name: draw(sizes) * draw(st.sampled_from((1, -1))) for name in names}
    duals = {name: kernels.constant(x, 0) for name, x in leaves.items()}
    return draw(programs(duals, FORMS, shared=shared)), leaves


def check_drawn(attempt, seed, *, shared):
    for_all(
        attempt,
        expressions(shared=shared),
        lambda case: check_scalars(attempt, case[0], **case[1]),
        seed=seed,
        describe=lambda case: case[0].text(),
        examples=EXAMPLES,
    )


@level(1, seconds=40)
def test_drawn_expressions(attempt, seed):
    """expressions drawn at random, in which everything is used once"""
    check_drawn(attempt, seed, shared=False)


@level(1)
def test_from_scratch(attempt, rng):
    """no framework is imported"""
    for name, found in vars(attempt.module).items():
        whose = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None) or ""
        if whose.partition(".")[0] in attempt.watch.refused:
            raise Mismatch(f"{name} is from {whose.partition('.')[0]}: this kata is about writing that yourself")
    check_from_scratch(attempt, Scenario("x * x", {}, lambda m: (m.Value(2.0) * m.Value(3.0)).backward() or {}, dict))


SHARED = {
    "x * x": lambda x, y: x * x,
    "x + x": lambda x, y: x + x,
    "x - x": lambda x, y: x - x,
    "x / x": lambda x, y: x / x,
    "a = x * y; a * a + a * y": lambda x, y: (lambda a: a * a + a * y)(x * y),
    "a = x * y; a * y + a * a": lambda x, y: (lambda a: a * y + a * a)(x * y),
    "a = x * y; a + a * x": lambda x, y: (lambda a: a + a * x)(x * y),
    "a = x * y; (a * x) * a": lambda x, y: (lambda a: (a * x) * a)(x * y),
    "a = x.tanh(); b = a * y; c = a + b; (b * c) * (a - y)": lambda x, y: crossed(x.tanh(), y),
    "a = x * 2; b = a * 3; c = b * 4; ((a * b) * c) * a": lambda x, y: stairs(x * 2),
}


def crossed(a, y):
    b = a * y
    return (b * (a + b)) * (a - y)


def stairs(a):
    b = a * 3
    return ((a * b) * (b * 4)) * a


@level(2, seconds=40)
def test_shared_nodes(attempt, rng, seed):
    """a node that is used several times gets the sum, and waits for all of it: graphs drawn at random among them"""
    for text, build in SHARED.items():
        program = only(Op(text, build), "x", "y")
        for x, y in ((rng.uniform(0.5, 2), -1.3), (1.5, 1.5)):
            check_scalars(attempt, program, x=x, y=y)
    check_drawn(attempt, seed, shared=True)


def repeated(attempt, text, build, arrays, calls, expected):
    """What calls(m, values, roots) leaves in the leaves; expected: the program whose gradients those are."""
    found, sizes = kernels.gradients(expected, arrays)

    def play(m, **_):
        values = scalars(m, arrays)
        calls(m, build(**values))
        return slopes(values, arrays)

    exact, sizes = answers(found, sizes)
    del exact["out"]
    judge(attempt, Scenario(text, arrays, play, dict), exact, sizes)


def deep(x, y):
    """A root with results below it that are used more than once."""
    a = x * y
    b = a.tanh() * x
    return [(b + a) * b, a * b]


def both(m, roots):
    for i, root in enumerate((roots[0], roots[1], roots[0])):
        m.step(f"backward call {i + 1}, over results that an earlier call has passed")
        root.backward()


@level(2)
def test_backward_twice(attempt):
    """backward called again adds the same gradients once more, also from another root over the same results"""
    arrays = {"x": np.asarray(0.7), "y": np.asarray(-1.2)}

    def twice(m, roots):
        for i in range(2):
            m.step(f"backward call {i + 1} on the same root")
            roots[0].backward()

    repeated(attempt, "backward twice", deep, arrays, twice, lambda x, y: deep(x, y)[0] * 2)
    repeated(attempt, "backward from two roots", deep, arrays, both, lambda x, y: deep(x, y)[0] * 2 + deep(x, y)[1])


@level(2)
def test_zero_grad(attempt):
    """zero_grad clears the graph below, wherever its gradients came from, so that backward starts afresh"""
    arrays = {"x": np.asarray(0.7), "y": np.asarray(-1.2)}

    def cleared(x, y):
        a = x * y
        return [a, (a.tanh() * x) * a, x, y]

    def calls(m, roots):
        inner, root, *leaves = roots
        root.backward()
        m.step("zero_grad after backward")
        root.zero_grad()
        for node, what in zip((inner, *leaves), ("x * y, a result below,", "x", "y"), strict=True):
            m.check(number(node.grad, f"the grad of {what}") == 0, f"after zero_grad the grad of {what} is {node.grad}")
        other = (leaves[0] + leaves[1]).exp()
        root.backward()
        m.step("zero_grad of exp(x + y) after backward of another root")
        other.zero_grad()
        for node, what in zip(leaves, ("x", "y"), strict=True):
            left = number(node.grad, f"the grad of {what}")
            m.check(left == 0, f"after zero_grad of a root that had no backward the grad of {what} is {left:g}")
        m.step("zero_grad again, after another backward")
        root.zero_grad()
        m.step("backward after zero_grad")
        root.backward()

    repeated(attempt, "zero_grad", cleared, arrays, calls, lambda x, y: cleared(x, y)[1])


class Events:
    """Counts the lines and calls that Python runs while it is active, in whatever file: work, and not time.

    Searching a list runs in C and shows no line. So what is searched for, the nodes and the numbers that id() gives,
    is compared by functions that count.
    """

    def __init__(self, module, node):
        self.module, self.node, self.count = module, type(node), 0

    def __enter__(self):
        self.before = sys.gettrace()
        self.patched = contextlib.ExitStack()
        events, compare = self, self.node.__eq__

        class Identity(int):
            __hash__ = int.__hash__

            def __eq__(self, other):
                events.count += 1
                return int.__eq__(self, other)

        def equal(node, other):
            events.count += 1
            return compare(node, other)

        with contextlib.suppress(TypeError):
            self.patch(self.node, "__eq__", equal)
        self.patch(self.module, "id", lambda x: Identity(id(x)))
        threading.settrace(self.see)
        sys.settrace(self.see)
        return self

    def __exit__(self, *exc):
        sys.settrace(self.before)
        threading.settrace(self.before)
        self.patched.close()

    def patch(self, owner, name, new):
        own = vars(owner).get(name, NODE)
        setattr(owner, name, new)
        self.patched.callback(lambda: delattr(owner, name) if own is NODE else setattr(owner, name, own))

    def see(self, frame, event, arg):
        self.count += event in ("call", "line")
        return self.see


def chain(x, size):
    for _ in range(size):
        x = x * 1
    return x


def ladder(x, size):
    for _ in range(size):
        x = x + x
    return x


def fan(x, size):
    total = x
    for _ in range(size):
        total = total + x * 2
    return total


def check_work(attempt, kind_of, build, does, sizes, *, unwanted, what):
    """The work of does(root) grows as the graph does. The line: half way to what is unwanted, in the logarithm."""
    small, large = sizes
    wanted = large / small

    def play(m):
        counts = []
        for size in sizes:
            m.step(f"{what} over {size} steps")
            root = build(kind_of(m), size)
            with Events(m.attempt.module, root) as events:
                does(root)
            counts.append(max(events.count, 1))
        return {"grew": np.asarray(counts[1] / counts[0])}

    scenario = Scenario(what, {}, play, dict)
    grew = float(run(attempt, scenario)["grew"])
    if not grew <= math.sqrt(wanted * unwanted):
        raise Mismatch(
            f"{what}: {wanted:.0f} times the graph is {grew:.0f} times the work, expected {wanted:.0f}",
            observe=lambda other: float(run(other, scenario)["grew"]),
            observed=grew,
        ).with_details(("measured", f"lines, calls and comparisons at {small} and at {large} steps"))


def value_leaf(m):
    return m.Value(1.0)


@level(2)
def test_backward_work(attempt):
    """the work of backward is linear in the graph: each node is visited once, however many paths lead to it"""
    work = partial(check_work, attempt, value_leaf, does=methodcaller("backward"))
    work(build=ladder, sizes=(6, 12), unwanted=64, what="backward where each result is used twice")
    work(build=chain, sizes=(150, 600), unwanted=16, what="backward along a chain")
    work(build=fan, sizes=(150, 600), unwanted=16, what="backward where one node is used many times")


@level(2)
def test_zero_grad_work(attempt):
    """the work of zero_grad is linear in the graph too"""
    work = partial(check_work, attempt, value_leaf, does=methodcaller("zero_grad"))
    work(build=ladder, sizes=(6, 12), unwanted=64, what="zero_grad where each result is used twice")
    work(build=chain, sizes=(150, 600), unwanted=16, what="zero_grad along a chain")


def deep_chain(m):
    x = m.Value(1.0)
    y = x
    for _ in range(DEEP // 4):
        y = -(y * 2 + 3) / 2  # every second time takes back the time before, exactly
    m.step(f"backward along a chain of {DEEP:,} operations")
    y.backward()
    found = {"out": number(y.data, "the data at its end"), of("x"): number(x.grad, "x.grad")}
    m.step(f"zero_grad along a chain of {DEEP:,} operations")
    y.zero_grad()
    m.check(number(x.grad, "x.grad") == 0, f"after zero_grad x.grad is {x.grad}")
    return found


def wide_graphs(m):
    x, total = m.Value(2.0), 0
    for i in range(WIDE):
        total += x * (i % 3)
    m.step(f"backward where one node is used {WIDE:,} times")
    total.backward()
    leaves = [m.Value(float(i % 5)) for i in range(WIDE)]
    m.step(f"backward of the sum of {WIDE:,} leaves")
    (sum(leaves) * 3).backward()
    bottom = m.Value(1.0)
    m.step("backward where each of 60 results is used twice")
    ladder(bottom, 60).backward()
    return {
        of("x"): number(x.grad, "x.grad"),
        of("the leaves"): np.array([float(number(leaf.grad, "a leaf's grad")) for leaf in leaves]),
        of("what 2^60 paths lead to"): number(bottom.grad, "x.grad"),
    }


@level(2, seconds=45)
def test_large_graphs(attempt):
    """a chain of 50,000 nodes; one node used 20,000 times; 20,000 leaves; 2^60 paths"""
    once = np.asarray(1.0)
    exact = {"out": once, of("x"): once}
    judge(attempt, Scenario("a deep chain", {}, deep_chain, dict), exact, dict.fromkeys(exact, 10.0))
    uses = np.asarray(float(sum(i % 3 for i in range(WIDE))))
    exact = {of("x"): uses, of("the leaves"): np.full(WIDE, 3.0), of("what 2^60 paths lead to"): np.asarray(2.0**60)}
    judge(attempt, Scenario("a wide graph", {}, wide_graphs, dict), exact, dict.fromkeys(exact, 10.0))


def array(m, value, what, shape=None):
    """A tensor's array, or the gradient of one; for a single number a Python float will do."""
    if isinstance(value, float) and shape == ():
        value = np.asarray(value)
    return m.array(value, what)


def reshaped(shape):
    """Both spellings that NumPy has are right: the sizes one by one, and a tuple."""

    def apply(t):
        try:
            return t.reshape(*shape)
        except TypeError:
            return t.reshape(shape)

    return Op(f"{{}}.reshape{shape}", apply)


def transposed(*axes):
    def apply(t):
        try:
            return t.transpose(*axes)
        except TypeError:
            return t.transpose(axes)

    return Op(f"{{}}.transpose({', '.join(map(str, axes))})", apply)


def indexed(index, text):
    return Op(f"{{}}[{text}]", lambda t: t[index])


def needs_none(grad, what):
    """None or zeros where no gradient has come."""
    if grad is not None and np.any(np.asarray(grad) != 0):
        raise Mismatch(f"{what} has a gradient, and none has come to it")


def tensors(m, arrays):
    return {name: m.Tensor(m.to(x, name), requires_grad=True) for name, x in arrays.items()}


def pulled(m, leaves, arrays, reached=None):
    """The gradients of the leaves, which stay what they were; a leaf that backward does not reach may have none."""
    found = {}
    for name, leaf in leaves.items():
        data = array(m, leaf.data, f"the data of {name}", arrays[name].shape)
        m.check(np.array_equal(data, arrays[name]), f"the data of {name} changed")
        if leaf.grad is None and reached is not None and name not in reached:
            continue
        m.check(leaf.grad is not None, f"{name} gets no gradient")
        found[of(name)] = array(m, leaf.grad, f"{name}.grad", arrays[name].shape)
    return found


def check_tensors(attempt, program, arrays, *, upstream=None, may_refuse=False):
    """The program on Tensors: its result and, after backward under an uneven gradient, that of each leaf.

    may_refuse: what the contract does not promise may raise an error when it is called; if it gives a result, that
    is right and so is its gradient.
    """
    shape = program.run({name: kernels.constant(x, 0) for name, x in arrays.items()}).value.shape
    start = np.cos(1.0 + np.arange(math.prod(shape))).reshape(shape) if upstream is None and shape else upstream
    found, sizes = kernels.gradients(lambda **duals: program.run(duals), arrays, 1.0 if start is None else start)
    text = program.text()

    def play(m, **_):
        leaves = tensors(m, arrays)
        try:
            out = program.run(leaves)
        except Exception as error:
            stub = isinstance(error, NotImplementedError) and error.args == (m.attempt.kata,)
            if may_refuse and not stub:
                return {}
            raise
        m.check(hasattr(out, "backward"), f"{text} gives {'None' if out is None else kind(out)}, expected a Tensor")
        results = {"out": array(m, out.data, f"the data of {text}", shape)}
        m.check(results["out"].shape == shape, f"{text} has shape {results['out'].shape}, expected {shape}")
        m.step(f"backward of {text}")
        out.backward() if start is None else out.backward(m.to(start, "the gradient that backward was given"))
        return results | pulled(m, leaves, arrays, reached)

    sized = f"{text}  with {', '.join(f'{name}: {x.shape}' for name, x in arrays.items())}"
    exact, sizes = answers(found, sizes)
    reached = {name for name in program.reached() if np.any(exact.get(of(name), 0))}
    missing = set(exact) if may_refuse else {of(name) for name in arrays if name not in reached}
    judge(attempt, Scenario(sized, arrays, play, dict), exact, sizes, missing=missing)


def away(rng, *shape):
    """Numbers of both signs, away from 0."""
    return rng.uniform(0.5, 2.0, size=shape) * rng.choice([-1, 1], size=shape)


@level(3)
def test_tensor_starts(attempt, rng):
    """a Tensor has its array as .data, float64, and no gradient at first; results are Tensors"""
    x = away(rng, 2, 3)

    def play(m):
        t = m.Tensor(m.to(x, "the array that it was made of"), requires_grad=True)
        for node, what, right in ((t, "t", x), (t * 2, "t * 2", 2 * x), (m.Tensor(m.to(x)), "a constant", x)):
            m.step(f"{what} with t = Tensor(an array of shape (2, 3))")
            m.check(hasattr(node, "backward"), f"{what} is {kind(node)}, expected a Tensor")
            data = m.array(node.data, f"the data of {what}", shape=(2, 3))
            m.check(np.array_equal(data, right), f"the data of {what} is not what it was made of")
            needs_none(node.grad, what)
        return {}

    run(attempt, Scenario("Tensor", {}, play, dict))


@level(3)
def test_tensor_backward(attempt, rng):
    """backward() from a scalar, and backward(grad), which weighs the entries"""
    arrays = {"x": away(rng, 2, 3), "y": away(rng, 2, 3)}
    product = only(infix("*"), "x", "y")
    check_tensors(attempt, then(product, method("sum")), arrays)
    check_tensors(attempt, product, arrays)
    check_tensors(attempt, product, {name: np.asarray(x[0, 0]) for name, x in arrays.items()})
    for upstream in (-2.5, 0.0):
        check_tensors(attempt, then(product, method("sum")), arrays, upstream=np.asarray(upstream))


@level(3)
def test_tensor_nonscalar(attempt, rng):
    """backward from what is no scalar, without a gradient: RuntimeError"""

    def play(m):
        for shape in ((3,), (2, 3)):
            out = m.Tensor(m.to(away(rng, *shape)), requires_grad=True) * 2
            m.raises(RuntimeError, out.backward, f"backward() from a tensor of shape {shape}")
        return {}

    run(attempt, Scenario("backward", {}, play, dict))


@level(3)
def test_tensor_operators(attempt, rng):
    """+ - * / and unary -, entry by entry, between Tensors and with a number on either side"""
    for program, arrays in operations({"x": away(rng, 2, 3), "y": away(rng, 2, 3)}):
        check_tensors(attempt, program, arrays)


@level(3)
def test_tensor_functions(attempt, rng):
    """exp, log, tanh, relu and ** a number, entry by entry"""
    signed = away(rng, 2, 3)
    signed[0] = np.abs(signed[0])
    signed[1] = -np.abs(signed[1])
    for name in FUNCTIONS:
        check_tensors(attempt, only(method(name), "x"), {"x": np.abs(signed) if name == "log" else signed})
    for n in POWERS:
        check_tensors(attempt, only(power(n), "x"), {"x": signed if n == int(n) else np.abs(signed)})
    check_tensors(attempt, FAR_EXP, {"x": np.array([3.0, -3.0])})
    check_tensors(attempt, only(method("log"), "x"), {"x": 1e-12 * np.abs(signed)})
    for n in (0, 1, 2, 3):
        check_tensors(attempt, only(power(n), "x"), {"x": np.array([0.0, 1.5])})
    check_tensors(attempt, then(only(power(0), "x"), infix("*"), 0), {"x": signed})


def broadcastable(sizes):
    """Every shape that broadcasts to `sizes`, with each axis in full, 1 or, in front, absent."""
    shapes = [()]
    for size in reversed(sizes):
        shapes += [(n, *shape) for shape in shapes if len(shape) == len(shapes[-1]) for n in (1, size)]
    return list(dict.fromkeys(shapes))


@level(3)
def test_broadcasting(attempt, rng):
    """every pair of shapes that broadcast: each operand's gradient has its own shape"""
    shapes = broadcastable((BATCH, ROWS, COLUMNS))
    for sign in OPERATORS:
        program = only(infix(sign), "x", "y")
        for one in shapes:
            for other in shapes:
                check_tensors(attempt, program, {"x": away(rng, *one), "y": away(rng, *other)})
    empty = then(only(infix("*"), "x", "y"), method("sum"))
    check_tensors(attempt, empty, {"x": away(rng, 0, 3), "y": away(rng, 3)})


def reductions(name):
    """(program, may_refuse) for every axis of an array with three; several axes at once are not promised."""
    yield only(method(name), "x"), False
    for axis in (0, 1, 2, -1, -2, None, (0, 2), (1, 0), (1, -1)):
        for keepdims in (False, True):
            yield only(method(name, axis=axis, keepdims=keepdims), "x"), isinstance(axis, tuple)


def check_reductions(attempt, name, x):
    for program, may_refuse in reductions(name):
        check_tensors(attempt, program, {"x": x}, may_refuse=may_refuse)


@level(3)
def test_sum(attempt, rng):
    """sum over all, and over an axis, with and without keepdims"""
    check_reductions(attempt, "sum", away(rng, BATCH, ROWS, COLUMNS))


@level(3)
def test_mean(attempt, rng):
    """mean over all, and over an axis, with and without keepdims"""
    check_reductions(attempt, "mean", away(rng, BATCH, ROWS, COLUMNS))


@level(3)
def test_max(attempt, rng):
    """max over all, and over an axis, with and without keepdims"""
    check_reductions(attempt, "max", away(rng, BATCH, ROWS, COLUMNS))


@level(3)
def test_max_ties(attempt, rng):
    """entries that tie for the largest share the gradient equally, and those that nearly do get none"""
    check_reductions(attempt, "max", rng.integers(-1, 2, size=(BATCH, ROWS, COLUMNS)).astype(float))
    check_reductions(attempt, "max", np.zeros((BATCH, ROWS, COLUMNS)))
    nearly = 1 + 1e-12 * rng.permutation(BATCH * ROWS * COLUMNS)
    check_reductions(attempt, "max", nearly.reshape(BATCH, ROWS, COLUMNS))


@level(3)
def test_reshape(attempt, rng):
    """reshape keeps the entries in their order"""
    for shape in ((24,), (4, 6), (3, 2, 4), (1, 24, 1)):
        check_tensors(attempt, only(reshaped(shape), "x"), {"x": away(rng, 2, 3, 4)})
    check_tensors(attempt, only(reshaped((-1, 6)), "x"), {"x": away(rng, 2, 3, 4)}, may_refuse=True)
    check_tensors(attempt, only(reshaped(()), "x"), {"x": away(rng, 1)}, may_refuse=True)
    turned = then(then(only(transposed(), "x"), reshaped((2, 6))), transposed())
    check_tensors(attempt, then(turned, infix("*"), 2), {"x": away(rng, 3, 4)})


@level(3)
def test_transpose(attempt, rng):
    """transpose reverses the axes, or puts them in the order it is given"""
    for axes in ((), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        check_tensors(attempt, only(transposed(*axes), "x"), {"x": away(rng, 2, 3, 4)})
    check_tensors(attempt, only(transposed(), "x"), {"x": away(rng, 2, 3)})
    check_tensors(attempt, only(transposed(0), "x"), {"x": away(rng, 3)})
    for axes in ((0, -1, 1), (-1, 0, 1)):
        check_tensors(attempt, only(transposed(*axes), "x"), {"x": away(rng, 2, 3, 4)}, may_refuse=True)


BASIC = {
    "1": np.s_[1], "-1": np.s_[-1], "1:": np.s_[1:], "::-1": np.s_[::-1], "::2, 1": np.s_[::2, 1], "2:1": np.s_[2:1],
    "..., 0": np.s_[..., 0], ":, None": np.s_[:, None], "1:3, ..., ::2": np.s_[1:3, ..., ::2], "0, 1, 2": (0, 1, 2),
}  # fmt: skip
FEW, FAR, GRID = np.array([2, 0, 2, 2]), np.array([-1, 1, 2, -1]), np.array([[0, 2], [2, 1], [0, 0]])
BEYOND = {
    "[2, 0, 2, 2] as a list": [2, 0, 2, 2],
    ":, [2, 0, 2, 2] as a list": np.s_[:, [2, 0, 2, 2]],
    "[True, False, True]": np.array([True, False, True]),
}
ARRAYS = {
    "[2, 0, 2, 2]": FEW,
    "[-1, 1, 2, -1]": FAR,
    "[2, 0, -1]": np.array([2, 0, -1]),
    "[[0, 2], [2, 1], [0, 0]]": GRID,
    ":, [2, 0, 2, 2]": np.s_[:, FEW],
    "[2, 0, 2, 2], [-1, 1, 2, -1]": np.s_[FEW, FAR],
    "[2, 0, 2, 2], 1:3": np.s_[FEW, 1:3],
    "..., [-1, 1, 2, -1]": np.s_[..., FAR],
    "[2, 0, 2, 2], :, [-1, 1, 2, -1]": np.s_[FEW, :, FAR],
}


@level(3)
def test_index(attempt, rng):
    """[...] with numbers, slices, ... and None"""
    for text, index in BASIC.items():
        check_tensors(attempt, only(indexed(index, text), "x"), {"x": away(rng, 3, 4, 5)})


@level(3)
def test_index_arrays(attempt, rng):
    """[...] with integer arrays: an entry that is taken several times gets the sum"""
    for text, index in (ARRAYS | BEYOND).items():
        check_tensors(attempt, only(indexed(index, text), "x"), {"x": away(rng, 3, 4, 5)}, may_refuse=text in BEYOND)


PRODUCTS = (
    ((3, 4), (4, 2)), ((3, 3), (3, 3)), ((1, 4), (4, 1)), ((2, 3, 4), (2, 4, 5)), ((5, 1, 3, 4), (2, 4, 6)),
    ((3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((1, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)),
    ((5, 2, 3, 4), (1, 1, 4, 6)),
)  # fmt: skip
VECTORS = (
    ((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 3)), ((2, 3, 4), (4,)), ((4,), (2, 4, 3)), ((5, 2, 3, 4), (4,)),
)  # fmt: skip


@level(3)
def test_matmul(attempt, rng):
    """@ of matrices and of batches of them, whose leading axes broadcast"""
    for one, other in PRODUCTS:
        check_tensors(attempt, only(MATMUL, "x", "y"), {"x": away(rng, *one), "y": away(rng, *other)})
    check_tensors(attempt, only(MATMUL, "x", "x"), {"x": away(rng, 3, 3)})


@level(3)
def test_matmul_vectors(attempt, rng):
    """@ of a vector, on either side: right, or refused when it is called"""
    for one, other in VECTORS:
        arrays = {"x": away(rng, *one), "y": away(rng, *other)}
        check_tensors(attempt, only(MATMUL, "x", "y"), arrays, may_refuse=True)


@level(3)
def test_requires_grad(attempt, rng):
    """a gradient goes to what requires one, and to nothing else"""
    arrays = {"x": away(rng, 2, 3), "y": away(rng, 3)}
    c, k = away(rng, 2, 3), away(rng, 3)

    def build(x, y, c, k):
        return ((x * c + k) / y).sum()

    def play(m, **_):
        leaves = tensors(m, arrays)
        constants = {"c": m.Tensor(m.to(c)), "k": m.Tensor(m.to(k), requires_grad=False)}
        m.step("backward of ((x * c + k) / y).sum() where c and k are constants")
        build(**leaves, **constants).backward()
        for name, constant in constants.items():
            needs_none(constant.grad, f"{name}, which requires no gradient,")
        return pulled(m, leaves, arrays)

    def right(x, y):
        return build(x, y, kernels.constant(c, x.slope.shape[-1]), kernels.constant(k, x.slope.shape[-1]))

    judge_gradients(attempt, Scenario("a graph with constants", arrays, play, dict), right)
    for op in (*map(infix, OPERATORS), MATMUL):
        check_constant(attempt, op, away(rng, 3, 3), away(rng, 3, 3))


def check_constant(attempt, op, varying, constant):
    """The operation on a leaf and a constant, which may stand on either side."""
    arrays = {"x": varying}
    weights = np.cos(np.arange(varying.size)).reshape(varying.shape)

    def ordered(x, c, left):
        return (c, x) if left else (x, c)

    for left in (False, True):
        text = op.text.format(*ordered("x", "c", left))

        def play(m, left=left, text=text, **_):
            leaves, c = tensors(m, arrays), m.Tensor(m.to(constant, "c"))
            m.step(f"backward of {text} where c is a constant")
            op.apply(*ordered(leaves["x"], c, left)).backward(m.to(weights, "the gradient that backward was given"))
            needs_none(c.grad, "c, which requires no gradient,")
            return pulled(m, leaves, arrays)

        def right(x, left=left):
            return op.apply(*ordered(x, kernels.constant(constant, x.slope.shape[-1]), left))

        judge_gradients(attempt, Scenario(f"{text}  with c a constant", arrays, play, dict), right, weights)


def judge_gradients(attempt, scenario, build, upstream=1.0, *, may_end=False):
    """The scenario leaves the gradients of sum(upstream * build) in the leaves; may_end: or it leaves nothing."""
    exact, sizes = answers(*kernels.gradients(build, scenario.arrays, upstream))
    del exact["out"]
    judge(attempt, scenario, exact, sizes, missing=exact if may_end else ())


@level(3)
def test_tensor_accumulates(attempt, rng):
    """gradients of several graphs over the same leaves add up, and no tensor's gradient is another's array"""
    arrays = {"x": away(rng, 2, 3), "y": away(rng, 2, 3)}
    weights = np.cos(np.arange(6.0)).reshape(2, 3)

    def play(m, **_):
        leaves = tensors(m, arrays)
        given = m.to(weights, "the gradient that backward was given")
        m.step("backward of x + y")
        (leaves["x"] + leaves["y"]).backward(given)
        grads = [leaf.grad for leaf in leaves.values() if isinstance(leaf.grad, np.ndarray)]
        shared = len(grads) == 2 and np.shares_memory(*grads)
        m.check(not shared, "x and y hold one array as their gradient: what is added to one in place is added to both")
        m.step("backward of x * 2, after backward of x + y")
        (leaves["x"] * 2).backward(given)
        m.step("backward of -y, after the others")
        (-leaves["y"]).backward(given)
        m.step("backward of y.reshape(3, 2).transpose(), after the others")
        transposed().apply(reshaped((3, 2)).apply(leaves["y"])).backward(given)
        return pulled(m, leaves, arrays)

    def right(x, y):
        return x + y + x * 2 - y + y.reshape(3, 2).transpose()

    judge_gradients(attempt, Scenario("several graphs", arrays, play, dict), right, weights)


@level(3)
def test_tensor_twice(attempt, rng):
    """backward again on the same root adds the same gradients once more, or says that the graph is gone"""
    arrays = {"x": away(rng, 2, 3), "y": away(rng, 3)}
    check_twice(attempt, arrays, lambda x, y: ((x * y).tanh() * 3).sum())
    check_twice(attempt, arrays, every_operation)


def every_operation(x, y):
    a = ((x * y).tanh().exp() + x / y).relu() - (x * x + 1).log() ** 2
    return (a.max(axis=1, keepdims=True) * a.mean(axis=0) @ transposed().apply(-x))[np.array([0, 1, 0])].sum()


def check_twice(attempt, arrays, build):
    def play(m, **_):
        leaves = tensors(m, arrays)
        root = build(**leaves)
        root.backward()
        m.step("backward again on the same root")
        try:
            root.backward()
        except RuntimeError:
            return {}
        return pulled(m, leaves, arrays)

    twice = Scenario("backward twice", arrays, play, dict)
    judge_gradients(attempt, twice, lambda x, y: build(x, y) * 2, may_end=True)


@level(3)
def test_tensor_work(attempt):
    """shared tensors are visited once, however many paths lead to them"""
    check_work(
        attempt,
        lambda m: m.Tensor(np.ones(2), requires_grad=True),
        ladder,
        lambda root: root.backward(np.ones(2)),
        (6, 12),
        unwanted=64,
        what="backward where each tensor is used twice",
    )


SHAPES = ((2, 3), (3, 2), (3,), (2, 1), ())
MOVED = [
    *(method("sum", axis=axis, keepdims=keep) for axis, keep in ((0, False), (-1, True))),
    *(method("mean", axis=axis, keepdims=keep) for axis, keep in ((-1, False), (0, True))),
    *(method("max", axis=axis, keepdims=keep) for axis, keep in ((0, False), (-1, True))),
    transposed(),
    reshaped((6,)),
    reshaped((3, 2)),
    indexed(np.s_[::-1], "::-1"),
    indexed(np.s_[..., 0], "..., 0"),
    indexed(np.array([0, -1, 0]), "[0, -1, 0]"),
]
MOVES = st.sampled_from([*((op, (NODE,)) for op in MOVED), (MATMUL, (NODE, NODE))])


@st.composite
def graphs(draw):
    """A program of tensors, and its leaves."""
    names = NAMES[: draw(st.integers(1, 4))]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    leaves = {name: away(rng, *draw(st.sampled_from(SHAPES))) for name in names}
    duals = {name: kernels.constant(x, 0) for name, x in leaves.items()}
    return draw(programs(duals, st.one_of(FORMS, MOVES), shared=True)), leaves


@level(3, seconds=40)
def test_drawn_tensors(attempt, seed):
    """graphs of tensors drawn at random, in which leaves and results are used again"""
    arrays = {name: away(np.random.default_rng(seed), 2, 3) for name in "xy"}
    for last in (("a", "x"), ("x", "a"), ("a", "a")):
        check_tensors(attempt, Program(((infix("+"), ("x", "y")), (infix("+"), last))), arrays)
    for_all(
        attempt,
        graphs(),
        lambda case: check_tensors(attempt, *case),
        seed=seed,
        describe=lambda case: case[0].text(),
        examples=EXAMPLES,
    )


def check_loss(attempt, logits, targets, upstream=1.0):
    """cross_entropy of a leaf, times a number, and the leaf's gradient."""
    found, sizes = kernels.cross_entropy(logits, targets, upstream)
    times = "" if upstream == 1 else f"{upstream} * "
    text = f"{times}cross_entropy(logits: {logits.shape} up to {np.max(np.abs(logits)):.3g}, targets: {targets.shape})"

    def play(m, **_):
        leaf = m.Tensor(m.to(logits, "logits"), requires_grad=True)
        out = m.cross_entropy(leaf, m.to(targets, "targets"))
        m.check(hasattr(out, "backward"), f"cross_entropy gives {'None' if out is None else kind(out)}, not a Tensor")
        data = array(m, out.data, "the loss", ())
        m.check(data.shape == (), f"the loss has shape {data.shape}, expected a single number: the mean over the rows")
        m.step(f"backward of {text}")
        (out if upstream == 1 else out * upstream).backward()
        return {"out": data} | pulled(m, {"logits": leaf}, {"logits": logits})

    judge(attempt, Scenario(text, {}, play, dict), *answers(found, sizes))


def labelled(rng, rows, classes, scale=2.0):
    return scale * rng.normal(size=(rows, classes)), rng.integers(0, classes, size=rows)


@level(4)
def test_cross_entropy(attempt, rng):
    """the mean over the rows of -log softmax at the target, in nats, and its gradient (softmax - one-hot) / N"""
    for rows, classes in ((5, 3), (1, 4), (7, 2), (150, 3)):
        check_loss(attempt, *labelled(rng, rows, classes))


@level(4)
def test_cross_entropy_chain(attempt, rng):
    """its gradient is multiplied by what comes from above"""
    check_loss(attempt, *labelled(rng, 5, 3), upstream=-2.5)


@level(4)
def test_cross_entropy_stable(attempt, rng):
    """right for logits of 1e4, and for all of them shifted by 1e4 or by -1e4"""
    logits, targets = labelled(rng, 6, 4)
    check_loss(attempt, 5e3 * logits, targets)
    for shift in (1e4, -1e4):
        check_loss(attempt, logits + shift, targets)


def digits():
    """Scikit-learn's digits: the training part, and every fifth image held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = found.data.astype(float), found.target.astype(np.int64)
    held = np.arange(len(x)) % 5 == 3
    return x[~held], y[~held], x[held], y[held]


def predicted(m, predict, x):
    """The class of each row: labels, or the largest of each row's scores."""
    found = predict(m.to(x, "what predict was given"))
    found = np.asarray(getattr(found, "data", found) if hasattr(found, "backward") else found)
    if found.shape[:1] != (len(x),) or found.ndim > 2 or found.dtype.kind not in "iuf":
        said = f"{found.dtype} of shape {found.shape}"
        raise Mismatch(f"predict gives {said} for {len(x)} rows, expected the class of each")
    return np.argmax(found, axis=1) if found.ndim == 2 else found


class Backwards:
    """Counts the calls of Tensor.backward while it is active."""

    def __init__(self, m):
        self.owner, self.count = m.Tensor, 0

    def __enter__(self):
        self.own = self.owner.backward

        def backward(*args, **options):
            self.count += 1
            return self.own(*args, **options)

        self.owner.backward = backward
        return self

    def __exit__(self, *exc):
        self.owner.backward = self.own


def fit(m, x, y, scale, seed, classes):
    """The person's predict, in one thread: threads that wait for each other take ten times as long when others run."""
    from threadpoolctl import threadpool_limits

    m.step(f"fit on {len(x)} digits of {classes} classes, pixels from 0 to {16 / scale:.0f}, seed={seed}")
    with threadpool_limits(1):
        predict = m.fit(m.to(x / scale, "x"), m.to(y, "y"), n_classes=classes, seed=seed)
    m.unchanged()
    m.check(callable(predict), f"fit gives {'None' if predict is None else kind(predict)}, expected predict")
    return predict


TRAINED = {}  # by source: a hint trains the mistakes of the bank, and need not train one twice


def trained(m, x, y, test, labels, seed):
    """What is to be known of a network that was trained on the digits, scaled as they are and, if need be, to [0, 1].

    (share of the held-out digits that are right, calls of backward, whether its classes could be a linear model's)
    """
    key = ("".join(linecache.getlines(str(m.attempt.path))), seed)
    for scale in (1.0, 16.0) if key not in TRAINED else ():
        with Backwards(m) as backwards:
            predict = fit(m, x, y, scale, seed, 10)
        m.step(f"predict of {len(test)} held-out digits")
        right = float(np.mean(predicted(m, predict, test / scale) == labels))
        TRAINED[key] = right, backwards.count, linear(m, predict, x / scale)
        if right >= SCORE:
            break
    return TRAINED[key]


def linear(m, predict, x):
    """Whether no class comes twice along any of 4000 straight lines, as in a model without a hidden layer.

    Its classes are convex. Those of a wide and smooth network nearly are: along one line of fifty to two hundred does a
    class come back. The lines pass the digits and lead far out, where what a hidden layer bends is seen best.
    """
    rng = np.random.default_rng(1)
    steps = np.linspace(-1, 1, 50)[:, None]
    for _ in range(40):
        start, way = rng.normal(size=(2, 100, 1, x.shape[1]))
        points = x.mean() + x.std() * (10 * start + 100 * steps * np.abs(steps) * way)
        for classes in predicted(m, predict, points.reshape(-1, x.shape[1])).reshape(100, 50):
            runs = classes[np.append(True, classes[1:] != classes[:-1])]
            if len(set(runs)) < len(runs):
                return False
    return True


def check_training(attempt, play):
    """The play goes through. A hint observes no more than the first few mistakes of the bank: each is a training."""
    left = iter(range(HINTS))
    try:
        run(attempt, Scenario("fit", {}, play, dict, draws=True))
    except Mismatch as problem:
        observe = problem.observe
        problem.observe = lambda other: None if next(left, None) is None else observe(other)
        raise


@level(4, seconds=60)
def test_fit_digits(attempt, seed):
    """fit trains a multilayer perceptron on Tensors, to 95 % of scikit-learn's digits that it has not seen"""
    x, y, test, labels = digits()

    def play(m):
        right, calls, straight = trained(m, x, y, test, labels, seed)
        m.check(calls >= STEPS, f"fit called Tensor.backward {calls} times: train it on Tensors")
        m.check(right >= SCORE, f"{right:.1%} of {len(test)} held-out digits are right, expected {SCORE:.0%}")
        m.check(not straight, "the classes have straight borders: is there a hidden layer, and a function after it?")
        return {}

    check_training(attempt, play)


@level(4, seconds=60)
def test_fit_seed(attempt, rng):
    """the same seed gives the same network, whatever was drawn before; another seed another one"""
    x, y, *_ = digits()
    x, y = x[:200], y[:200]
    points = x.mean() + 3 * x.std() * rng.normal(size=(1000, x.shape[1]))

    def play(m):
        alike = []
        for scale in (1.0, 16.0):
            found = []
            for seed in (3, 3, 4):
                found.append(predicted(m, fit(m, x, y, scale, seed, 10), points / scale))
                np.random.random()
                random.random()
            same, other = (float(np.mean(found[0] == labels)) for labels in found[1:])
            if not same > 0.98:
                share = (("agree", f"on {same:.0%} of 1000 random points"),)
                raise Mismatch("two fits with the same seed give different networks", details=share)
            alike.append(other == 1)
            if not alike[-1]:
                break
        m.check(not all(alike), "fits with two seeds give the same network: the seed is not used")
        return {}

    check_training(attempt, play)


@level(4, seconds=60)
def test_fit_sizes(attempt):
    """fit takes any width and any number of rows and classes"""
    x, y, *_ = digits()
    few = y < 3
    x, y = x[few][:301, 16:48], np.array([0, 2, 3])[y[few][:301]]  # no digit is of class 1

    def play(m):
        for scale in (1.0, 16.0):
            predict = fit(m, x, y, scale, 1, 4)
            together = predicted(m, predict, x / scale)
            right = float(np.mean(together == y))
            if right > 0.6:
                break
        m.check(right > 0.6, f"trained on 0, 1 and 2 alone, {right:.0%} of those very digits are right")
        m.step("predict of one digit")
        alone = [predicted(m, predict, x[i : i + 1] / scale)[0] for i in range(ALONE_ROWS)]
        other = int(np.sum(alone != together[:ALONE_ROWS]))  # a digit between two classes may go either way
        m.check(other <= 1, f"{other} of {ALONE_ROWS} digits are of another class when predict is given one at a time")
        return {}

    check_training(attempt, play)
