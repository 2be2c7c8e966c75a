"""A key/value cache: buffers allocated once, attention that reads them, greedy generation, a sliding window."""

import math
from collections.abc import Callable

import torch


class KVCache:
    """Keys and values of all tokens so far, in buffers allocated once (Pope et al. 2022, section 2.1).

    batch is B, n_kv_heads K, max_len the tokens that fit, head_dim D. `length` counts the tokens in the cache.
    """

    def __init__(
        self,
        batch: int,
        n_kv_heads: int,
        max_len: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        raise NotImplementedError("kv_cache")

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends k and v, each (B, K, T, D), and returns (keys, values) so far, each (B, K, length, D), as views.

        Raises ValueError, with the cache unchanged, for more tokens than fit and for another shape or dtype.
        """
        raise NotImplementedError("kv_cache")

    def reset(self) -> None:
        """Forgets all tokens; the buffers stay."""
        raise NotImplementedError("kv_cache")


def cached_attention(
    x: torch.Tensor,
    w_q: torch.Tensor,
    w_k: torch.Tensor,
    w_v: torch.Tensor,
    w_o: torch.Tensor,
    cache: KVCache,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
) -> torch.Tensor:
    """Causal attention of the new tokens to all tokens so far, with grouped heads (Ainslie et al. 2023, section 2.2).

    x (B, T, C): the new tokens alone; w_q (C, H*D), w_k and w_v (C, K*D), w_o (H*D, C), of the cache's dtype. n_heads
    is H, n_kv_heads is K (None: H). Appends the new keys and values to the cache. Returns (B, T, C): the last T
    positions of causal attention over all tokens.
    """
    raise NotImplementedError("kv_cache")


def generate(
    step: Callable[[torch.Tensor], torch.Tensor], prompt: torch.Tensor, max_new_tokens: int, *, eos: int | None = None
) -> torch.Tensor:
    """Greedy decoding: argmax of the last position's logits, appended until every row has ended.

    step(tokens (B, T)) -> logits (B, T, V) keeps its own cache: it is given the prompt once, then one token a row.
    prompt (B, P) int64. A row that has produced eos is filled with it. Returns (B, P + n), n <= max_new_tokens, after n
    calls of step.
    """
    raise NotImplementedError("kv_cache")


class SlidingWindowCache:
    """Keys and values of the last `window` tokens, in a ring (Beltagy et al. 2020, section 3.1; Jiang et al. 2023).

    batch is B, n_kv_heads K, head_dim D.
    """

    def __init__(
        self,
        batch: int,
        n_kv_heads: int,
        window: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        raise NotImplementedError("kv_cache")

    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes one token's k and v, each (B, K, 1, D); returns the last min(length, window), oldest first."""
        raise NotImplementedError("kv_cache")
