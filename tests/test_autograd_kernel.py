"""The dual numbers that judge the autograd kata: against PyTorch and central differences, and how far rounding goes."""

import numpy as np
import pytest

from graders.kernels import autograd as kernels

# exact in float32
X, Y = np.array([[0.75, -1.25, 2.125], [1.625, 0.375, -0.875]]), np.array([1.125, -0.625, 1.875])
EXPRESSIONS = {
    "arithmetic": lambda x, y: (x + y) * (x - 2) / (y * y + 1) - 3 / (x * x + 1) + (1 - -x) * 0.5,
    "functions": lambda x, y: (x * x).log() + (x * 0.3).exp() * x.tanh() + (x - y).relu() ** 2,
    "powers": lambda x, y: x**3 + y**-2 + (x * x) ** 0.5 + x**0 + y**1,
    "reductions": lambda x, y: x.sum(0) * x.mean() + x.max() + (x * y).mean(0) - (x * y).sum(1, True).max(0),
    "movements": lambda x, y: x.reshape(3, 2)[[2, 0, 2]] * x[:, 1] + y[1:],
    "products": lambda x, y: (x @ y) * (x @ x.reshape(3, 2)) + y @ y,
    "cancelling": lambda x, y: (x + 1e3) * y - y * 1e3 - x * y,
}


def in_torch(build, dtype):
    import torch

    class Tensor(torch.Tensor):
        def max(self, axis=None, keepdim=False):
            return torch.amax(self, () if axis is None else axis, keepdim)

    leaves = [torch.tensor(x, dtype=dtype).as_subclass(Tensor).requires_grad_() for x in (X, Y)]
    out = build(*leaves)
    upstream = upstream_of(tuple(out.shape))
    grads = torch.autograd.grad(out, leaves, torch.tensor(upstream, dtype=dtype).as_subclass(Tensor), allow_unused=True)
    return [g.detach().numpy().astype(np.float64) for g in (out, *grads)]


def upstream_of(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


def in_duals(build, *, upstream=True):
    arrays = {"x": X, "y": Y}
    shape = build(**{name: kernels.constant(x, 0) for name, x in arrays.items()}).value.shape
    return kernels.gradients(build, arrays, upstream_of(shape) if upstream else 1.0)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_duals_against_torch_and_their_rounding_bounds_that_of_float32(name):
    import torch

    found, sizes = in_duals(EXPRESSIONS[name])
    for (what, right), wide, narrow in zip(
        found.items(),
        in_torch(EXPRESSIONS[name], torch.float64),
        in_torch(EXPRESSIONS[name], torch.float32),
        strict=True,
    ):
        assert np.max(np.abs(wide - right)) <= 10 * 2.0**-52 * sizes[what], what
        error = np.max(np.abs(narrow - right))
        assert error <= 10 * 2.0**-23 * sizes[what], what
        assert 2.0**-52 * sizes[what] < 1e-9, f"{what}: a bound that lets everything through"


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_duals_against_central_differences(name):
    build = EXPRESSIONS[name]
    found, _ = in_duals(build, upstream=False)

    def total(x, y):
        return float(np.sum(build(kernels.constant(x, 0), kernels.constant(y, 0)).value))

    for which, base in enumerate((X, Y)):
        for index in np.ndindex(base.shape):
            moved = []
            for step in (1e-6, -1e-6):
                both = [X.copy(), Y.copy()]
                both[which][index] += step
                moved.append(total(*both))
            slope = (moved[0] - moved[1]) / 2e-6
            assert slope == pytest.approx(found["xy"[which]][index], rel=1e-6, abs=1e-6)


def test_ties_share_equally():
    found, _ = kernels.gradients(lambda x: x.max(1), {"x": np.array([[1.0, 3, 3], [2, 2, 2]])})
    assert np.allclose(found["x"], [[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])


def test_cross_entropy_against_torch():
    import torch

    logits = torch.tensor(1e3 * np.cos(np.arange(12.0)).reshape(4, 3), requires_grad=True)
    targets = torch.tensor([2, 0, 1, 1])
    loss = torch.nn.functional.cross_entropy(logits, targets)
    (-3 * loss).backward()
    found, sizes = kernels.cross_entropy(logits.detach().numpy(), targets.numpy(), -3)
    for what, right in {"out": loss.detach(), "logits": logits.grad}.items():
        assert np.max(np.abs(right.numpy() - found[what])) <= 10 * 2.0**-52 * sizes[what]


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="have no product"):
        kernels.constant(np.ones((2, 1)), 0) @ kernels.constant(np.ones((2, 1)), 0)
