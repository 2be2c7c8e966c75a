"""A key/value cache: buffers allocated once, attention that reads them, greedy generation, a sliding window.

Axes: B batch, H query heads, K key/value heads, T new tokens, S all tokens so far, D head width, C model width, V vocabulary.

Choices. `update` checks everything before it writes anything, so that an error leaves the cache as it was. It returns
views, and whoever wants to keep them over the next `reset` has to copy. The sliding window is a ring: slot i mod window
is overwritten, and what is returned is put in order, which copies the window but nothing that grows.

Follow-up questions

How large is the cache? 2 B K S D numbers a layer. Llama 2 7B (32 layers, 32 heads of 128, float16) takes 0.5 MB a token: 2
GB at 4096 tokens, for one sequence. With 8 key/value heads instead of 32 it would be a quarter of that.

Why is decoding bound by memory and not by arithmetic? Each new token reads all weights and the whole cache, and does two
operations for each number read; a GPU does hundreds in the time of one read. Batching shares the weights' reads, not
the cache's: hence grouped heads, quantised caches and windows.

Why not concatenate at each step? It copies the prefix every time, O(S^2) in all, and needs old and new at once. One
buffer wastes what is not used; paged attention (vLLM) gives it out in blocks instead.

What goes wrong with ragged prompts? With padding on the right the new token of a short row is not next to its last
one; with padding on the left positions and mask have to know where each row begins.

Is a sliding window equal to full attention? No: what leaves the window is gone for that layer, though the layers above
reach further, a window for each. The first tokens are often kept as well ("attention sinks").
"""

import math
from collections.abc import Callable

import torch


class KVCache:
    """Keys and values of all tokens so far, in buffers (B, K, max_len, D) allocated once (Pope et al. 2022, section 2.1)."""

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
        for name, new in (("k", k), ("v", v)):
            if new.shape != (batch, heads, k.shape[2], width):
                raise ValueError(f"{name} has shape {tuple(new.shape)}, expected ({batch}, {heads}, T, {width})")
            if new.dtype != self._keys.dtype:
                raise ValueError(f"{name} is {new.dtype}, the cache {self._keys.dtype}")
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

    x (B, T, C): the new tokens alone; w_q (C, H*D), w_k and w_v (C, K*D), w_o (H*D, C). n_heads is H, n_kv_heads is K
    (None: H). Appends the new keys and values to the cache. Returns (B, T, C): the last T positions of causal
    attention over all tokens.
    """
    n_kv_heads = n_heads if n_kv_heads is None else n_kv_heads
    q = _split(x @ w_q, n_heads)  # (B, H, T, D)
    k, v = cache.update(_split(x @ w_k, n_kv_heads), _split(x @ w_v, n_kv_heads))  # (B, K, S, D)
    k, v = (y.repeat_interleave(n_heads // n_kv_heads, dim=1) for y in (k, v))  # (B, H, S, D)
    queries, keys = q.shape[2], k.shape[2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, S)
    i = torch.arange(queries, device=x.device)[:, None]
    j = torch.arange(keys, device=x.device)[None, :]
    scores = scores.masked_fill(j > i + keys - queries, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ w_o


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
    new = prompt
    for _ in range(max_new_tokens):
        new = step(new)[:, -1].argmax(-1, keepdim=True)  # (B, 1)
        if eos is not None:
            new = new.masked_fill(done[:, None], eos)
            done = done | (new[:, 0] == eos)
        tokens.append(new)
        if done.all():
            break
    return torch.cat(tokens, dim=1)


class SlidingWindowCache:
    """Keys and values of the last `window` tokens, in a ring (Beltagy et al. 2020, section 3.1; Jiang et al. 2023)."""

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
        self._window = window
        self.length = 0

    @torch.no_grad()
    def update(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes one token's k and v, each (B, K, 1, D); returns the last min(length, window), oldest first."""
        slot = self.length % self._window
        self._keys[:, :, slot] = k[:, :, 0]
        self._values[:, :, slot] = v[:, :, 0]
        self.length += 1
        if self.length <= self._window:
            return self._keys[:, :, : self.length], self._values[:, :, : self.length]
        return self._keys.roll(-slot - 1, dims=2), self._values.roll(-slot - 1, dims=2)


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, T, heads * D) -> (B, heads, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
