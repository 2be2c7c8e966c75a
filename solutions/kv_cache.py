"""A key/value cache: buffers allocated once, attention that reads them, greedy generation, a sliding window.

Axes: B batch, H query heads, K key/value heads, G = H / K, T new tokens, S all tokens so far, D head width, C model
width, P prompt, V vocabulary.

Choices. `update` checks everything before it writes anything, so that an error leaves the cache as it was. It returns
views: whoever wants to keep them over a `reset` has to copy. It records no gradient, the cache is for inference. The
queries of a group become the rows of one matrix product, because repeating keys and values for each query head would
copy the cache at every step. The sliding window is a ring, in which token t lies in slot t mod window; putting it in
order copies the window, and nothing that grows.

Follow-up questions

How large is the cache? 2 B K S D numbers a layer. Llama 2 7B (32 layers, 32 heads of 128, float16) takes 0.5 MiB a
token, 2 GiB for a sequence of 4096. With 8 key/value heads instead of 32 it would be a quarter of that.

Why is decoding bound by memory and not by arithmetic? Each new token reads all weights and the whole cache, and makes
two operations of each number read; a GPU has time for hundreds. A batch shares the reading of the weights, but each
sequence has a cache of its own: hence grouped heads, quantised caches and windows.

Why not concatenate at each step? It copies the prefix every time, O(S^2) in all, and holds the old and the new at
once. A buffer of full length wastes what a short text does not use; paged attention (Kwon et al. 2023) gives memory
out in blocks instead, and lets texts with a common beginning share them.

What goes wrong with prompts of different lengths? Padded on the right, the next token of a short row does not follow
its last one. Padded on the left it does, but then mask and positions have to know where each row begins.

Is a sliding window equal to full attention? No: what leaves the window is gone for that layer, though each layer above
reaches a window further back. Without the first tokens, on which much weight rests, quality breaks down: they are often
kept as well ("attention sinks", Xiao et al. 2023).
"""

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
        self._keys = torch.zeros(batch, n_kv_heads, max_len, head_dim, dtype=dtype, device=device)
        self._values = torch.zeros_like(self._keys)
        self.length = 0

    @torch.no_grad()
    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends k and v, each (B, K, T, D), and returns (keys, values) so far, each (B, K, length, D), as views.

        Raises ValueError, with the cache unchanged, for more tokens than fit and for another shape or dtype.
        """
        batch, heads, max_len, width = self._keys.shape
        for new in (k, v):
            if (*new.shape[:2], *new.shape[3:]) != (batch, heads, width) or new.shape != k.shape:
                raise ValueError(f"{tuple(k.shape)} and {tuple(v.shape)}, expected ({batch}, {heads}, T, {width})")
            if new.dtype != self._keys.dtype:
                raise ValueError(f"{new.dtype} does not go into a cache of {self._keys.dtype}")
        end = self.length + k.shape[2]
        if end > max_len:
            raise ValueError(f"{end} tokens do not fit into a cache of {max_len}")
        self._keys[:, :, self.length : end] = k
        self._values[:, :, self.length : end] = v
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def reset(self) -> None:
        """Forgets all tokens; the buffers stay."""
        self.length = 0


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
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    queries = x.shape[1]
    q = _split(x @ w_q, n_heads)  # (B, H, T, D)
    k, v = cache.update(_split(x @ w_k, n_kv_heads), _split(x @ w_v, n_kv_heads))  # (B, K, S, D)
    q = q.unflatten(1, (n_kv_heads, -1)).flatten(2, 3)  # (B, K, G*T, D)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).unflatten(2, (-1, queries))  # (B, K, G, T, S)
    i = torch.arange(queries, device=x.device)[:, None]
    j = torch.arange(k.shape[2], device=x.device)[None, :]
    scores = scores.masked_fill(j > i + k.shape[2] - queries, -math.inf)
    heads = scores.softmax(-1).flatten(2, 3) @ v  # (B, K, G*T, D)
    heads = heads.unflatten(2, (-1, queries)).flatten(1, 2)  # (B, H, T, D)
    return heads.transpose(1, 2).flatten(2) @ w_o  # (B, T, C)


def generate(
    step: Callable[[torch.Tensor], torch.Tensor], prompt: torch.Tensor, max_new_tokens: int, *, eos: int | None = None
) -> torch.Tensor:
    """Greedy decoding: argmax of the last position's logits, appended until every row has ended.

    step(tokens (B, T)) -> logits (B, T, V) keeps its own cache: it is given the prompt once, then one token a row.
    prompt (B, P) int64. A row that has produced eos is filled with it. Returns (B, P + n), n <= max_new_tokens, after n
    calls of step.
    """
    tokens = [prompt]
    done = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    while len(tokens) <= max_new_tokens and not done.all():
        new = step(tokens[-1])[:, -1].argmax(-1)  # (B,)
        if eos is not None:
            new = new.masked_fill(done, eos)
            done = done | (new == eos)
        tokens.append(new[:, None])
    return torch.cat(tokens, dim=1)


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
        self._keys = torch.zeros(batch, n_kv_heads, window, head_dim, dtype=dtype, device=device)
        self._values = torch.zeros_like(self._keys)
        self._window, self._seen = window, 0

    @torch.no_grad()
    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes one token's k and v, each (B, K, 1, D); returns the last min(length, window), oldest first."""
        slot = self._seen % self._window
        self._keys[:, :, slot] = k[:, :, 0]
        self._values[:, :, slot] = v[:, :, 0]
        self._seen += 1
        if self._seen <= self._window:
            return self._keys[:, :, : self._seen], self._values[:, :, : self._seen]
        oldest = slot + 1
        return self._keys.roll(-oldest, dims=2), self._values.roll(-oldest, dims=2)


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, heads * D) -> (B, heads, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
