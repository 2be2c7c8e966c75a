"""The hidden grader of the attention kata."""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from graders import level
from graders.checks import (
    Case,
    Dims,
    check_dtype,
    check_from_scratch,
    check_gradients,
    check_growth,
    check_numerical_gradients,
    check_parity,
    check_raises,
    check_shape,
    check_values,
    for_all,
)
from graders.kernels import attention as kernels

AUTODIFF = ("torch", "jax")
AXES = Dims(B=2, H=3, T=4, S=5, D=6, E=7)
SQUARE = Dims(B=2, H=3, T=5, D=6, E=7)
TINY = Dims(B=1, H=2, T=3, S=4, D=5, E=6)
LONG = Dims(B=1, H=2, T=3, S=300, D=4, E=5)
MODEL = Dims(B=4, T=5, C=7, H=6, K=2, D=8, E=9)  # H / K is no other size either
SIZES = ((1, 1, 1, 1, 1, 1), (1, 1, 1, 2, 1, 2), (1, 2, 3, 1, 2, 1), (2, 1, 0, 3, 2, 2), (2, 3, 2, 4, 5, 1))
MASKS = ("", "S", "T S", "T 1", "H 1 S", "B 1 1 S", "1 H T 1", "B H T S")
LAYOUTS = ("plain", "transposed", "strided")


def inputs(rng, dims=AXES, keys="S"):
    return tuple(dims.normal(rng, axes) for axes in ("B H T D", f"B H {keys} D", f"B H {keys} E"))


def arranged(rng, shape, layout):
    """An array whose axes 1 and 2 stand swapped in memory, or with every second entry of a larger one."""
    batch, heads, rows, width = shape
    if layout == "transposed":
        return rng.normal(size=(batch, rows, heads, width)).transpose(0, 2, 1, 3)
    if layout == "strided":
        return rng.normal(size=(batch, heads, rows, 2 * width))[..., ::2]
    return rng.normal(size=shape)


def masked(rng, *shape, dead=()):
    """A mask in which every row sees two or more keys but not all, except that the rows in `dead` see none."""
    mask = rng.random(shape) < 0.5
    mask[..., :2] |= (mask.sum(-1) < 2)[..., None]
    mask[..., -1] &= ~mask.all(-1)
    for row in dead:
        mask[..., row, :] = False
    return mask


def plain(q, k, v, **options):
    """A call of `attention`, with or without a mask."""

    def near(index):
        rows = np.broadcast_to(options.get("mask", True), (*q.shape[:3], k.shape[2])).any(-1)
        return "" if rows[index[:3]] else f"row {index[2]} is fully masked"

    return Case("attention", (q, k, v), kernels.attention, kernels.attention_backward, options, near)


def causal(q, k, v):
    return Case("causal_attention", (q, k, v), kernels.causal_attention, kernels.causal_attention_backward)


def multi_head(rng, **options):
    """A call of `multi_head_attention`, H = 6 unless n_heads is given; the widths of k and v follow n_kv_heads."""
    kv = options.get("n_kv_heads") or MODEL.sizes["H"]
    weights = [MODEL.normal(rng, axes) for axes in ("C H*D", "C D", "C E", "H*E C")]
    weights[1] = rng.normal(size=(MODEL.sizes["C"], kv * MODEL.sizes["D"]))
    weights[2] = rng.normal(size=(MODEL.sizes["C"], kv * MODEL.sizes["E"]))
    args = (MODEL.normal(rng, "B T C"), *(w / np.sqrt(len(w)) for w in weights))
    options = {"n_heads": MODEL.sizes["H"], **options}
    return Case(
        "multi_head_attention",
        args,
        kernels.multi_head_attention,
        kernels.multi_head_attention_backward,
        options,
    )


def blockwise(q, k, v, **options):
    return Case(
        "blockwise_attention",
        (q, k, v),
        kernels.blockwise_attention,
        kernels.blockwise_attention_backward,
        options,
    )


def fused(case):
    """PyTorch's own kernels on the same call."""
    mask = case.options.get("mask")
    if case.name == "causal_attention" or case.options.get("causal"):
        mask = kernels.causal_mask(case.args[0].shape[2], case.args[1].shape[2])
    return lambda device: kernels.fused(device, *case.args, mask=mask)


def extreme(rng, dims):
    """Inputs whose logits reach 1e4 and are exact in float32, so that the softmax stays well conditioned.

    q and k are multiples of 1/8 and D is 4. The first coordinate shifts each row's logits by 1e4 or -1e4; in head 0
    the other coordinates are large as well, which leaves one key a row.
    """
    q, k, v = inputs(rng, dims)
    q, k = np.round(q[..., :4] * 8) / 8, np.round(k[..., :4] * 8) / 8
    q[..., 1:][:, 0] *= 1024
    q[..., 0] = 1024 * rng.choice([-1, 1], size=q.shape[:-1])
    k[..., 0] = 20
    return q, k, v


def rougher(case):
    """Logarithms of sums of weights are as right, but at logits of 1e4 they round more."""
    return replace(case, formulas=(kernels.log_space_attention,), backward=log_space_backward)


def one_by_one(q, k, v):
    """Causal attention whose sums run over the keys in order: as right, and with many keys it rounds more."""
    p = kernels.weights(q, k, kernels.causal_mask(q.shape[-2], k.shape[-2]))
    total = np.cumsum(p, axis=-1)[..., -1:]
    return np.cumsum(p[..., None] * v[..., None, :, :], axis=-2)[..., -1, :] / total


def log_space_backward(upstream, q, k, v, *, mask=None):
    """`kernels.attention_backward` with the weights as exp(logits - logsumexp(logits))."""
    p = kernels.weights(q, k, mask, log_space=True)
    dp = upstream @ np.swapaxes(v, -1, -2)
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) / q.dtype.type(np.sqrt(q.shape[-1]))
    return ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(p, -1, -2) @ upstream


@level(1)
def test_attention_shape(attempt, rng):
    """attention returns (B, H, T, E)"""
    check_shape(attempt, plain(*inputs(rng)), AXES, "B H T E")


@level(1)
def test_attention_dtype(attempt, rng):
    """the result has the dtype of q, k and v, with a mask and without"""
    check_dtype(attempt, plain(*inputs(rng)))
    check_dtype(attempt, plain(*inputs(rng), mask=masked(rng, *AXES["T S"])))


@level(1)
def test_attention_values(attempt, rng):
    """without a mask it is softmax(q k^T / sqrt(D)) v"""
    check_values(attempt, plain(*inputs(rng)), dtypes=attempt.backend.dtypes)


@level(1)
def test_attention_mask(attempt, rng):
    """a query attends to the keys where the mask is True, whatever shape broadcasts to (B, H, T, S)"""
    B, H, T, S = AXES["B H T S"]
    for shape in ((T, S), (B, H, T, S), (B, 1, 1, S), (S,)):
        check_values(attempt, plain(*inputs(rng), mask=masked(rng, *shape)))
    for shape in ((5, 5), (5, 5, 5), (5,)):  # with B = H = T = S a mask's axes are told by their place alone
        even = (rng.normal(size=(5, 5, 5, width)) for width in (6, 6, 7))
        check_values(attempt, plain(*even, mask=masked(rng, *shape)))


@level(1)
def test_attention_gradients(attempt, rng):
    """the gradients of q, k and v are right in every entry, with a mask and without"""
    for mask in ({}, {"mask": masked(rng, *TINY["T S"])}):
        check_numerical_gradients(attempt, plain(*inputs(rng, TINY), **mask), rng)
    for mask in ({}, {"mask": masked(rng, *AXES["T S"])}):
        check_gradients(attempt, plain(*inputs(rng), **mask), rng)


@level(1, only=("numpy",))
def test_attention_backward(attempt, rng):
    """attention_backward takes all it needs from its arguments, and gives dq, dk and dv in their dtype"""
    q, k, v = inputs(rng)
    case = Case(
        "attention_backward",
        (AXES.normal(rng, "B H T E"), q, k, v),
        kernels.attention_backward,
        options={"mask": masked(rng, *AXES["T S"])},
        results=("dq", "dk", "dv"),
    )
    check_values(attempt, plain(*inputs(rng)))
    check_values(attempt, case)
    check_dtype(attempt, case)


@level(1)
def test_attention_masked_row(attempt, rng):
    """a row that may attend to nothing gives zeros and passes zero gradient, never NaN"""
    mask = masked(rng, *AXES["B H T S"], dead=(1, 3))
    mask[0, 1, 0] = mask[1, 0, 2] = False
    case = plain(*inputs(rng), mask=mask)
    check_values(attempt, case, dtypes=attempt.backend.dtypes)
    check_gradients(attempt, case, rng)


@level(1)
def test_attention_large_logits(attempt, rng):
    """logits of 1e4 in float32 give the right weights and gradients, also where the largest logit is masked"""
    q, k, v = extreme(rng, AXES)
    logits = q @ np.swapaxes(k, -1, -2)
    largest = logits == logits.max(-1, keepdims=True)
    for mask in ({}, {"mask": ~largest}):
        case = rougher(plain(q, k, v, **mask))
        check_values(attempt, case, dtypes=("float32",))
        check_gradients(attempt, case, rng, dtypes=("float32",))


@st.composite
def calls(draw):
    """Sizes down to 0 and 1, layouts, and masks that broadcast; the numbers come from the drawn seed."""
    B, H, T, S, D, E = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shapes = ((B, H, T, D), (B, H, S, D), (B, H, S, E))
    arrays = [arranged(rng, shape, draw(st.sampled_from(LAYOUTS))) for shape in shapes]
    sizes = {"B": B, "H": H, "T": T, "S": S, "1": 1}
    mask = rng.random([sizes[axis] for axis in draw(st.sampled_from(MASKS)).split()]) < 0.7
    return plain(*arrays, **({"mask": mask} if mask.ndim else {}))


def described(case):
    mask = case.options.get("mask")
    layouts = ["" if x.flags.c_contiguous else " not contiguous" for x in case.args]
    sizes = ", ".join(f"{n} {x.shape}{how}" for n, x, how in zip("qkv", case.args, layouts, strict=True))
    return sizes if mask is None else f"{sizes}, mask {mask.astype(int).tolist()}"


@level(1)
def test_attention_edges(attempt, rng, seed):
    """transposed and strided inputs, sizes of 0 and 1, and masks of every rank"""
    for layout in LAYOUTS[1:]:
        arrays = [arranged(rng, AXES[axes], layout) for axes in ("B H T D", "B H S D", "B H S E")]
        check_values(attempt, plain(*arrays), dtypes=("float32",))
    q, k, v = inputs(rng)
    for mask in (np.zeros((), bool), np.zeros((1, 1, 1, 1), bool), masked(rng, *AXES["S T"]).T):
        check_values(attempt, plain(q, k, v, mask=mask), dtypes=("float32",))
    for_all(
        attempt,
        calls(),
        lambda case: check_values(attempt, case, dtypes=("float32",)),
        seed=seed,
        describe=described,
    )


@level(1, only=AUTODIFF)
def test_attention_parity(attempt, rng, places):
    """it gives the same in every place, forward and backward"""
    for mask in ({}, {"mask": masked(rng, *AXES["B H T S"], dead=(2,))}):
        case = plain(*inputs(rng), **mask).cast("float32")
        check_parity(attempt, case, places, fused(case))


@level(1)
def test_attention_from_scratch(attempt, rng):
    """attention is made from its parts"""
    q, k, v = inputs(rng)
    alike = plain(q, k, v[..., : q.shape[-1]])  # libraries ask for D = E
    check_from_scratch(attempt, plain(q, k, v), alike, plain(q, k, v, mask=masked(rng, *AXES["T S"])))


@level(2)
def test_causal_shape(attempt, rng):
    """causal_attention returns (B, H, T, E)"""
    check_shape(attempt, causal(*inputs(rng)), AXES, "B H T E")


@level(2)
def test_causal_dtype(attempt, rng):
    """the result has the dtype of q, k and v"""
    check_dtype(attempt, causal(*inputs(rng)))


@level(2)
def test_causal_values(attempt, rng):
    """with T = S, query i sees the keys j <= i"""
    check_values(attempt, causal(*inputs(rng, SQUARE, "T")), dtypes=attempt.backend.dtypes)


@level(2)
def test_causal_offset(attempt, rng):
    """with T < S, the last query is aligned with the last key: query i sees all the keys j <= i + S - T"""
    check_values(attempt, causal(*inputs(rng)))
    q, k, v = inputs(rng)
    check_values(attempt, causal(q, k[:, :, 1:], v[:, :, 1:]), dtypes=("float32",))  # as many queries, fewer keys
    check_values(attempt, causal(q[:, :, :1], k, v))
    many = replace(causal(*inputs(rng, LONG)), formulas=(one_by_one,))
    check_values(attempt, many, dtypes=("float32",))


@level(2)
def test_causal_errors(attempt, rng):
    """T > S raises ValueError"""
    q, k, v = inputs(rng)
    check_raises(attempt, causal(q, k[:, :, :3], v[:, :, :3]), ValueError, "T = 4 queries and S = 3 keys")


@level(2, only=AUTODIFF)
def test_causal_gradients(attempt, rng):
    """the gradients of q, k and v are right in every entry"""
    check_numerical_gradients(attempt, causal(*inputs(rng, TINY)), rng)
    check_gradients(attempt, causal(*inputs(rng)), rng)


@level(2, only=AUTODIFF)
def test_causal_parity(attempt, rng, places):
    """it gives the same in every place, forward and backward"""
    case = causal(*inputs(rng)).cast("float32")
    check_parity(attempt, case, places, fused(case))


@level(2, only=AUTODIFF)
def test_causal_from_scratch(attempt, rng):
    """causal attention is made from its parts"""
    check_from_scratch(attempt, causal(*inputs(rng)), causal(*inputs(rng, SQUARE, "T")))


@level(3)
def test_multi_head_shape(attempt, rng):
    """multi_head_attention returns (B, T, C)"""
    check_shape(attempt, multi_head(rng), MODEL, "B T C")


@level(3)
def test_multi_head_dtype(attempt, rng):
    """the result has the dtype of x and the weights"""
    check_dtype(attempt, multi_head(rng))
    check_dtype(attempt, multi_head(rng, n_kv_heads=2, causal=True))


@level(3)
def test_multi_head_values(attempt, rng):
    """H heads of their own width, concatenated in order and projected by w_o; also one head, and one position"""
    case = multi_head(rng)
    check_values(attempt, case, dtypes=attempt.backend.dtypes)
    check_values(attempt, multi_head(rng, n_heads=1), dtypes=("float32",))
    x, *weights = case.args
    check_values(attempt, replace(case, args=(x[:, :1], *weights)), dtypes=("float32",))


@level(3)
def test_multi_head_grouped(attempt, rng):
    """query head h reads key/value head h // (H // K)"""
    check_values(attempt, multi_head(rng, n_kv_heads=2))
    check_values(attempt, multi_head(rng, n_kv_heads=1))


@level(3)
def test_multi_head_causal(attempt, rng):
    """causal=True: position i sees the positions j <= i"""
    check_values(attempt, multi_head(rng, causal=True))
    for n_kv_heads in (2, 1):
        check_values(attempt, multi_head(rng, n_kv_heads=n_kv_heads, causal=True))


@level(3)
def test_multi_head_errors(attempt, rng):
    """heads that do not divide: ValueError"""
    check_raises(attempt, multi_head(rng, n_kv_heads=4), ValueError, "H = 6 is not a multiple of K = 4")
    case = multi_head(rng)
    x, w_q, *rest = case.args
    wide = replace(case, args=(x, np.concatenate([w_q, w_q[:, :1]], axis=1), *rest))
    check_raises(attempt, wide, ValueError, "w_q has 49 columns, which 6 heads do not divide")
    check_raises(attempt, multi_head(rng, n_kv_heads=12), ValueError, "H = 6 is not a multiple of K = 12")
    for at, name in ((2, "w_k"), (3, "w_v")):
        args = list(case.args)
        args[at] = np.concatenate([args[at], args[at][:, :1]], axis=1)
        sentence = f"{name} has {args[at].shape[1]} columns, which 6 heads do not divide"
        check_raises(attempt, replace(case, args=tuple(args)), ValueError, sentence)


@level(3, only=AUTODIFF)
def test_multi_head_gradients(attempt, rng):
    """the gradients of x and of all four weights are right"""
    for options in ({}, {"n_kv_heads": 2, "causal": True}):
        check_gradients(attempt, multi_head(rng, **options), rng)


@level(3, only=AUTODIFF)
def test_multi_head_parity(attempt, rng, places):
    """it gives the same in every place, forward and backward"""
    check_parity(attempt, multi_head(rng, n_kv_heads=2, causal=True), places)


@level(3, only=AUTODIFF)
def test_multi_head_from_scratch(attempt, rng):
    """multi-head attention is made from its parts"""
    check_from_scratch(attempt, multi_head(rng), multi_head(rng, n_kv_heads=2, causal=True))


@level(4)
def test_blockwise_shape(attempt, rng):
    """blockwise_attention returns (B, H, T, E)"""
    check_shape(attempt, blockwise(*inputs(rng), block_size=5), AXES, "B H T E")


@level(4)
def test_blockwise_dtype(attempt, rng):
    """the result has the dtype of q, k and v"""
    check_dtype(attempt, blockwise(*inputs(rng), block_size=5))
    check_dtype(attempt, blockwise(*inputs(rng), block_size=5, causal=True))


@level(4)
def test_blockwise_values(attempt, rng):
    """with blocks that divide S it equals attention"""
    q, k, v = inputs(rng)
    check_values(attempt, blockwise(q, k[:, :, :4], v[:, :, :4], block_size=2), dtypes=attempt.backend.dtypes)
    check_values(attempt, blockwise(q, k, v, block_size=1))


@level(4)
def test_blockwise_partial(attempt, rng):
    """S need not be a multiple of the block size, which may be larger than S"""
    for block_size in (2, 3, 7):
        check_values(attempt, blockwise(*inputs(rng), block_size=block_size))


@level(4)
def test_blockwise_causal(attempt, rng):
    """causal=True equals causal attention, with T = S and with T < S"""
    for block_size in (2, 1, 5):
        check_values(attempt, blockwise(*inputs(rng, SQUARE, "T"), block_size=block_size, causal=True))
        q, k, v = inputs(rng)
        check_values(attempt, blockwise(q, k, v, block_size=block_size, causal=True))
        check_values(attempt, blockwise(q[:, :, 1:], k, v, block_size=block_size, causal=True))
    check_values(attempt, blockwise(q[:, :, 1:], k[:, :, :4], v[:, :, :4], block_size=2, causal=True))


@level(4)
def test_blockwise_large_logits(attempt, rng):
    """logits of 1e4 in float32 give the right weights: what was accumulated is rescaled as the maximum rises"""
    for causal_too in (False, True):
        case = blockwise(*extreme(rng, AXES), block_size=2, causal=causal_too)
        check_values(attempt, rougher(case), dtypes=("float32",))


@level(4)
def test_blockwise_errors(attempt, rng):
    """block_size < 1 raises ValueError, and T > S where causal"""
    q, k, v = inputs(rng)
    for block_size in (0, -1):
        check_raises(attempt, blockwise(q, k, v, block_size=block_size), ValueError, f"a block size of {block_size}")
    short = blockwise(q, k[:, :, :3], v[:, :, :3], block_size=2, causal=True)
    check_raises(attempt, short, ValueError, "causal with T = 4 queries and S = 3 keys")


@level(4, only=AUTODIFF)
def test_blockwise_gradients(attempt, rng):
    """it is differentiable: the gradients of q, k and v are right in every entry"""
    check_numerical_gradients(attempt, blockwise(*inputs(rng, TINY), block_size=3), rng)
    check_gradients(attempt, blockwise(*inputs(rng), block_size=2, causal=True), rng)


@level(4, only=AUTODIFF)
def test_blockwise_parity(attempt, rng, places):
    """it gives the same in every place, forward and backward"""
    for causal_too in (False, True):
        case = blockwise(*inputs(rng), block_size=2, causal=causal_too).cast("float32")
        check_parity(attempt, case, places, fused(case))


@level(4)
def test_blockwise_cost(attempt, rng):
    """no intermediate has T*S elements: memory grows with T and the block, not with T*S"""
    for causal_too in (False, True):
        small, large = (
            blockwise(*inputs(rng, Dims(B=1, H=2, T=size, D=8, E=4), "T"), block_size=32, causal=causal_too)
            for size in (128, 256)
        )
        check_growth(attempt, small, large, what="largest", expected=2, unwanted=4, sentence="T and S doubled")
    q, k, v = inputs(rng, Dims(B=1, H=2, T=256, S=128, D=8, E=4))
    few, many = (blockwise(q, k[:, :, :keys], v[:, :, :keys], block_size=8) for keys in (8, 128))
    sentence = "S grew from 8 to 128, with blocks of 8"
    check_growth(attempt, few, many, what="largest", expected=1, unwanted=8, sentence=sentence)


@level(4, only=AUTODIFF)
def test_blockwise_from_scratch(attempt, rng):
    """blockwise attention is made from its parts"""
    check_from_scratch(
        attempt, blockwise(*inputs(rng), block_size=2), blockwise(*inputs(rng), block_size=2, causal=True)
    )
