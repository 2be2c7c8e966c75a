"""The stand-in accelerator: CPU numerics, another device, and CUDA's rules on what may mix."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from graders import standin
from graders.errors import KataError
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


@pytest.mark.usefixtures("_simulated")
def test_data_that_is_assigned_is_what_is_read():
    p = nn.Parameter(wrap(torch.ones(2, 3)))
    p.data = p.data.T + 5
    assert unwrap(p * 1).tolist() == [[6.0, 6.0]] * 3
    p.data += 1
    assert unwrap(p.detach()).tolist() == [[7.0, 7.0]] * 3
    (p * 2).sum().backward()
    assert unwrap(p.grad).tolist() == [[2.0, 2.0]] * 3
    with pytest.raises(RuntimeError, match="incompatible"):
        p.data = torch.ones(3, 2)


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


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def through(function, x):
    """The gradient of the function's sum."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def assigned(x, *indices):
    y = x.clone()
    for n, index in enumerate(indices):
        y[index] = float(n)
    return y


def drawn(x, draw):
    return draw(torch.Generator(device=x.device).manual_seed(3))


def trained(x):
    p = nn.Parameter(x.clone())
    optimizer = torch.optim.Adam([p], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (p * p).sum().backward()
        nn.utils.clip_grad_norm_([p], 1.0)
        optimizer.step()
    return p.detach()


def long(x, *values):
    return torch.tensor(values, device=x.device)


OPERATIONS = {
    "a list as an index": lambda x: x[:, [0, 0, 2]],
    "a range as an index": lambda x: x[:, range(2)],
    "a list of bools as an index": lambda x: x[[True, False, True]],
    "a NumPy index": lambda x: x[:, np.array([0, 2])],
    "lists assigned to": lambda x: assigned(x, (slice(None), [0, 2]), [True, False, True]),
    "slices assigned to": lambda x: assigned(x, (..., 0), (slice(1, 3), slice(1, 3))),
    "a mask assigned to": lambda x: assigned(x, x > 0),
    "index tensors": lambda x: x[torch.arange(3, device=x.device), torch.arange(3, device=x.device)],
    "boolean index": lambda x: x[x > 0],
    "nonzero": lambda x: torch.where(x > 0)[0],
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "new_tensor of a number": lambda x: x.new_tensor(3),
    "new_zeros": lambda x: x.new_zeros(4, 2),
    "literals": lambda x: torch.tensor([1, 2], device=x.device),
    "tril": lambda x: torch.ones(4, 5, device=x.device).tril(1) * x,
    "tril_indices": lambda x: torch.tril_indices(3, 3, device=x.device),
    "linspace": lambda x: torch.linspace(0, 1, 5, device=x.device) + x,
    "einsum": lambda x: torch.einsum("abc,adc->abd", x, x),
    "topk": lambda x: x.topk(2).values,
    "argsort": lambda x: x.argsort(-1),
    "gather": lambda x: x.gather(-1, x.argmax(-1, keepdim=True)),
    "scatter_": lambda x: torch.zeros_like(x).scatter_(-1, x.argmax(-1, keepdim=True), 1.0),
    "index_add_": lambda x: x.clone().index_add_(1, long(x, 0, 2), x[:, :2]),
    "one_hot": lambda x: functional.one_hot(x.argmax(-1), 5),
    "pad": lambda x: functional.pad(x, (1, 2)),
    "unfold": lambda x: x.unfold(-1, 2, 1),
    "chunk and cat": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "repeats in a tensor": lambda x: x.repeat_interleave(long(x, 1, 2, 1, 1), 1),
    "expand and reshape": lambda x: x[:, None].expand(3, 2, 4, 5).reshape(6, 4, 5),
    "transpose and flatten": lambda x: x.transpose(1, 2).flatten(1),
    "item": lambda x: x * x.sum().item(),
    "a condition": lambda x: x if x.sum() > -1e9 else -x,
    "tolist": lambda x: torch.tensor(x.tolist()).to(x),
    "bfloat16": lambda x: x.bfloat16() @ x.bfloat16().mT,
    "type_as": lambda x: x.long().type_as(x),
    "cross_entropy": lambda x: functional.cross_entropy(x.reshape(-1, 5), x.argmax(-1).reshape(-1)),
    "binary_cross_entropy": lambda x: functional.binary_cross_entropy_with_logits(x, x.sigmoid()),
    "embedding": lambda x: functional.embedding(x.argmax(-1), x[0].T.contiguous()),
    "sdpa": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "Categorical": lambda x: torch.distributions.Categorical(logits=x).entropy(),
    "a function of one's own": lambda x: through(Square.apply, x),
    "checkpoint": lambda x: through(lambda y: checkpoint(torch.sin, y, use_reentrant=False), x),
    "func.grad": lambda x: torch.func.grad(lambda y: (y.sin() ** 2).sum())(x),
    "vmap": lambda x: torch.vmap(lambda row: row.softmax(-1).cumsum(-1))(x),
    "jacobian": lambda x: torch.autograd.functional.jacobian(lambda y: y.exp().sum(-1), x),
    "training": trained,
    "foreach": lambda x: torch._foreach_mul([x, x], 2.0)[1],
    "addcdiv_": lambda x: x.clone().addcdiv_(x, x.abs() + 1, value=-0.1),
    "deepcopy": copy.deepcopy,
    "randn": lambda x: drawn(x, lambda g: torch.randn(3, generator=g, device=x.device)),
    "randperm": lambda x: drawn(x, lambda g: torch.randperm(3, generator=g, device=x.device)),
    "multinomial": lambda x: drawn(x, lambda g: torch.multinomial(x[0].softmax(-1), 2, generator=g)),
    "dropout": lambda x: functional.dropout(x, 0.5),
}


@pytest.mark.filterwarnings("ignore:dropout")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_gives_what_it_gives_on_the_cpu(operation):
    run = OPERATIONS[operation]
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    right = run(x)
    torch.manual_seed(2)
    with Simulate():
        there = run(wrap(x))
        assert type(there) is StandIn, f"on {there.device}"
        assert there.device == DEVICE
    found = unwrap(there)
    assert found.dtype == right.dtype
    assert torch.equal(found, right.detach())


def test_numbers_it_did_not_see_made_are_refused():
    """A plain meta tensor has none; computing with it would give what happens to lie in memory."""
    elsewhere = torch.ones(3, device="meta")
    with Simulate(), pytest.raises(KataError, match=r"standin\.py: aten\.add\.Tensor was given a tensor whose numbers"):
        wrap(torch.ones(3)) + elsewhere
