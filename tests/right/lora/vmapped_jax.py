"""vmap over the batch, adapters as dicts keyed by path, bias optional."""

import jax
import jax.numpy as jnp


def init_lora(key, in_features, out_features, rank):
    if rank < 1:
        raise ValueError("a rank is at least 1")
    return jax.random.normal(key, (rank, in_features)) / rank, jnp.zeros((out_features, rank))


def lora_linear(x, weight, bias, a, b, *, alpha):
    y = jnp.einsum("...i,oi->...o", x, weight) + (alpha / a.shape[0]) * jnp.einsum("...i,ri,or->...o", x, a, b)
    return y if bias is None else y + bias


def merge(weight, a, b, *, alpha):
    return weight + alpha * (b @ a) / a.shape[0]


def add_lora(key, params, targets, *, rank):
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        last = path[-1]
        name = getattr(last, "key", getattr(last, "name", getattr(last, "idx", None)))
        if name in targets and leaf.ndim == 2:
            key, own = jax.random.split(key)
            out, into = leaf.shape
            found[jax.tree_util.keystr(path)] = init_lora(own, into, out, rank)
    if not found:
        raise ValueError("nothing matches")
    return found


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    def one(row, n):
        use = jnp.where(n >= 0, scaling[n], 0)
        return row @ weight.T + use * ((row @ a[n].T) @ b[n].T)

    return jax.vmap(one)(x, adapter_ids)
