"""A NamedTuple for each pair, a walk by hand over dicts and lists, vectorize for the rows, an empty adapter for -1."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Adapter(NamedTuple):
    a: jax.Array
    b: jax.Array


def init_lora(key, in_features, out_features, rank):
    if rank <= 0:
        raise ValueError("rank must be positive")
    a = jax.random.truncated_normal(key, -2, 2, (rank, in_features)) * in_features**-0.5
    return Adapter(a, jnp.zeros((out_features, rank), a.dtype))


@functools.partial(jnp.vectorize, signature="(i),(o,i),(r,i),(o,r)->(o)")
def _row(x, weight, a, b):
    return weight @ x + b @ (a @ x)


@functools.partial(jax.jit, static_argnames="alpha")
def lora_linear(x, weight, bias, a, b, *, alpha):
    out = _row(x, weight, a, b * (alpha / len(a)))
    return out if bias is None else out + bias


def merge(weight, a, b, *, alpha):
    return weight.at[:].add(jnp.tensordot(b, a, 1) * (alpha / a.shape[0]))


def add_lora(key, params, targets, *, rank):
    def walk(key, name, node):
        if isinstance(node, dict):
            items = node.items()
        elif isinstance(node, list | tuple):
            items = enumerate(node)
        else:
            return [(name, init_lora(key, node.shape[1], node.shape[0], rank))] if node.ndim == 2 else []
        found = []
        for own, (last, child) in zip(jax.random.split(key, len(node)), items, strict=True):
            if str(last) in targets or not hasattr(child, "shape"):
                found += walk(own, f"{name}/{last}", child)
        return found

    if not (found := walk(key, "", params)):
        raise ValueError(f"no leaf is called any of {targets}")
    return dict(found)


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    empty = adapter_ids % (len(a) + 1)  # -1 becomes N, where an adapter of zeros stands
    a, b = (jnp.concatenate([y, jnp.zeros_like(y[:1])])[empty] for y in (a, b * scaling[:, None, None]))
    return jnp.matmul(x, weight.T) + jnp.matmul(jnp.matmul(x, jnp.swapaxes(a, 1, 2)), jnp.swapaxes(b, 1, 2))
