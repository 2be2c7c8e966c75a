"""Attention from its parts, in JAX: masked, causal, multi-head with grouped keys and values, and blockwise."""

import math

import jax
import jax.numpy as jnp


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, equation 1), over the keys that the mask allows.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E), one floating dtype. mask: bool, broadcastable to (B, H, T, S),
    True where a query may attend. Returns (B, H, T, E) in the dtype of q. A row that may attend to nothing gives
    zeros and passes zero gradient. Finite for logits of 1e4.
    """
    raise NotImplementedError("attention")


def causal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention in which query i sees the keys j <= i + S - T: the last query is aligned with the last key.

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). Returns (B, H, T, E). Raises ValueError if T > S.
    """
    raise NotImplementedError("attention")


def multi_head_attention(
    x: jax.Array,
    w_q: jax.Array,
    w_k: jax.Array,
    w_v: jax.Array,
    w_o: jax.Array,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = False,
) -> jax.Array:
    """Concat(head_1, ..., head_H) W_O (Vaswani et al. 2017, section 3.2.2) with grouped heads (Ainslie et al. 2023).

    x (B, T, C), w_q (C, H*D), w_k (C, K*D), w_v (C, K*E), w_o (H*E, C), one floating dtype. n_heads is H, n_kv_heads
    is K (None: H). Query head h reads key/value head h // (H // K). Returns (B, T, C). Raises ValueError if H is not
    a multiple of K, or if a width is not a multiple of its number of heads.
    """
    raise NotImplementedError("attention")


def blockwise_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, *, block_size: int, causal: bool = False
) -> jax.Array:
    """Attention, or causal attention, over blocks of keys with a running softmax (Milakov & Gimelshein 2018, alg. 3).

    q (B, H, T, D), k (B, H, S, D), v (B, H, S, E). block_size: keys a block; it need not divide S. Returns
    (B, H, T, E). The largest intermediate has O(B * H * T * max(block_size, D, E)) elements. Raises ValueError if
    block_size < 1, or if causal and T > S.
    """
    raise NotImplementedError("attention")
