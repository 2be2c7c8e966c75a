"""The door's guards, in each framework: what an attempt may not change, and what it must give."""

import numpy as np
import pytest

from graders.errors import Mismatch, NotStarted
from tests.common import attempt

X = np.arange(6.0).reshape(2, 3)
HEAD = {"torch": "import torch as xp\n", "jax": "import jax\nimport jax.numpy as xp\n", "numpy": "import numpy as xp\n"}
EVERY = ("torch", "jax", "numpy")


def given(framework, body):
    return attempt(
        f"{HEAD[framework]}def double(x, *, by=2):\n    {body}\n",
        framework,
        signatures={"double": "double(x, *, by=2)"},
    )


def refused(found, *args, **options):
    with pytest.raises(Mismatch) as caught:
        found.double(*args, **options)
    return caught.value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("framework", EVERY)
def test_numpy_in_numpy_out(framework, dtype):
    out = given(framework, "return x * by").double(X.astype(dtype), by=3)
    assert type(out) is np.ndarray
    assert out.dtype == dtype
    assert np.array_equal(out, 3 * X)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_bfloat16_goes_through(framework):
    out = given(framework, "return x * by").double(X.astype("bfloat16"))
    assert str(out.dtype) == "bfloat16"


@pytest.mark.parametrize(
    ("framework", "body", "said"),
    [
        ("numpy", "x *= 2; return x + 0", "double changes its argument x in place"),
        ("torch", "x.mul_(2); return x + 0", "double changes its argument x in place"),
        ("torch", "x.add_(0); return x + 0", "double changes its argument x in place"),
        ("numpy", "return x", "double returns an array that shares storage with x"),
        ("numpy", "return x[:1]", "double returns an array that shares storage with x"),
        ("torch", "return x.view(-1)", "double returns an array that shares storage with x"),
        ("numpy", "return None", "double returns None: no return on this path?"),
        ("numpy", "return x.tolist()", "double returns a list of 2, expected a np.ndarray"),
        ("numpy", "return xp.ma.array(x)", "double returns a numpy.MaskedArray, expected a np.ndarray"),
        ("jax", "import numpy; return numpy.ones(3)", "double returns a numpy.ndarray, expected a jax.Array"),
        ("torch", "return x.numpy()", "double returns a numpy.ndarray, expected a torch.Tensor"),
        ("torch", "return (x * 2).to_sparse()", "double returns a torch.Tensor, expected a torch.Tensor"),
        ("torch", "return torch.nn.Parameter(x * 2)", "double raised NameError: name 'torch' is not defined"),
        ("numpy", "xp.random.seed(0); return x * 2", "double changes NumPy's global RNG"),
        ("numpy", "xp.seterr(all='ignore'); return x * 2", "double changes NumPy's error state"),
        ("numpy", "import random; random.random(); return x * 2", "double changes Python's random"),
        ("torch", "xp.rand(1); return x * 2", "double changes torch's global RNG"),
        ("torch", "xp.set_default_device('meta'); return x * 2", "double changes torch's default device"),
        (
            "jax",
            "jax.config.update('jax_enable_x64', not jax.config.jax_enable_x64); return x * 2",
            "double changes jax_enable_x64",
        ),
        ("numpy", "return 1 / 0", "double raised ZeroDivisionError: division by zero"),
        ("numpy", "import sys; sys.exit('bye')", "double ends the program with sys.exit('bye')"),
    ],
)
def test_a_guard_says_what_it_saw(framework, body, said):
    x = X.astype(np.float32) if framework == "jax" else X  # float64 has 64-bit mode switched on around the call
    assert refused(given(framework, body).directly, x).summary.startswith(said)


def test_what_was_changed_is_put_back():
    before = np.random.get_state()[1].copy(), np.geterr()
    array = X.copy()
    refused(given("numpy", "xp.random.seed(0); xp.seterr(all='ignore'); x *= 2; return x * 2"), array)
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert np.geterr() == before[1]
    assert np.array_equal(array, X)


def test_several_results():
    found = given("numpy", "return x + 1, x + 2")
    a, b = found.call("double", X, arrays=2)
    assert np.array_equal(b - a, np.ones_like(X))
    with pytest.raises(Mismatch, match="double returns 2 values, expected a tuple of 3 arrays"):
        found.call("double", X, arrays=3)
    with pytest.raises(Mismatch, match=r"double, result 2, returns None"):
        given("numpy", "return x + 1, None").call("double", X, arrays=2)


def test_the_stubs_body_is_not_a_failure():
    with pytest.raises(NotStarted):
        given("numpy", "raise NotImplementedError('attention')").double(X)
    assert refused(given("numpy", "raise NotImplementedError('later')"), X).summary.startswith("double raised NotImpl")


def test_numpys_scalar_is_an_array_of_no_axes():
    assert given("numpy", "return x.sum()").double(X).shape == ()


def test_scalars_stay_python_numbers():
    given("torch", "assert type(by) is int; return x * by").double(X, by=3)


def test_a_nan_argument_is_not_a_changed_one():
    out = given("numpy", "return x * 2").double(np.array([np.nan, 1.0]))
    assert np.isnan(out[0])


def test_an_error_shows_the_persons_frames_alone():
    problem = refused(given("numpy", "return xp.linalg.inv(x)"), X)
    at = dict(problem.details)["at"]
    assert at == "line 3, in double: return xp.linalg.inv(x)"


def test_warnings_do_not_reach_the_person():
    given("numpy", "import warnings; warnings.warn('careful'); return x * 2").double(X)


def test_dataclasses_and_pickling_work():
    source = """
    import pickle
    from dataclasses import dataclass
    import numpy as np

    @dataclass
    class Box:
        x: "np.ndarray"

    def double(x):
        return pickle.loads(pickle.dumps(Box(x * 2))).x
    """
    assert np.array_equal(attempt(source, "numpy").double(X), 2 * X)
