"""The stand-in accelerator: CPU numerics, another device, and CUDA's rules on what may mix."""

import pytest
import torch

from graders import standin
from graders.standin import DEVICE, Simulate, StandIn, unwrap, wrap


@pytest.fixture
def _simulated():
    with Simulate():
        yield


def attention(q, k, v, mask_device):
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=mask_device).tril()
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ v


def test_forward_and_backward_are_bit_equal():
    plain = [torch.randn(2, 3, 4, 6, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(2, 3, 4, 6)
    out = attention(*plain, "cpu")
    grads = torch.autograd.grad(out, plain, upstream)
    with Simulate():
        there = [wrap(x).requires_grad_() for x in plain]
        out_there = attention(*there, there[0].device)
        grads_there = torch.autograd.grad(out_there, there, wrap(upstream))
        assert type(out_there) is StandIn
        assert out_there.device == DEVICE
    assert torch.equal(unwrap(out_there), out)
    for a, b in zip(grads_there, grads, strict=True):
        assert torch.equal(unwrap(a), b)


@pytest.mark.usefixtures("_simulated")
@torch.inference_mode()
def test_views_and_writes_in_inference_mode():
    before = torch.inference_mode(False)(lambda: wrap(torch.arange(12.0)))()
    seen = before.view(3, 4)
    made = torch.zeros(3, 4, device=DEVICE)
    made[:, 1:3] = seen[:, 1:3]
    assert torch.equal(unwrap(made.view(12)), torch.tensor([0.0, 1, 2, 0, 0, 5, 6, 0, 0, 9, 10, 0]))
    assert not (seen * 2).requires_grad


@pytest.mark.usefixtures("_simulated")
def test_a_mask_made_on_the_cpu_is_refused():
    q = wrap(torch.randn(1, 1, 4, 6))
    with pytest.raises(
        RuntimeError, match=r"same device, but found at least two devices, stand-in and cpu.*masked_fill"
    ):
        attention(q, q, q, None)


@pytest.mark.usefixtures("_simulated")
@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y * x,
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: x @ y,
        lambda x, y: x.add_(y),
        lambda x, y: torch.stack([y, x]),
    ],
)
def test_mixing_is_refused(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(wrap(torch.randn(3, 3)), torch.randn(3, 3))


@pytest.mark.usefixtures("_simulated")
def test_what_cuda_allows_is_allowed():
    x = wrap(torch.arange(12.0).reshape(3, 4))
    assert torch.equal(unwrap(x + torch.tensor(1.0)), unwrap(x) + 1)
    assert torch.equal(unwrap(x[torch.tensor([2, 0])]), unwrap(x)[[2, 0]])
    x[torch.tensor([0])] = 7.0
    assert unwrap(x)[0].eq(7).all()
    x.copy_(torch.zeros(3, 4))
    assert unwrap(x).eq(0).all()


@pytest.mark.usefixtures("_simulated")
@pytest.mark.parametrize(
    "make",
    [
        lambda like: torch.zeros(3, device=like.device),
        lambda like: torch.tensor([1.0, 2.0, 3.0], device=like.device),
        lambda like: torch.as_tensor([1.0, 2.0, 3.0], device=like.device),
        lambda like: torch.arange(3, device=like.device),
        lambda like: torch.randn(3, device=like.device),
        lambda like: torch.full((3,), 2.0, device=like.device),
        lambda like: torch.eye(3, device=like.device),
        lambda like: like.new_zeros(3),
        lambda like: torch.zeros_like(like),
        lambda like: torch.full_like(like, 2.0),
        lambda like: torch.ones(3).to(like.device),
        lambda like: torch.ones(3).to(like),
        lambda like: torch.multinomial(torch.ones(3, device=like.device), 2),
        lambda like: torch.nn.functional.dropout(like),
        lambda like: torch.einsum("i,i->i", like, like),
    ],
)
def test_made_there(make):
    made = make(wrap(torch.ones(3)))
    assert type(made) is StandIn
    assert made.device == DEVICE


@pytest.mark.usefixtures("_simulated")
def test_literals_keep_their_data():
    assert torch.tensor([1.5, 2.5], device=DEVICE).tolist() == [1.5, 2.5]


@pytest.mark.usefixtures("_simulated")
def test_back_to_the_cpu():
    x = wrap(torch.ones(3))
    assert type(x.cpu()) is torch.Tensor
    assert type(x.to("cpu")) is torch.Tensor
    assert x.sum().item() == 3.0
    assert bool((x == 1).all())
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        x.numpy()
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        x.__array__()


@pytest.mark.usefixtures("_simulated")
def test_views_share_and_versions_move():
    x = wrap(torch.zeros(4, 5))
    before = x._version
    x[1:3, 2] = 7.0
    assert x._version > before
    row = x.t()[2]
    row.add_(1.0)
    assert unwrap(x)[:, 2].tolist() == [1.0, 8.0, 8.0, 1.0]


def test_training_a_module_is_bit_equal():
    def train(device):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
        x = torch.randn(11, 5)
        model, x = model.to(device), x.to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        return [parameter.detach().cpu() for parameter in model.parameters()]

    plain = train("cpu")
    with Simulate():
        there = train(DEVICE)
    assert all(torch.equal(a, b) for a, b in zip(plain, there, strict=True))


def test_nothing_is_left_behind():
    with Simulate():
        wrap(torch.ones(3))
    assert type(torch.zeros(3)) is torch.Tensor
    assert torch.zeros(3, device="meta").is_meta
    assert not isinstance(torch.zeros(3, device="meta"), standin.StandIn)
