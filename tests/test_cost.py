"""Costs of programs whose cost is known."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from graders.cost import Cost, measure_jax, measure_numpy, measure_torch


def test_torch_counts_a_product():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    cost = measure_torch(lambda: a @ b)
    assert cost == Cost(flops=2 * 3 * 5 * 7, largest=21, peak=84, ops=1)


def test_torch_counts_batches_and_bias():
    a, b, c = torch.randn(2, 3, 5), torch.randn(2, 5, 7), torch.randn(7)
    assert measure_torch(lambda: torch.bmm(a, b)).flops == 2 * 2 * 3 * 5 * 7
    assert measure_torch(lambda: torch.nn.functional.linear(a[0], b[0].mT, c)).flops == 2 * 3 * 5 * 7


def test_torch_does_not_count_views():
    x = torch.ones(1, 1)
    assert measure_torch(lambda: x.expand(1000, 1000).mT[:3]).largest == 0
    assert measure_torch(lambda: x.expand(1000, 1000).sum()).largest == 1


def test_torch_in_place_holds_nothing_more():
    x = torch.ones(100)
    assert measure_torch(lambda: x.add_(1).mul_(2)) == Cost(flops=0, largest=0, peak=0, ops=2)


def test_torch_frees_what_is_dropped():
    x = torch.ones(1000)

    def chain():
        y = x
        for _ in range(10):
            y = y + 1
        return y

    assert measure_torch(chain).peak == 2 * 4000


def test_torch_follows_the_backward():
    a = torch.randn(4, 5, requires_grad=True)
    b = torch.randn(5, 6, requires_grad=True)
    assert measure_torch(lambda: (a @ b).sum().backward()).flops == 3 * 2 * 4 * 5 * 6


def test_blocks_grow_as_blocks_do():
    def blocks(n):
        x = torch.randn(n, 4)
        return measure_torch(lambda: [x @ x[i : i + 8].mT for i in range(0, n, 8)]).largest

    def whole(n):
        x = torch.randn(n, 4)
        return measure_torch(lambda: x @ x.mT).largest

    assert blocks(64) / blocks(32) == 2
    assert whole(64) / whole(32) == 4


def test_jax_counts_a_product():
    cost = measure_jax(lambda a, b: a @ b, jnp.ones((3, 5)), jnp.ones((5, 7)))
    assert (cost.flops, cost.largest, cost.peak, cost.ops) == (2 * 3 * 5 * 7, 21, 84, 1)


def test_jax_counts_a_scan_as_often_as_it_runs():
    def run(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, length=6)[0]

    assert measure_jax(run, jnp.ones((4, 4))).flops == 6 * 2 * 4 * 4 * 4


def test_jax_looks_inside_jit():
    assert measure_jax(jax.jit(lambda a: (a[:, None] * a[None, :]).sum(0)), jnp.ones(50)).largest == 2500


def test_numpy_sees_what_is_held():
    cost = measure_numpy(lambda: np.ones((500, 500)).sum())
    assert 2_000_000 <= cost.peak <= 2_050_000
    assert cost.largest == cost.peak // 8
    assert (cost.flops, cost.ops) == (0, 0)
