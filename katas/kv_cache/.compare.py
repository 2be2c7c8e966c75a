"""What is compared of the KV cache kata."""

import numpy as np

from graders.checks import Scenario
from graders.compare import Picture, Probe
from graders.compare.drawing import both, panels, shade
from graders.kernels import kv_cache as kernels

B, K, H, D, C = 1, 2, 4, 16, 48
HEADS = {"n_heads": H, "n_kv_heads": K}
BEFORE = (64, 256, 1_024, 4_096)  # tokens in the cache
WINDOW = 64
WEIGHTS = {"w_q": (C, H * D), "w_k": (C, K * D), "w_v": (C, K * D), "w_o": (H * D, C)}
LENGTHS = (1, 16, 32, 64, 128, 192, 256, 384, 512)  # tokens, in the picture of memory
SEEN = 14  # tokens, in the picture of weights
PIECES = {"one by one": (1,) * SEEN, "a prompt of six, then one by one": (6, *(1,) * (SEEN - 6)), "in fives": (5, 5, 4)}


def pair(rng, n):
    """The tokens that are there and one more."""
    return {name: rng.normal(size=(B, K, T, D)) for name, T in (("k", n), ("v", n), ("k1", 1), ("v1", 1))}


def ring(m, make, fill, add):
    """A call that adds one token to what holds them, and begins anew, filled again, whenever that is full."""
    kept = [fill(make())]

    def call():
        try:
            return add(kept[0])
        except ValueError:
            kept[0] = fill(make())
            return add(kept[0])

    del m
    return call


def cache_of(m, size):
    m.step(f"KVCache({B}, {K}, {size}, {D})")
    return m.KVCache(B, K, size, D, dtype=m.dtype, device=m.device)


def filled(m, cache, k, v):
    cache.update(m.to(k), m.to(v))
    return cache


def update(rng, n):
    def play(m, k, v, k1, v1):
        if m.framework == "torch":
            keys, values = filled(m, cache_of(m, n + 1), k, v).update(m.to(k1), m.to(v1))
            return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}
        cache = m.init_cache(B, K, n + 1, D, m.dtype)
        cache = m.update_cache(m.update_cache(cache, m.to(k), m.to(v)), m.to(k1), m.to(v1))
        found = [x for x in leaves(cache) if getattr(x, "ndim", 0) == 4]
        m.check(len(found) == 2, "the cache does not hold two arrays of four axes")
        return {"keys": m.array(found[0], "keys"), "values": m.array(found[1], "values")}

    def kernel(k, v, k1, v1):
        return {"keys": np.concatenate([k, k1], axis=2), "values": np.concatenate([v, v1], axis=2)}

    return Scenario("update", pair(rng, n), play, kernel)


def leaves(tree):
    import jax

    return jax.tree.leaves(tree)


def ready_update(m, k, v, k1, v1):
    k1, v1, n = m.to(k1), m.to(v1), k.shape[2]
    if m.framework == "torch":
        return ring(m, lambda: cache_of(m, 2 * n), lambda c: filled(m, c, k, v), lambda c: c.update(k1, v1))
    cache = m.update_cache(m.init_cache(B, K, n + 1, D, m.dtype), m.to(k), m.to(v))
    step = m.compiled(m.update_cache)
    return lambda: step(cache, k1, v1)


def tokens(rng, n):
    arrays = {"x": rng.normal(size=(B, n, C))}
    return arrays | {name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in WEIGHTS.items()}


def attend(m, x, weights, pieces, heads):
    """The new tokens' outputs, piece by piece, and the state that is left."""
    n = x.shape[1]
    native, out, start = [m.to(w) for w in weights], [], 0
    cache = cache_of(m, n) if m.framework == "torch" else m.init_cache(
        x.shape[0], heads.get("n_kv_heads") or heads["n_heads"], n, weights[1].shape[1] // heads["n_kv_heads"], m.dtype
    )  # fmt: skip
    call = m.compiled(m.cached_attention, **heads)
    for size in pieces:
        m.step(f"cached_attention of {size} tokens after {start}")
        found = call(m.to(x[:, start : start + size]), *native, cache)
        if m.framework == "jax":
            found, cache = found
        out.append(m.array(found.detach() if m.framework == "torch" else found, "out"))
        start += size
    return np.concatenate(out, axis=1)


def one_more(rng, n):
    """n tokens at once, then one."""

    def play(m, x, **weights):
        return {"out": attend(m, x, list(weights.values()), (n, 1), HEADS)[:, -1:]}

    def kernel(x, **weights):
        return {"out": kernels.full_attention(x, *weights.values(), **HEADS)[:, -1:]}

    return Scenario("cached_attention", tokens(rng, n + 1), play, kernel)


def ready_one_more(m, x, **weights):
    n, native = x.shape[1] - 1, [m.to(w) for w in weights.values()]
    first, last = m.to(x[:, :-1]), m.to(x[:, -1:])
    if m.framework == "torch":
        import torch

        def add(cache):
            with torch.no_grad():
                return m.cached_attention(last, *native, cache, **HEADS)

        def fill(cache):
            rng = np.random.default_rng(n)
            return filled(m, cache, rng.normal(size=(B, K, n, D)), rng.normal(size=(B, K, n, D)))

        return ring(m, lambda: cache_of(m, n + 64), fill, add)
    call = m.compiled(m.cached_attention, **HEADS)
    _, cache = call(first, *native, m.init_cache(B, K, n + 1, D, m.dtype))
    return lambda: call(last, *native, cache)


def prefill(rng, n):
    def play(m, x, **weights):
        return {"out": attend(m, x, list(weights.values()), (n,), HEADS)}

    def kernel(x, **weights):
        return {"out": kernels.full_attention(x, *weights.values(), **HEADS)}

    return Scenario("cached_attention", tokens(rng, n), play, kernel)


def ready_prefill(m, x, **weights):
    n, native, x = x.shape[1], [m.to(w) for w in weights.values()], m.to(x)
    if m.framework == "torch":
        import torch

        cache = cache_of(m, n)

        def whole():
            cache.reset()
            with torch.no_grad():
                return m.cached_attention(x, *native, cache, **HEADS)

        return whole
    empty, call = m.init_cache(B, K, n, D, m.dtype), m.compiled(m.cached_attention, **HEADS)
    return lambda: call(x, *native, empty)


def window(m):
    m.step(f"SlidingWindowCache({B}, {K}, {WINDOW}, {D})")
    return m.SlidingWindowCache(B, K, WINDOW, D, dtype=m.dtype, device=m.device)


def sliding(rng, n):
    def play(m, k, v, k1, v1):
        cache = window(m)
        for t in range(n):
            cache.update(m.to(k[:, :, t : t + 1]), m.to(v[:, :, t : t + 1]))
        keys, values = cache.update(m.to(k1), m.to(v1))
        return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}

    def kernel(k, v, k1, v1):
        joined = {"keys": (k, k1), "values": (v, v1)}
        return {name: np.concatenate(parts, axis=2)[:, :, -WINDOW:] for name, parts in joined.items()}

    return Scenario("SlidingWindowCache", pair(rng, n), play, kernel)


def ready_sliding(m, k, v, k1, v1):
    cache, k1, v1 = window(m), m.to(k1), m.to(v1)
    for t in range(k.shape[2]):
        cache.update(m.to(k[:, :, t : t + 1]), m.to(v[:, :, t : t + 1]))
    return lambda: cache.update(k1, v1)


def looks():
    """x, and for each of three heads weights such that the result of attention is its weights.

    A token is a place on a few waves, then a one in its own entry, which is what the values are.
    """
    place = np.arange(SEEN)

    def waves(at, periods):
        angles = 2 * np.pi * at[:, None] / np.asarray(periods)
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)

    width = 8
    x = np.concatenate([waves(place, (2.5, 5, 11, 23)), np.eye(SEEN)], axis=1)
    turn = np.zeros((width, width))
    for i, period in enumerate((2.5, 5, 11, 23)):
        c, s = np.cos(2 * np.pi / period), np.sin(2 * np.pi / period)
        turn[np.ix_([i, i + 4], [i, i + 4])] = [[c, -s], [s, c]]
    found = {}
    for name, (scale, matrix) in {"itself": (4.0, np.eye(width)), "one back": (4.0, turn), "all": (0.0, turn)}.items():
        w_q, w_k, w_v = (np.zeros((width + SEEN, SEEN)) for _ in range(3))
        w_q[:width, :width], w_k[:width, :width] = scale * matrix, np.eye(width)
        w_v[width:] = np.eye(SEEN)
        found[name] = [w_q, w_k, w_v, np.concatenate([np.zeros((SEEN, width)), np.eye(SEEN)], axis=1)]
    return x[None], found


def take_weights(m, rng):
    x, heads = looks()
    found = {}
    for title, pieces in PIECES.items():
        for head, weights in heads.items():
            found[f"{title}, {head}"] = one_head(m, x, weights, pieces)[0, :, -SEEN:]
    return found


def one_head(m, x, weights, pieces):
    native, out, start = [m.to(w) for w in weights], [], 0
    if m.framework == "torch":
        m.step(f"KVCache(1, 1, {SEEN}, {SEEN})")
        cache = m.KVCache(1, 1, SEEN, SEEN, dtype=m.dtype, device=m.device)
    else:
        cache = m.init_cache(1, 1, SEEN, SEEN, m.dtype)
    for size in pieces:
        m.step(f"cached_attention of {size} tokens after {start}")
        found = m.cached_attention(m.to(x[:, start : start + size]), *native, cache, n_heads=1)
        if m.framework == "jax":
            found, cache = found
        out.append(m.array(found.detach() if m.framework == "torch" else found, "out"))
        start += size
    return np.concatenate(out, axis=1)


def draw_weights(figure, yours, reference):
    heads = ("itself", "one back", "all")
    axes = panels(figure, len(PIECES), 2 * len(heads))
    for (title, pieces), line in zip(PIECES.items(), axes, strict=True):
        line[0].set_ylabel(title.replace(", ", ",\n"))
        for i, (side, head) in enumerate((side, head) for side in ("yours", "reference") for head in heads):
            data = yours if side == "yours" else reference
            if title == "one by one":
                line[i].set_title(f"{side}: {head}")
            if data is not None:
                shade(line[i], data[f"{title}, {head}"], side)
                for at in np.cumsum(pieces)[:-1]:
                    line[i].axhline(at, color="#030303", linewidth=0.5, zorder=0)


def take_memory(m, rng):
    """The bytes that are held at most while so many tokens come one by one, the cache's own buffers among them."""
    one = rng.normal(size=(B, K, 1, D))
    found = {}
    for title, make in {"KVCache": lambda: cache_of(m, LENGTHS[-1]), "SlidingWindowCache": lambda: window(m)}.items():
        held = []
        for length in LENGTHS:
            k, v = m.to(one), m.to(one)

            def run(make=make, k=k, v=v, length=length):
                cache = make()
                for _ in range(length):
                    cache.update(k, v)

            held.append(m.cost(run).peak)
        found[title] = np.array(held)
    return found


def draw_memory(figure, yours, reference):
    axes = figure.subplots(1, 2, sharey=True)
    for ax, title in zip(axes, ("KVCache", "SlidingWindowCache"), strict=True):
        both(ax, LENGTHS, *(data[title] / 1024 if data else None for data in (yours, reference)))
        ax.set(title=title, xlabel="tokens", ylim=(0, None))
    axes[0].set_ylabel("KiB held at most")


PROBES = (
    Probe("update", "tokens before", BEFORE, update, ready_update),
    Probe("cached_attention, one token", "tokens before", BEFORE, one_more, ready_one_more, accurate=BEFORE[:3]),
    Probe("cached_attention, prefill", "T", (64, 128, 256, 512), prefill, ready_prefill),
    Probe("SlidingWindowCache", "tokens before", (16, 64, 256), sliding, ready_sliding, only=("torch",)),
)
PICTURES = (
    Picture(
        "What each new token looks at",
        "Row i is where token i looks, whatever pieces the text comes in; lines separate the pieces. The heads are "
        "made to look at the token itself, at the one before, and at all alike.",
        "Triangles of attention weights, the same for three ways to cut fourteen tokens, of both sides.",
        take_weights,
        draw_weights,
        size=(9.6, 5.4),
        seconds=20.0,
    ),
    Picture(
        "Memory by tokens",
        f"A cache with room for {LENGTHS[-1]} tokens and a window of {WINDOW}, filled one token at a time: all that is "
        "held at the most, the buffers and what is made on the way. What is allocated once is flat.",
        "Bytes held by the cache and by the sliding window as tokens come, of both sides.",
        take_memory,
        draw_memory,
        size=(9.4, 2.9),
        seconds=20.0,
        only=("torch",),
    ),
)
