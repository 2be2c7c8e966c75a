"""Each check passes on what is right and fails, with its message, on what is wrong."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st

from graders.checks import (
    Case,
    Dims,
    Scenario,
    budget,
    check_dtype,
    check_from_scratch,
    check_gradients,
    check_growth,
    check_numerical_gradients,
    check_parity,
    check_play,
    check_raises,
    check_shape,
    check_values,
    compare,
    for_all,
)
from graders.errors import Mismatch
from tests.common import attempt

RNG = np.random.default_rng(0)
DIMS = Dims(B=2, T=3, C=4, D=5)
X, W = DIMS.normal(RNG, "B T C"), DIMS.normal(RNG, "C D")
LIBRARY = {
    "torch": "import torch\nfrom torch import tanh\n",
    "jax": "import jax.numpy as jnp\nfrom jax.numpy import tanh\n",
}
LIBRARY["numpy"] = "import numpy as np\nfrom numpy import tanh\n"
RIGHT = "def project(x, w):\n    return tanh(x @ w)\n"
EVERY = ("torch", "jax", "numpy")
SIGNATURES = {"project": "project(x, w)"}


def kernel(x, w):
    return np.tanh(x @ w)


def backward(upstream, x, w):
    inner = upstream * (1 - np.tanh(x @ w) ** 2)
    return inner @ w.T, np.einsum("btc,btd->cd", x, inner)


CASE = Case("project", (X, W), kernel, backward)


def given(source, framework="torch", **options):
    return attempt(LIBRARY[framework] + source, framework, signatures=SIGNATURES, **options)


def complaint(check, *args, **options):
    with pytest.raises(Mismatch) as caught:
        check(*args, **options)
    return caught.value.text()


@pytest.mark.parametrize("framework", EVERY)
def test_what_is_right_passes_every_check(framework):
    right = given(RIGHT, framework)
    check_shape(right, CASE, DIMS, "B T D")
    check_dtype(right, CASE)
    check_values(right, CASE, dtypes=right.backend.dtypes)
    if framework != "numpy":
        check_gradients(right, CASE, RNG)
        check_numerical_gradients(right, CASE, RNG)
        check_parity(right, CASE, right.backend.places())


def test_in_jax_shape_and_dtype_are_told_without_computing(monkeypatch):
    right = given(RIGHT, "jax")
    monkeypatch.setattr(right.backend, "run", None)
    check_shape(right, CASE, DIMS, "B T D")
    check_dtype(right, CASE)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return __import__('numpy').ones((2, 3, 5))", "returns a numpy.ndarray, expected a jax.Array"),
        ("return None", "returns None"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "sys.exit(3)"),
        ("raise NotImplementedError", "NotImplementedError"),
        ("return tanh(x) if x.sum() > 1e9 else tanh(x)", "has shape (2, 3, 4), expected"),
    ],
)
def test_what_jax_cannot_tell_without_computing_is_called(body, said):
    assert said in complaint(check_shape, given(f"def project(x, w): {body}\n", "jax"), CASE, DIMS, "B T D")


def test_what_is_printed_comes_once(capsys):
    complaint(check_shape, given("def project(x, w):\n    print('here')\n    return x\n", "jax"), CASE, DIMS, "B T D")
    assert capsys.readouterr().out == "here\n"


def test_shape_names_the_swapped_axes():
    said = complaint(
        check_shape, given(RIGHT.replace("tanh(x @ w)", "tanh(x @ w).transpose(1, 2)")), CASE, DIMS, "B T D"
    )
    assert "project: out has shape (2, 5, 3), expected (B T D) = (2, 3, 5): T and D are swapped?" in said
    assert "project(x: (2, 3, 4) float64, w: (4, 5) float64) on cpu" in said


def test_shape_tells_permuted_from_wrong():
    assert DIMS.complaint((5, 2, 3), "B T D").endswith("are the axes permuted?")
    assert DIMS.complaint((5, 3), "B T D") == "has shape (5, 3), expected (B T D) = (2, 3, 5)"


def test_axes_of_equal_size_are_refused():
    with pytest.raises(ValueError, match="axes of equal size hide a swap"):
        Dims(B=2, T=2)


def test_dtype():
    said = complaint(check_dtype, given("def project(x, w):\n    return tanh(x.float() @ w.float())\n"), CASE)
    assert said.startswith("project: float64 in, out is float32; expected float64")


def test_values_show_the_worst_entry_against_the_budget():
    source = "def project(x, w):\n    y = tanh(x @ w).clone()\n    y[1, 2, 3] += 0.25\n    return y\n"
    said = complaint(check_values, given(source), CASE)
    assert said.startswith("1 of 30 entries of out are off, the worst by 0.25, ")
    assert "x the budget of" in said
    assert "at out[1, 2, 3]" in said


@pytest.mark.parametrize(("value", "name"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_values_are_never_right_where_they_are_not_finite(value, name):
    source = f"def project(x, w):\n    y = tanh(x @ w).clone()\n    y[0, 1, 2] = float('{value}')\n    return y\n"
    assert f"1 of 30 entries of out are {name}, the first at out[0, 1, 2]" in complaint(
        check_values, given(source), CASE
    )


def test_numbers_that_differ_are_shown_with_as_many_digits_as_it_takes():
    said = compare(np.array([1.0, -18.7534 - 6e-9]), np.array([1.0, -18.7534]), 1e-12).text()
    assert "expected  -18.7534  at out[1]\ngot       -18.75340001" in said


def test_a_message_says_what_is_special_there():
    nan = np.full((2,), np.nan)
    problem = compare(nan, np.zeros(2), 1.0, near=lambda index: f"row {index[0]} is fully masked")
    assert "the first at out[0] (row 0 is fully masked)" in problem.text()


def test_a_right_reordering_is_within_the_budget_and_a_wrong_constant_is_not():
    x = RNG.normal(size=(8, 1000)).astype(np.float32)
    exact, rough = x.astype(np.float64).sum(-1), x.sum(-1)
    assert compare(x[:, ::-1].sum(-1), exact, budget(exact, rough)) is None
    assert compare(np.add.reduce(x.T), exact, budget(exact, rough)) is None
    assert compare(rough * 1.001, exact, budget(exact, rough)) is not None


def test_where_everything_cancels_a_few_roundings_are_allowed():
    """Behind a softmax over one key the gradient of q is exactly zero; a right formula may leave 2e-16."""
    exact, rough = np.zeros(3), np.zeros(3)
    assert budget(exact, rough) == 0.0
    assert 1e-15 < budget(exact, rough, scale=1.0) < 1e-14


def test_empty_results_compare():
    assert compare(np.zeros((0, 3)), np.zeros((0, 3)), budget(np.zeros((0, 3)), np.zeros((0, 3)))) is None


WRONG_BACKWARD = """
class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        y = tanh(x @ w)
        ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx, g):
        x, w, y = ctx.saved_tensors
        inner = g * (1 - y * y)
        dx = inner @ w.T
        dw = torch.einsum("btc,btd->cd", x, inner)
        dw[2, 3] *= 1.001
        return dx, dw


def project(x, w):
    return Wrong.apply(x, w)
"""


@pytest.mark.parametrize("check", [check_gradients, check_numerical_gradients])
def test_one_wrong_entry_of_a_gradient_is_found(check):
    assert "1 of 20 entries of the gradient of w are off" in complaint(check, given(WRONG_BACKWARD), CASE, RNG)
    check_values(given(WRONG_BACKWARD), CASE)


@pytest.mark.parametrize("check", [check_gradients, check_numerical_gradients])
@pytest.mark.parametrize("cut", ["x.detach() @ w", "torch.tensor(x.tolist(), dtype=x.dtype) @ w"])
def test_a_detached_input_is_named(check, cut):
    said = complaint(check, given(f"def project(x, w):\n    return tanh({cut})\n"), CASE, RNG)
    assert said.startswith("project: no gradient reaches x: is it detached, or rebuilt from plain numbers?")


def test_gradients_can_be_asked_in_some_dtypes_alone():
    coarse = given("def project(x, w):\n    return tanh((x.float() @ w.float()).to(x.dtype))\n")
    check_gradients(coarse, CASE, RNG, dtypes=("float32",))
    assert "float64" in complaint(check_gradients, coarse, CASE, RNG)


def test_stop_gradient_is_found_in_jax():
    source = "import jax\ndef project(x, w):\n    return tanh(jax.lax.stop_gradient(x) @ w)\n"
    said = complaint(check_gradients, given(source, "jax"), CASE, RNG)
    assert "24 of 24 entries of the gradient of x are off" in said


def test_numerical_gradients_are_of_the_attempts_own_forward():
    """A wrong forward with its own right gradient passes here: values are another check."""
    check_numerical_gradients(given("def project(x, w):\n    return torch.sin(x @ w)\n"), CASE, RNG)
    assert complaint(check_values, given("def project(x, w):\n    return torch.sin(x @ w)\n"), CASE)


def test_parity_on_the_stand_in():
    source = "def project(x, w):\n    return tanh(x @ w) + torch.zeros(x.shape[1], 1)\n"
    check_values(given(source), CASE, dtypes=("float32",))
    said = complaint(check_parity, given(source), CASE, ("stand-in",))
    assert said.startswith("right on the CPU, fails on stand-in: a tensor is made there without device=")
    assert "line 4, in project" in said


def test_parity_of_a_result_left_on_the_cpu():
    said = complaint(check_parity, given("def project(x, w):\n    return tanh(x @ w).cpu()\n"), CASE, ("stand-in",))
    assert said.startswith("right on the CPU, fails on stand-in: the result does not stay on its inputs' device")


def test_parity_of_values():
    source = "def project(x, w):\n    return tanh(x @ w) * (2 if x.device.type == 'meta' else 1)\n"
    said = complaint(check_parity, given(source), CASE, ("stand-in",))
    assert said.startswith("stand-in differs from the reference: 30 of 30 entries of out are off")


def test_parity_under_jit():
    source = "def project(x, w):\n    return tanh(x @ w) if x.sum() < 1e9 else x\n"
    check_values(given(source, "jax"), CASE)
    said = complaint(check_parity, given(source, "jax"), CASE, ("jit", "vmap"))
    assert said.startswith("right eagerly, fails under jit: the value of an array decides what Python does")


def test_parity_under_vmap():
    source = "def project(x, w):\n    return tanh(x @ w) * (2 if 'Batch' in type(x).__name__ else 1)\n"
    check_parity(given(source, "jax"), CASE, ("jit",))
    assert complaint(check_parity, given(source, "jax"), CASE, ("vmap",)).startswith("vmap differs from the reference")


def test_raises():
    refuse = "def project(x, w):\n    if x.shape[0] == 2:\n        raise {}\n    return tanh(x @ w)\n"
    check_raises(given(refuse.format("ValueError('two')")), CASE, ValueError, "a batch of 2")
    said = complaint(check_raises, given(RIGHT), CASE, ValueError, "a batch of 2")
    assert said.startswith("project: a batch of 2: expected ValueError, returns a result")
    said = complaint(check_raises, given(refuse.format("KeyError('two')")), CASE, ValueError, "a batch of 2")
    assert said.startswith("project: a batch of 2: expected ValueError, raised KeyError")


def sized(size):
    return Case("project", (RNG.normal(size=(1, size, 3)), RNG.normal(size=(3, 2))), kernel)


@pytest.mark.parametrize("framework", EVERY)
def test_growth(framework):
    options = {"what": "largest", "expected": 2, "unwanted": 4, "sentence": "T doubled"}
    check_growth(given(RIGHT, framework), sized(200), sized(400), **options)
    square = "def project(x, w):\n    return tanh((x @ x.swapaxes(1, 2)) @ x @ w)\n"
    said = complaint(check_growth, given(square, framework), sized(200), sized(400), **options)
    assert said.startswith("T doubled: the largest intermediate grew ")
    assert "expected 2x" in said


def test_for_all_shows_the_smallest_case():
    source = "def project(x, w):\n    return tanh(x @ w) * (1 if x.shape[1] < 3 else 2)\n"
    strategy = st.integers(1, 9).map(lambda t: Case("project", (np.ones((1, t, 2)), np.ones((2, 1))), kernel))

    def judge(case):
        check_values(given(source), case)

    said = complaint(
        for_all, given(source), strategy, judge, seed=3, describe=lambda case: f"T={case.args[0].shape[1]}"
    )
    assert said.splitlines()[-1] == "smallest  T=3"


@pytest.mark.parametrize(
    "call",
    [
        "torch.nn.functional.softmax(x @ w, -1)",
        "F.softmax(x @ w, -1)",
        "alias(x @ w, -1)",
        "getattr(F, 'soft' + 'max')(x @ w, -1)",
        "list(map(alias, [x @ w], [-1]))[0]",
    ],
)
def test_from_scratch_sees_through_aliases(call):
    source = "import torch.nn.functional as F\nalias = F.softmax\ndef project(x, w):\n    return " + call + "\n"
    refused = ("torch.nn.functional.softmax",)
    said = complaint(check_from_scratch, given(source, refused=refused), CASE)
    assert said.startswith("project calls softmax on line 6: write it from its parts, that is the kata")
    assert said.endswith("refused   torch.nn.functional.softmax")
    check_from_scratch(given(RIGHT, refused=refused), CASE)


def test_from_scratch_refuses_other_frameworks_and_refused_packages():
    said = complaint(check_from_scratch, given("import jax.numpy\n" + RIGHT), CASE)
    assert said.startswith("line 3 imports jax: this kata is written in PyTorch alone")
    said = complaint(
        check_from_scratch, given("from torch.optim import Adam\n" + RIGHT, refused=("torch.optim",)), CASE
    )
    assert said.startswith("line 3 imports torch.optim: write it from its parts, that is the kata")
    check_from_scratch(given("import numpy\n" + RIGHT), CASE)


COUNTER = """
class Counter:
    def __init__(self, size, *, dtype, device):
        self.total = torch.zeros(size, dtype=dtype, device=device)

    def add(self, x):
        self.total += x
        return self.total.clone()
"""


def played(m, x):
    counter = m.Counter(3, dtype=m.dtype, device=m.device)
    m.step("add x twice")
    counter.add(m.to(x, "x"))
    return {"the total": m.array(counter.add(m.to(x, "x")), "the total", shape=(3,))}


SCENARIO = Scenario("Counter", {"x": RNG.normal(size=3)}, played, lambda x: {"the total": x + x})


def test_a_scenario_passes_in_every_dtype_and_place():
    check_play(given(COUNTER), SCENARIO)
    check_values(given(COUNTER), SCENARIO, dtypes=("float32", "float64", "bfloat16"))
    check_parity(given(COUNTER), SCENARIO, ("stand-in",))


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("self.total += x", "self.total -= x", "3 of 3 entries of the total are off"),
        ("self.total += x", "x += 1", "add x twice changes x in place"),
        ("return self.total.clone()", "pass", r"the total is None: no return on this path?"),
        (
            "return self.total.clone()",
            "return self.total.tolist()",
            "the total is a list of 3, expected a torch.Tensor",
        ),
        ("return self.total.clone()", "return self.total[:2]", "the total has shape (2,), expected (3,)"),
        (
            "return self.total.clone()",
            "return self.total.half()",
            "the total has dtype float16, expected float64",
        ),
        (
            "self.total += x",
            "self.sum += x",
            "Counter raised AttributeError: 'Counter' object has no attribute 'sum'",
        ),
        ("class Counter", "class Countr", "expected a class `Counter`, found `Countr`"),
        ("self.total += x", "torch.manual_seed(0)", "Counter changes torch's global RNG"),
    ],
)
def test_a_scenario_says_what_is_wrong(right, wrong, said):
    text = complaint(check_values, given(COUNTER.replace(right, wrong)), SCENARIO)
    assert text.startswith(said)


def test_a_scenario_may_say_what_cancels():
    """Of a sum that cancels, a right reordering may leave a few ulp of the parts, not of the result."""
    source = COUNTER.replace("return self.total.clone()", "return self.total + 0.3 - 0.3")
    tiny = replace(SCENARIO, arrays={"x": np.array([1e-4, -2e-4, 3e-4])})
    assert "entries of the total are off" in complaint(check_values, given(source), tiny)
    told = replace(tiny, sizes=lambda **_: {"the total": 1.0})
    for check in (check_values, partial(check_parity, places=("stand-in",))):
        check(given(source), told)
        assert complaint(check, given(source.replace("+=", "-=")), told)


def test_a_scenario_may_draw_if_it_says_so():
    drawing = COUNTER.replace("self.total += x", "self.total += x + 0 * torch.rand(3)")
    drawn = Scenario("Counter", SCENARIO.arrays, played, SCENARIO.kernel, draws=True)
    check_values(given(drawing), drawn, dtypes=("float32",))
    assert complaint(check_values, given(drawing), SCENARIO).startswith("Counter changes torch's global RNG")


def test_parity_of_a_scenario():
    source = COUNTER.replace(", device=device)", ")")
    check_values(given(source), SCENARIO)
    said = complaint(check_parity, given(source), SCENARIO, ("stand-in",))
    assert said.startswith("right on the CPU, fails on stand-in: a tensor is made there without device=")
    assert "doing     add x twice on stand-in" in said


def test_an_observation_can_be_made_again_on_another_attempt():
    """What hints rest on: the failing input is run on the variants of the bug bank."""
    with pytest.raises(Mismatch) as caught:
        check_values(given("def project(x, w):\n    return x @ w\n"), CASE)
    problem = caught.value
    same, other = given("def project(x, w):\n    return 1 * (x @ w)\n"), given(RIGHT)
    assert np.array_equal(problem.observe(same)["out"], problem.observed["out"])
    assert not np.array_equal(problem.observe(other)["out"], problem.observed["out"])


def walk(x):
    """A thousand small steps, each of which rounds."""
    y = x
    for _ in range(1000):
        y = (y + y.dtype.type(0.001) * x).astype(x.dtype)
    return y


def test_in_float64_the_budget_is_that_of_float32_made_finer():
    """There the kernel is its own exact answer; without that, rounding alone would be called wrong."""
    rng = np.random.default_rng(0)
    narrow = Case("walk", (rng.normal(size=8).astype(np.float32),), walk)
    wide = replace(narrow, args=(narrow.args[0].astype(np.float64),))
    small, large = (budget(case.exact()["out"], case.rough()["out"]) for case in (wide, narrow))
    floor = 8 * np.finfo(np.float64).eps * np.abs(wide.exact()["out"]).max()
    assert small > floor
    assert small == pytest.approx(large * 2.0**-29, rel=0.1)


def test_what_overflows_in_float32_leaves_float64_its_floor():
    case = Case("square", (np.array([1e30, 1.0]),), lambda x: x * x)
    assert budget(case.exact()["out"], case.rough()["out"]) == pytest.approx(8 * np.finfo(np.float64).eps * 1e60)
