"""The from-scratch watch sees a refused function by whatever name it was reached."""

import sys

import jax
import jax.numpy as jnp
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import scaled_dot_product_attention as renamed

from graders.scratch import Use, Watch

REFUSED = (
    "torch.nn.functional.scaled_dot_product_attention",
    "torch.nn.functional.multi_head_attention_forward",
    "torch.nn.MultiheadAttention",
    "jax.nn.dot_product_attention",
    "torch.optim",
)
SDPA = REFUSED[0]


@pytest.fixture
def watch():
    return Watch(REFUSED, __file__)


def q():
    return torch.randn(1, 2, 3, 4)


ROUTES = {
    "attribute": lambda x: F.scaled_dot_product_attention(x, x, x),
    "renamed": lambda x: renamed(x, x, x),
    "computed name": lambda x: getattr(F, "scaled_dot" + "_product_attention")(x, x, x),
    "torch.ops": lambda x: torch.ops.aten.scaled_dot_product_attention(x, x, x),
    "an overload": lambda x: torch.ops.aten.scaled_dot_product_attention.default(x, x, x),
    "torch._C": lambda x: torch._C._nn.scaled_dot_product_attention(x, x, x),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_is_seen(watch, route):
    with watch:
        ROUTES[route](q())
    assert [use.path for use in watch.used][:1] == [SDPA]
    assert watch.used[0].line == ROUTES[route].__code__.co_firstlineno


def test_a_module_of_the_library_is_seen(watch):
    layer = torch.nn.MultiheadAttention(4, 2)
    with watch:
        layer(torch.randn(3, 1, 4), torch.randn(3, 1, 4), torch.randn(3, 1, 4))
    assert "torch.nn.MultiheadAttention" in {use.path for use in watch.used}


def test_a_package_is_seen(watch):
    with watch:
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    assert watch.used[0].path == "torch.optim"


def test_jax_is_seen_while_it_traces(watch):
    x = jnp.ones((1, 3, 2, 4))
    with watch:
        jax.jit(jax.nn.dot_product_attention)(x, x, x)
    assert watch.used[0].path == "jax.nn.dot_product_attention"


def test_an_honest_attempt_is_not_blamed(watch):
    layer = torch.nn.Linear(4, 4)
    with watch:
        x = layer(q())
        torch.einsum("bhtd,bhsd->bhts", x, x).softmax(-1).masked_fill(x[..., :3] > 0, 0.0)
        jax.nn.softmax(jnp.ones((2, 3)) @ jnp.ones((3, 2)))
    assert watch.used == []


def test_the_profiler_that_was_there_comes_back(watch):
    def other(frame, event, arg):
        del frame, event, arg

    sys.setprofile(other)
    try:
        with watch, watch:
            pass
        assert sys.getprofile() is other
        with pytest.raises(ZeroDivisionError), watch:
            1 / 0  # noqa: B018
        assert sys.getprofile() is other
    finally:
        sys.setprofile(None)


def test_what_is_not_imported_cannot_be_in_use():
    watch = Watch(["nowhere.at_all"], __file__)
    with watch:
        q()
    assert watch.used == []


def test_a_use_says_where():
    assert Use("a.b", 3) == Use("a.b", 3)
    assert Use("a.b", 3).line == 3
