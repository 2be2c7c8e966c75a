"""The hidden grader of the KV cache kata."""

import numpy as np
from hypothesis import strategies as st

from graders import level
from graders.checks import (
    Dims,
    Scenario,
    check_from_scratch,
    check_parity,
    check_play,
    check_values,
    for_all,
)
from graders.kernels import kv_cache as kernels

AXES = Dims(B=2, K=3, L=9, D=5)
MODEL = Dims(B=2, T=6, C=7, D=5, H=4, K=3)
HEADS = {"n_heads": 4, "n_kv_heads": 2}
CHUNKS = ((6,), (1, 1, 1, 1, 1, 1), (4, 1, 1), (2, 3, 1))
VOCABULARY = 11
EOS = 4


def nothing(**arrays):
    return {}


def tokens(rng, lengths=(2, 1, 3)):
    """Keys and values of several updates: k0, v0, k1, ..."""
    B, K, D = (AXES.sizes[axis] for axis in "BKD")
    return {f"{name}{i}": rng.normal(size=(B, K, T, D)) for i, T in enumerate(lengths) for name in "kv"}


def made(m, name="KVCache", size=AXES.sizes["L"]):
    B, K, D = (AXES.sizes[axis] for axis in "BKD")
    m.step(f"{name}({B}, {K}, {size}, {D})")
    return getattr(m, name)(B, K, size, D, dtype=m.dtype, device=m.device)


def append(m, cache, arrays, i, before):
    """One update; what it returned."""
    k, v = m.to(arrays[f"k{i}"], "k"), m.to(arrays[f"v{i}"], "v")
    m.step(f"update with {k.shape[2]} tokens after {before}")
    out = cache.update(k, v)
    m.check(isinstance(out, tuple | list) and len(out) == 2, "update should return (keys, values)")
    return out


def cache_scenario(rng, play, kernel=nothing, lengths=(2, 1, 3), name="KVCache"):
    return Scenario(name, tokens(rng, lengths), play, kernel)


def joined(arrays, name, upto):
    return np.concatenate([arrays[f"{name}{i}"] for i in range(upto + 1)], axis=2)


@level(1, only=("torch",))
def test_cache_values(attempt, rng):
    """update appends and returns all keys and values so far, (B, K, length, D), in the cache's dtype"""

    def play(m, **arrays):
        cache, found, before = made(m), {}, 0
        m.check(cache.length == 0, f"a new cache has length {cache.length}")
        for i in range(len(arrays) // 2):
            keys, values = append(m, cache, arrays, i, before)
            before += arrays[f"k{i}"].shape[2]
            m.check(cache.length == before, f"length is {cache.length} after {before} tokens")
            shape = (AXES.sizes["B"], AXES.sizes["K"], before, AXES.sizes["D"])
            found[f"keys after update {i + 1}"] = m.array(keys, "keys", shape=shape)
            found[f"values after update {i + 1}"] = m.array(values, "values", shape=shape)
        return found

    def kernel(**arrays):
        found = {}
        for i in range(len(arrays) // 2):
            found[f"keys after update {i + 1}"] = joined(arrays, "k", i)
            found[f"values after update {i + 1}"] = joined(arrays, "v", i)
        return found

    check_values(attempt, cache_scenario(rng, play, kernel), dtypes=attempt.backend.dtypes)
    check_values(attempt, cache_scenario(rng, play, kernel, (9,)), dtypes=("float32",))


@level(1, only=("torch",))
def test_cache_defaults(attempt, rng):
    """dtype float32 and the CPU, if they are left out"""

    def play(m, k0, v0):
        keys, _ = m.KVCache(*AXES["B K L D"]).update(m.to(k0), m.to(v0))
        m.array(keys, "keys")
        return {}

    scenario = cache_scenario(rng, play, lengths=(2,)).cast("float32")
    check_values(attempt.on("cpu"), scenario, dtypes=("float32",))


@level(1, only=("torch",))
def test_cache_storage(attempt, rng):
    """the results are views of buffers allocated once: the same storage at every call"""

    def play(m, **arrays):
        cache = made(m)
        results = [append(m, cache, arrays, i, (0, 2, 3)[i]) for i in range(3)]
        cache.reset()
        results.append(append(m, cache, arrays, 0, 0))
        for i, (keys, values) in enumerate(results[1:], 2):
            for name, first, now in (("keys", results[0][0], keys), ("values", results[0][1], values)):
                same = m.backend.shares_storage(first, now)
                m.check(same, f"the {name} of update {i} are in other storage than those of update 1")
        m.check(not m.backend.shares_storage(*results[0]), "keys and values are in the same storage")
        return {}

    check_play(attempt, cache_scenario(rng, play))


@level(1, only=("torch",))
def test_cache_cost(attempt, rng):
    """an update copies the new tokens, not the prefix"""

    def play(m, k0, v0):
        B, K, _, D = k0.shape
        cache = m.KVCache(B, K, 600, D, dtype=m.dtype, device=m.device)
        long = [m.to(np.repeat(x, 250, axis=2)) for x in (k0, v0)]
        cache.update(*long)
        k, v = m.to(k0), m.to(v0)
        m.step("update with 2 tokens after 500")
        held = m.cost(lambda: cache.update(k, v)).peak
        new, prefix = k0.nbytes, long[0].shape[2] * k0.nbytes // 2
        m.check(held <= 8 * new, f"the update allocates {held} bytes; the new tokens take {new}, the prefix {prefix}")
        return {}

    check_play(attempt, cache_scenario(rng, play, lengths=(2,)))


@level(1, only=("torch",))
def test_cache_given(attempt, rng):
    """the caller's k and v are copied in: changing them later does not change the cache"""

    def play(m, k0, v0, k1, v1):
        cache = made(m)
        k, v = m.to(k0), m.to(v0)
        cache.update(k, v)
        k.zero_()
        v.zero_()
        m.step("update, after the caller has overwritten the k and v given before")
        keys, values = cache.update(m.to(k1), m.to(v1))
        return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}

    def kernel(**arrays):
        return {"keys": joined(arrays, "k", 1), "values": joined(arrays, "v", 1)}

    check_values(attempt, cache_scenario(rng, play, kernel, (2, 1)))


@level(1, only=("torch",))
def test_cache_reset(attempt, rng):
    """after reset the cache is empty"""

    def play(m, k0, v0, k1, v1):
        cache = made(m)
        append(m, cache, {"k0": k0, "v0": v0}, 0, 0)
        m.step("reset")
        cache.reset()
        m.check(cache.length == 0, f"after reset the length is {cache.length}")
        keys, values = append(m, cache, {"k1": k1, "v1": v1}, 1, 0)
        return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}

    check_values(
        attempt,
        cache_scenario(rng, play, lambda k0, v0, k1, v1: {"keys": k1, "values": v1}, (3, 2)),
    )


def misfits(m, k, v):
    """What does not fit into a cache of 9 with 6 tokens in it, and why."""
    wide = "float64" if m.dtype_name != "float64" else "float32"
    other = m.backend.dtype_named(wide)

    def to(x):
        return m.to(np.ascontiguousarray(x))

    return (
        ((to(np.repeat(k, 2, axis=2)), to(np.repeat(v, 2, axis=2))), "4 tokens after 6 into a cache of 9"),
        ((to(k[:1]), to(v[:1])), "a batch of 1 into a cache of 2"),
        ((to(k[:, :1]), to(v[:, :1])), "1 head into a cache of 3"),
        ((to(k[..., :1]), to(v[..., :1])), "a width of 1 into a cache of 5"),
        ((to(k[:, :, :1]), to(v)), "1 key and 2 values"),
        ((to(k).to(other), to(v).to(other)), f"{wide} into a cache of {m.dtype_name}"),
    )


@level(1, only=("torch",))
def test_cache_errors(attempt, rng):
    """too many tokens, another shape or another dtype: ValueError, and the cache is as it was"""

    def play(m, k0, v0, k1, v1, k2, v2):
        cache = made(m)
        cache.update(m.to(k0), m.to(v0))
        for (k, v), why in misfits(m, k1, v1):
            m.step(f"update with {why}")
            m.raises(ValueError, lambda k=k, v=v: cache.update(k, v), why)
            m.check(cache.length == k0.shape[2], f"after the error the length is {cache.length}, it was {k0.shape[2]}")
        m.step("update after the errors")
        keys, values = cache.update(m.to(k2), m.to(v2))
        return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}

    def kernel(k0, v0, k2, v2, **arrays):
        return {"keys": np.concatenate([k0, k2], 2), "values": np.concatenate([v0, v2], 2)}

    check_values(attempt, cache_scenario(rng, play, kernel, (6, 2, 3)))


@level(1, only=("torch",))
def test_cache_parity(attempt, rng, places):
    """the cache lives on the device that was asked for"""

    def play(m, **arrays):
        cache = made(m)
        append(m, cache, arrays, 0, 0)
        keys, values = append(m, cache, arrays, 1, 2)
        return {"keys": m.array(keys, "keys"), "values": m.array(values, "values")}

    def kernel(**arrays):
        return {"keys": joined(arrays, "k", 1), "values": joined(arrays, "v", 1)}

    check_parity(attempt, cache_scenario(rng, play, kernel, (2, 1)), places)


def jax_updates(m, arrays, count):
    """A JAX cache after some updates, and its numbers."""
    import jax

    B, K, D = (AXES.sizes[axis] for axis in "BKD")
    m.step(f"init_cache({B}, {K}, {AXES.sizes['L']}, {D}, {m.dtype_name})")
    cache = m.init_cache(B, K, AXES.sizes["L"], D, m.dtype)
    update = m.compiled(m.update_cache)
    for i in range(count):
        m.step(f"update_cache, update {i + 1}")
        cache = update(cache, m.to(arrays[f"k{i}"]), m.to(arrays[f"v{i}"]))
    leaves = [np.asarray(leaf).astype(np.float64).ravel() for leaf in jax.tree.leaves(cache)]
    return cache, np.concatenate(leaves) if leaves else np.zeros(0)


@level(1, only=("jax",))
def test_cache_holds(attempt, rng):
    """update_cache gives a cache that holds every key and value so far, of one size whatever is in it"""

    def play(m, **arrays):
        sizes = set()
        for count in (0, 1, 3):
            _, numbers = jax_updates(m, arrays, count)
            sizes.add(numbers.size)
            for i in range(count):
                for name in (f"k{i}", f"v{i}"):
                    held = np.isin(arrays[name].astype(m.dtype_name).astype(np.float64), numbers)
                    m.check(held.all(), f"after {count} updates the cache lacks {int((~held).sum())} numbers of {name}")
        m.check(len(sizes) == 1, f"the cache changes its size with what is in it: {sorted(sizes)} numbers")
        return {}

    for dtype in ("float32", "bfloat16"):
        check_values(attempt, cache_scenario(rng, play), dtypes=(dtype,))


@level(1, only=("jax",))
def test_cache_pure(attempt, rng):
    """update_cache leaves the cache it was given alone, and its structure and dtypes stay"""

    def play(m, **arrays):
        import jax

        cache, before = jax_updates(m, arrays, 1)
        new = m.update_cache(cache, m.to(arrays["k1"]), m.to(arrays["v1"]))
        now = np.concatenate([np.asarray(x).astype(np.float64).ravel() for x in jax.tree.leaves(cache)])
        m.check(np.array_equal(before, now), "update_cache changed the cache it was given")
        kinds = [[(x.shape, str(x.dtype)) for x in map(jax.numpy.asarray, jax.tree.leaves(c))] for c in (cache, new)]
        m.check(kinds[0] == kinds[1], f"the cache's leaves were {kinds[0]} and are {kinds[1]}")
        return {}

    check_play(attempt, cache_scenario(rng, play))


@level(1, only=("jax",))
def test_cache_jit(attempt, rng):
    """update_cache runs under jit"""
    scenario = cache_scenario(rng, lambda m, **arrays: {"numbers": np.sort(jax_updates(m, arrays, 3)[1])})
    home = scenario.cast("float32").run(attempt.directly)["numbers"]
    right = Scenario("update_cache", scenario.arrays, scenario.play, lambda **arrays: {"numbers": home})
    check_parity(attempt.directly, right, ("jit",))


def weights(rng, kv=2, C=MODEL.sizes["C"]):
    H, D = MODEL.sizes["H"], MODEL.sizes["D"]
    shapes = {"w_q": (C, H * D), "w_k": (C, kv * D), "w_v": (C, kv * D), "w_o": (H * D, C)}
    return {name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}


def attention_play(chunks, options, max_len=8):
    """Runs all tokens through cached_attention in these chunks."""

    def play(m, x, **w):
        B, kv, D = len(x), options.get("n_kv_heads") or options["n_heads"], MODEL.sizes["D"]
        given = [m.to(w[name], name) for name in ("w_q", "w_k", "w_v", "w_o")]
        if m.framework == "jax":
            cache = m.init_cache(B, kv, max_len, D, m.dtype)
        else:
            cache = m.KVCache(B, kv, max_len, D, dtype=m.dtype, device=m.device)
        attend, parts, start = m.compiled(m.cached_attention, **options), [], 0
        for T in chunks:
            m.step(f"cached_attention on {T} new tokens after {start}, in chunks {chunks}")
            out = attend(m.to(np.ascontiguousarray(x[:, start : start + T]), "x"), *given, cache)
            if m.framework == "jax":
                m.check(isinstance(out, tuple) and len(out) == 2, "cached_attention should return (out, cache)")
                out, cache = out
            parts.append(m.array(out.detach() if m.framework == "torch" else out, "out", shape=(B, T, x.shape[2])))
            start += T
        return {"out": np.concatenate(parts, axis=1)}

    return play


def attention_scenario(rng, chunks=(4, 1, 1), options=HEADS):
    """The tokens go in by chunks; the answer is attention over all at once."""
    kv = options.get("n_kv_heads") or options["n_heads"]
    arrays = {"x": rng.normal(size=MODEL["B T C"]), **weights(rng, kv)}
    kernel = lambda x, **w: {"out": kernels.full_attention(x, **w, **options)}  # noqa: E731
    return Scenario("cached_attention", arrays, attention_play(chunks, options), kernel)


@level(2)
def test_prefill(attempt, rng):
    """all tokens at once: causal attention, query head h reading key/value head h // (H // K)"""
    check_values(attempt, attention_scenario(rng, (6,)), dtypes=attempt.backend.dtypes)
    check_values(attempt, attention_scenario(rng, (6,), {"n_heads": 4}))


@level(2)
def test_single_steps(attempt, rng):
    """token by token it equals attention over all of them"""
    check_values(attempt, attention_scenario(rng, (1, 1, 1, 1, 1, 1)))
    check_values(attempt, attention_scenario(rng, (3, 1, 1, 1)))


@level(2)
def test_chunks(attempt, rng, seed):
    """in chunks of any sizes too: query i of a chunk sees what came before and the keys j <= i of its own"""
    base = attention_scenario(rng)

    def judge(chunks):
        case = Scenario(base.name, base.arrays, attention_play(chunks, HEADS), base.kernel)
        check_values(attempt, case, dtypes=("float32",))

    check_values(attempt, attention_scenario(rng, (2, 3, 1)))
    lengths = st.lists(st.integers(1, 3), min_size=2, max_size=4).filter(lambda c: sum(c) <= 6)
    for_all(attempt, lengths.map(lambda c: (*c, 6 - sum(c)) if sum(c) < 6 else tuple(c)), judge, seed=seed)


@level(2, only=("torch",))
def test_attention_cost(attempt, rng):
    """projections are paid for the new tokens only, however many came before"""

    def play(m, x, **w):
        counted = []
        given = [m.to(w[name]) for name in ("w_q", "w_k", "w_v", "w_o")]
        for before in (8, 64):
            cache = m.KVCache(1, 2, 80, 5, dtype=m.dtype, device=m.device)
            m.cached_attention(m.to(np.ascontiguousarray(x[:, :before])), *given, cache, **HEADS)
            new = m.to(np.ascontiguousarray(x[:, before : before + 1]))
            m.step(f"cached_attention on 1 new token after {before}")
            counted.append(
                m.cost(lambda new=new, cache=cache: m.cached_attention(new, *given, cache, **HEADS)).flops
            )
        growth = (counted[1] - counted[0]) / 56
        attention, projection = 2 * 2 * 4 * 5, 2 * 2 * x.shape[2] * 2 * 5  # FLOPs a token in the cache
        m.check(
            growth < (attention * projection) ** 0.5,
            f"each token in the cache costs {growth:.0f} FLOPs a step, expected {attention}: "
            "are keys and values of earlier tokens projected again?",
        )
        return {}

    arrays = {"x": rng.normal(size=(1, 80, 64)), **weights(rng, C=64)}
    check_play(attempt, Scenario("cached_attention", arrays, play, nothing))


@level(2)
def test_attention_parity(attempt, rng, places):
    """it gives the same in every place"""
    check_parity(attempt, attention_scenario(rng, (4, 1, 1)), places)


@level(2, only=("jax",))
def test_traces_once(attempt, rng):
    """ten single steps under jit are traced once"""

    def play(m, x, **w):
        import jax

        given = [m.to(w[name]) for name in ("w_q", "w_k", "w_v", "w_o")]
        traced = []

        def step(x, cache):
            traced.append(1)
            return m.cached_attention(x, *given, cache, **HEADS)

        cache, compiled = m.init_cache(len(x), 2, 12, MODEL.sizes["D"], m.dtype), jax.jit(step)
        for i in range(10):
            m.step(f"single step {i + 1} under jit")
            _, cache = compiled(m.to(np.ascontiguousarray(x[:, i % 6 : i % 6 + 1])), cache)
        m.check(len(traced) == 1, f"ten single steps are traced {len(traced)} times: does a shape or a type change?")
        return {}

    check_play(attempt, Scenario("cached_attention", attention_scenario(rng).arrays, play, nothing))


@level(2)
def test_attention_from_scratch(attempt, rng):
    """attention is made from its parts"""
    check_from_scratch(attempt, attention_scenario(rng, (4, 1)))


def table_model(table):
    """A language model: logits that depend on the last two tokens and on how many there are."""

    def logits(history):
        last, before = history[-1], history[-2] if len(history) > 1 else 0
        return table[(3 * last + 5 * before + len(history)) % len(table)]

    return logits


class Step:
    """A step with a cache of its own: it remembers what it was given, and gives every position logits."""

    def __init__(self, m, table):
        self.m, self.model = m, table_model(table)
        self.history, self.given = None, []

    def __call__(self, tokens):
        m = self.m
        new = m.array(tokens, "the tokens given to step", dtype="int64")
        m.check(new.ndim == 2, f"step was given tokens of shape {new.shape}, expected (B, T)")
        self.given.append(new)
        seen = new if self.history is None else np.concatenate([self.history, new], axis=1)
        self.history = seen
        start = seen.shape[1] - new.shape[1]
        rows = [[self.model(row[: t + 1]) for t in range(start, len(row))] for row in seen]
        return m.to(np.array(rows))


def generation(rng, rows=3, prompt=4, new=9, eos=None):
    """generate against decoding without a cache, and the calls of step counted."""
    table = rng.permuted(np.tile(np.arange(VOCABULARY, dtype=float), (17, 1)), axis=1)
    start = rng.integers(0, VOCABULARY, size=(rows, prompt))
    if eos is not None:
        start[start == eos] = eos + 1

    def play(m, table, start):
        step = Step(m, table)
        m.step(f"generate {new} tokens from a prompt of {prompt}, eos={eos}")
        out = m.generate(step, m.to(start, "prompt"), new, eos=eos)
        found = m.array(out, "the tokens", dtype="int64")
        m.check(
            found.ndim == 2 and len(found) == rows and prompt <= found.shape[1] <= prompt + new,
            f"the tokens have shape {found.shape}, expected ({rows}, {prompt} + n) with n <= {new}",
        )
        calls = found.shape[1] - prompt
        sizes = [given.shape[1] for given in step.given]
        m.check(
            sizes == [prompt, *[1] * (calls - 1)][:calls],
            f"{calls} new tokens: step was called with {sizes} tokens a row, expected the prompt, then 1 at a time, "
            f"{calls} calls in all",
        )
        return {"tokens": found}

    def kernel(table, start):
        return {"tokens": kernels.greedy(table_model(table), start, new, eos)}

    return Scenario("generate", {"table": table, "start": start}, play, kernel)


@level(3, only=("torch",))
def test_generate_values(attempt, rng):
    """greedy: the argmax of the last position's logits is appended, for every row"""
    check_values(attempt, generation(rng), dtypes=("float32",))
    check_values(attempt, generation(rng, rows=1, prompt=1), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_eos(attempt, rng):
    """a row that has produced eos is filled with it, and all end when the last has"""
    for rows in (1, 4, 5):
        check_values(attempt, generation(rng, rows=rows, new=60, eos=EOS), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_calls(attempt, rng):
    """n new tokens take n calls of step; max_new_tokens=0 takes none"""
    for new in (1, 2, 0):
        check_values(attempt, generation(rng, new=new, eos=EOS if new == 2 else None), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_parity(attempt, rng, places):
    """tokens stay where the prompt is"""
    check_parity(attempt, generation(rng, rows=4, new=12, eos=EOS), places)


def window_scenario(rng, window, steps):
    """Single tokens through a SlidingWindowCache; the results after some of them."""
    arrays = {name: rng.normal(size=(steps, 2, 3, 1, 5)) for name in "kv"}
    looked = [t for t in range(steps) if t < 2 * window + 2 or t >= steps - 2]

    def play(m, k, v):
        cache, found = made(m, "SlidingWindowCache", window), {}
        for t in range(steps):
            m.step(f"update {t + 1} of a window of {window}")
            out = cache.update(m.to(k[t], "k"), m.to(v[t], "v"))
            m.check(isinstance(out, tuple | list) and len(out) == 2, "update should return (keys, values)")
            if t in looked:
                shape = (2, 3, min(t + 1, window), 5)
                found[f"keys after {t + 1}"] = m.array(out[0], "keys", shape=shape)
                found[f"values after {t + 1}"] = m.array(out[1], "values", shape=shape)
        return found

    def kernel(k, v):
        found = {}
        for t in looked:
            for name, x in (("keys", k), ("values", v)):
                found[f"{name} after {t + 1}"] = np.concatenate(x[max(0, t + 1 - window) : t + 1], axis=2)
        return found

    return Scenario("SlidingWindowCache", arrays, play, kernel)


@level(4, only=("torch",))
def test_window_filling(attempt, rng):
    """until the window is full, all tokens so far are returned in order"""
    check_values(attempt, window_scenario(rng, 5, 4), dtypes=attempt.backend.dtypes)
    check_values(attempt, window_scenario(rng, 5, 5))


@level(4, only=("torch",))
def test_window_wraps(attempt, rng):
    """from then on the last `window` tokens, oldest first, over many windows"""
    check_values(attempt, window_scenario(rng, 5, 6))
    check_values(attempt, window_scenario(rng, 4, 43))
    check_values(attempt, window_scenario(rng, 1, 3))


@level(4, only=("torch",))
def test_window_storage(attempt, rng):
    """storage is O(window), however long the run"""

    def play(m, k, v):
        held = []
        k, v = m.to(k), m.to(v)
        for steps in (64, 512):
            cache = made(m, "SlidingWindowCache", 8)
            m.step(f"{steps} updates of a window of 8")
            held.append(m.cost(lambda cache=cache, n=steps: [cache.update(k * 1, v * 1) and None for _ in range(n)]).peak)
        m.check(held[1] < 3 * max(held[0], 1), f"64 updates hold {held[0]} bytes, 512 hold {held[1]}: it grows")
        return {}

    arrays = {name: rng.normal(size=(2, 3, 1, 5)) for name in "kv"}
    check_play(attempt, Scenario("SlidingWindowCache", arrays, play, nothing))


@level(4, only=("torch",))
def test_window_parity(attempt, rng, places):
    """the cache lives on the device that was asked for"""
    check_parity(attempt, window_scenario(rng, 3, 5), places)
