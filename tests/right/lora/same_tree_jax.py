"""Adapters in a tree like that of the parameters, None elsewhere; dot_general; a scan over the adapters."""

import jax
import jax.numpy as jnp
from jax import lax


def init_lora(key, in_features, out_features, rank):
    if rank not in range(1, 10**6):
        raise ValueError(rank)
    a = jax.nn.initializers.he_uniform(in_axis=-1, out_axis=-2)(key, (rank, in_features))
    return a, jnp.zeros((out_features, rank))


def _times(x, w):
    """x (..., I) and w (O, I) -> (..., O)."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (1,)), ((), ())))


def lora_linear(x, weight, bias, a, b, *, alpha):
    scale = alpha / b.shape[1]
    out = _times(x, weight) + _times(_times(x, a), scale * b)
    if bias is not None:
        out += bias
    return out


def merge(weight, a, b, *, alpha):
    return weight + jnp.einsum("or,ri->oi", b, a) * alpha / b.shape[1]


def add_lora(key, params, targets, *, rank):
    count = iter(range(10**6))

    def one(path, leaf):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name not in targets or jnp.ndim(leaf) != 2:
            return None
        return init_lora(jax.random.fold_in(key, next(count)), *leaf.shape[::-1], rank)

    adapters = jax.tree_util.tree_map_with_path(one, params)
    if next(count) == 0:
        raise ValueError(f"{targets} match nothing")
    return adapters


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    def add(out, adapter):
        n, down, up, scale = adapter
        update = _times(_times(x, down), up) * scale
        return out + jnp.where(adapter_ids[:, None, None] == n, update, jnp.zeros((), x.dtype)), None

    return lax.scan(add, _times(x, weight), (jnp.arange(len(a)), a, b, scaling))[0]
