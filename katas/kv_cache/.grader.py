"""The hidden grader of the KV cache kata."""

import functools
import itertools
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from graders import Mismatch, level
from graders.checks import (
    Dims,
    Scenario,
    check_from_scratch,
    check_parity,
    check_play,
    check_values,
    for_all,
)
from graders.guards import kind
from graders.kernels import kv_cache as kernels

AXES = Dims(B=2, K=3, L=9, D=5)
MODEL = Dims(B=3, T=6, C=17, D=5, H=8, K=2)
SPARE = 2  # slots of a cache that stay empty
HEADS = {"n_heads": 8, "n_kv_heads": 2}  # groups of 4: another number than that of key/value heads
ALIKE = {"n_heads": 8}
SHARED = {"n_heads": 8, "n_kv_heads": 1}
SECONDS = 40.0  # for a check whose programs JAX compiles, on a slow machine
DTYPES = {"torch": ("float32", "float64", "bfloat16"), "jax": ("float32", "bfloat16")}
WEIGHTS = ("w_q", "w_k", "w_v", "w_o")
VOCABULARY, EOS = 11, 4


def nothing(**arrays):
    return {}


def tokens(rng, lengths):
    """Keys and values of several updates: k0, v0, k1, ..."""
    B, K, D = AXES["B K D"]
    return {f"{name}{i}": rng.normal(size=(B, K, T, D)) for i, T in enumerate(lengths) for name in "kv"}


def made(m, name="KVCache", size=AXES.sizes["L"]):
    B, K, D = AXES["B K D"]
    m.step(f"{name}({B}, {K}, {size}, {D})")
    return getattr(m, name)(B, K, size, D, dtype=m.dtype, device=m.device)


def what(out):
    return "None (no return on this path?)" if out is None else kind(out)


def pair(m, out):
    """What an update returned, as (keys, values)."""
    m.check(isinstance(out, tuple | list) and len(out) == 2, f"update returns {what(out)}, expected (keys, values)")
    return out


def append(m, cache, k, v, before):
    """One update; the native keys and values that it returned."""
    m.step(f"update with {k.shape[2]} tokens after {before}")
    return pair(m, cache.update(m.to(k, "k"), m.to(v, "v")))


def seen(m, keys, values, name=""):
    """Keys and values as NumPy, by name."""
    return {f"keys{name}": m.array(keys, "keys"), f"values{name}": m.array(values, "values")}


def joined(upto, **arrays):
    """All keys and values up to one update."""
    return {
        title: np.concatenate([arrays[f"{name}{i}"] for i in range(upto + 1)], axis=2)
        for title, name in (("keys", "k"), ("values", "v"))
    }


def cache_scenario(rng, play, kernel=nothing, lengths=(2, 1, 3), name="KVCache"):
    return Scenario(name, tokens(rng, lengths), play, kernel)


def filled(m, **arrays):
    """Update by update: what each returns, and the length."""
    cache, found, before = made(m), {}, 0
    m.check(cache.length == 0, f"a new cache has length {cache.length}")
    for i in range(len(arrays) // 2):
        out = append(m, cache, arrays[f"k{i}"], arrays[f"v{i}"], before)
        before += arrays[f"k{i}"].shape[2]
        m.check(cache.length == before, f"length is {cache.length} after {before} tokens")
        found |= seen(m, *out, f" after update {i + 1}")
    return found


def all_filled(**arrays):
    return {
        f"{title} after update {i + 1}": x for i in range(len(arrays) // 2) for title, x in joined(i, **arrays).items()
    }


@level(1, only=("torch",))
def test_cache_values(attempt, rng):
    """update appends and returns all keys and values so far, (B, K, length, D), in the cache's dtype"""
    check_values(attempt, cache_scenario(rng, filled, all_filled), dtypes=attempt.backend.dtypes)
    check_values(attempt, cache_scenario(rng, filled, all_filled, (1,) * 9))
    check_values(attempt, cache_scenario(rng, filled, all_filled, (9,)))


@level(1, only=("torch",))
def test_cache_layouts(attempt, rng):
    """k and v may lie in memory in any order, as a transposed projection does"""

    def play(m, **arrays):
        cache = made(m)
        m.step("update with k and v made by .transpose(1, 2)")
        for i in range(2):
            k, v = (m.to(np.ascontiguousarray(np.swapaxes(arrays[f"{name}{i}"], 1, 2))) for name in "kv")
            out = pair(m, cache.update(k.transpose(1, 2), v.transpose(1, 2)))
        return seen(m, *out)

    check_values(attempt, cache_scenario(rng, play, lambda **arrays: joined(1, **arrays), (2, 3)))


@level(1, only=("torch",))
def test_cache_defaults(attempt, rng):
    """dtype float32 and the CPU, if they are left out"""

    def play(m, k0, v0):
        m.step("a cache without dtype and device")
        return seen(m, *pair(m, m.KVCache(*AXES["B K L D"]).update(m.to(k0), m.to(v0))))

    check_values(attempt.on("cpu"), cache_scenario(rng, play, joined0, (2,)), dtypes=("float32",))


def joined0(k0, v0):
    return {"keys": k0, "values": v0}


@level(1, only=("torch",))
def test_cache_apart(attempt, rng):
    """two caches side by side share nothing"""

    def play(m, **arrays):
        first, second = made(m), made(m)
        append(m, first, arrays["k0"], arrays["v0"], 0)
        append(m, second, arrays["k1"], arrays["v1"], 0)
        one = append(m, first, arrays["k2"], arrays["v2"], 2)
        m.check(second.length == 1, f"the second cache, with 1 token, has length {second.length}")
        return seen(m, *one) | seen(m, *append(m, second, arrays["k3"], arrays["v3"], 1), " of the other")

    def kernel(k0, v0, k1, v1, k2, v2, k3, v3):
        second = joined(1, k0=k1, v0=v1, k1=k3, v1=v3)
        return joined(1, k0=k0, v0=v0, k1=k2, v1=v2) | {f"{name} of the other": x for name, x in second.items()}

    check_values(attempt, cache_scenario(rng, play, kernel, (2, 1, 3, 2)))


def in_place(m, first, now, when):
    """Both results of an update begin where those of an earlier one began."""
    for name, one, other in zip(("keys", "values"), first, now, strict=True):
        same = m.backend.shares_storage(one, other) and one.storage_offset() == other.storage_offset()
        m.check(same, f"the {name} {when} are not where those of update 1 are: they were copied or moved")


@level(1, only=("torch",))
def test_cache_storage(attempt, rng):
    """the results are views of buffers allocated once: the same storage at every call"""
    lengths = (1, 3, 200, 396)

    def play(m, **arrays):
        cache, before, first = made(m, size=sum(lengths)), 0, None
        for i, T in enumerate(lengths):
            out = append(m, cache, arrays[f"k{i}"], arrays[f"v{i}"], before)
            before += T
            first = first or out
            in_place(m, first, out, f"of update {i + 1}")
        return {}

    check_play(attempt, cache_scenario(rng, play, lengths=lengths))


def next_update(m, k, v, before):
    """What one more update costs, after updates of so many times these tokens."""
    new = k.shape[2]
    cache = made(m, size=new * (sum(before) + 2))
    for times in before:
        cache.update(m.to(np.tile(k, (1, 1, times, 1))), m.to(np.tile(v, (1, 1, times, 1))))
    k, v = m.to(k), m.to(v)
    m.step(f"update with {new} tokens after {new * sum(before)}")
    return m.cost(lambda: cache.update(k, v) and None)


@level(1, only=("torch",))
def test_cache_cost(attempt, rng):
    """an update copies the new tokens, not the prefix"""
    before = (250, *[1] * 63)

    def play(m, k0, v0):
        first, last = next_update(m, k0, v0, ()), next_update(m, k0, v0, before)
        due = k0.nbytes
        m.check(
            last.peak < due * sum(before) ** 0.5,
            f"the update allocates {last.peak:,} bytes where the new keys take {due}: is the prefix copied?",
        )
        m.check(
            last.ops < max(first.ops, 1) * len(before) ** 0.5,
            f"the first update takes {first.ops} operations, update {len(before) + 1} takes {last.ops}: "
            "is everything written again?",
        )
        return {}

    check_play(attempt, cache_scenario(rng, play, lengths=(2,)))


@level(1, only=("torch",))
def test_cache_given(attempt, rng):
    """the caller's k and v are copied in: changing them later does not change the cache"""

    def play(m, **arrays):
        found = {}
        for i, T in enumerate((2, 9)):
            cache = made(m)
            k, v = m.to(arrays[f"k{i}"]), m.to(arrays[f"v{i}"])
            out = pair(m, cache.update(k, v))
            m.step(f"the caller overwrites the {T} keys and values that it gave to update")
            k.zero_()
            v.zero_()
            found |= seen(m, *out, f" after {T} tokens")
        return found

    def kernel(k0, v0, k1, v1):
        both = {" after 2 tokens": joined0(k0, v0), " after 9 tokens": joined0(k1, v1)}
        return {f"{name}{when}": x for when, found in both.items() for name, x in found.items()}

    check_values(attempt, cache_scenario(rng, play, kernel, (2, 9)))


@level(1, only=("torch",))
def test_cache_reset(attempt, rng):
    """after reset the cache is empty, and its buffers are the same"""

    def play(m, k0, v0, k1, v1):
        cache = made(m)
        before = append(m, cache, k0, v0, 0)
        m.step("reset")
        cache.reset()
        m.check(cache.length == 0, f"after reset the length is {cache.length}")
        out = append(m, cache, k1, v1, 0)
        in_place(m, before, out, "after reset")
        return seen(m, *out)

    check_values(attempt, cache_scenario(rng, play, lambda k0, v0, k1, v1: joined0(k1, v1), (3, 2)))


def misfits(m, k, v):
    """What does not fit into a cache of 9 with 6 tokens in it, and why; k and v have 2 tokens."""
    wide = "float64" if m.dtype_name != "float64" else "float32"
    other = m.backend.dtype_named(wide)

    def to(x):
        return m.to(np.ascontiguousarray(x))

    twice = [np.tile(x, (1, 1, 2, 1)) for x in (k, v)]
    into = f"into a cache of {m.dtype_name}"
    return (
        ((to(twice[0]), to(twice[1])), "4 tokens after 6 into a cache of 9"),
        ((to(k[:1]), to(v[:1])), "a batch of 1 into a cache of 2"),
        ((to(k[:, :1]), to(v[:, :1])), "1 head into a cache of 3"),
        ((to(k[..., :1]), to(v[..., :1])), "a width of 1 into a cache of 5"),
        ((to(k), to(v[..., :1])), "keys of width 5 and values of width 1"),
        ((to(k[:, :, :1]), to(v)), "1 key and 2 values"),
        ((to(k), to(v[:, :, :1])), "2 keys and 1 value"),
        ((to(k), to(v[:1])), "keys of a batch of 2 and values of a batch of 1"),
        ((to(k), to(v[:, :1])), "keys of 3 heads and values of 1"),
        ((to(k[0]), to(v[0])), "k and v without a batch axis"),
        ((to(k).to(other), to(v).to(other)), f"{wide} {into}"),
        ((to(k), to(v).to(other)), f"values in {wide} {into}"),
    )


@level(1, only=("torch",))
def test_cache_errors(attempt, rng):
    """too many tokens, another shape or another dtype: ValueError, and the cache is as it was"""

    def play(m, k0, v0, k1, v1, k2, v2):
        cache = made(m)
        before = append(m, cache, k0, v0, 0)
        for (k, v), why in misfits(m, k1, v1):
            m.step(f"update with {why}")
            m.raises(ValueError, lambda k=k, v=v: cache.update(k, v), why)
            m.check(cache.length == k0.shape[2], f"after the error the length is {cache.length}, it was {k0.shape[2]}")
        m.step("the keys and values returned before the errors")
        return seen(m, *before, " before the errors") | seen(m, *append(m, cache, k2, v2, 6))

    def kernel(k0, v0, k1, v1, k2, v2):
        before = {f"{name} before the errors": x for name, x in joined0(k0, v0).items()}
        return before | joined(1, k0=k0, v0=v0, k1=k2, v1=v2)

    check_values(attempt, cache_scenario(rng, play, kernel, (6, 2, 3)))


def history(deeds, size):
    """For each deed: itself, which tokens of a long text are held after it, whether it fits, tokens offered so far."""
    held, offered = [], 0
    for deed in deeds:
        fits = deed == "reset" or len(held) + deed <= size
        if deed == "reset":
            held = []
        else:
            held = held + list(range(offered, offered + deed)) if fits else held
            offered += deed
        yield deed, held, fits, offered


def any_order(deeds, size):
    """Updates with so many tokens, and resets; an update that does not fit is refused."""

    def play(m, k, v):
        cache, found = made(m, size=size), {}
        for i, (deed, held, fits, offered) in enumerate(history(deeds, size)):
            m.step(f"{deed if deed == 'reset' else f'update with {deed} tokens'} with {cache.length} of {size} there")
            if deed == "reset":
                cache.reset()
            else:
                new = [m.to(np.ascontiguousarray(x[:, :, offered - deed : offered])) for x in (k, v)]
                if fits:
                    found |= seen(m, *pair(m, cache.update(*new)), f" after deed {i + 1}")
                else:
                    m.raises(ValueError, lambda new=new: cache.update(*new), "more tokens than fit")
            m.check(cache.length == len(held), f"length is {cache.length}, expected {len(held)}")
        return found

    def kernel(k, v):
        return {
            f"{name} after deed {i + 1}": x[:, :, held]
            for i, (deed, held, fits, _) in enumerate(history(deeds, size))
            if fits and deed != "reset"
            for name, x in (("keys", k), ("values", v))
        }

    return play, kernel


@level(1, only=("torch",))
def test_cache_any_order(attempt, rng, seed):
    """in any order of updates, resets and refusals it holds what was accepted since the last reset"""
    size, most = 6, 8
    B, K, D = AXES["B K D"]
    text = {name: rng.normal(size=(B, K, most * (size + 1), D)) for name in "kv"}

    def judge(deeds):
        check_values(attempt, Scenario("KVCache", text, *any_order(deeds, size)), dtypes=("float32",))

    deed = st.one_of(st.integers(1, size + 1), st.just("reset"))
    for fixed in ([6, 1, "reset", 6], [2, "reset", 1, 5, 1, "reset", 3], [7, 6, "reset", "reset", 4, 3, 2]):
        judge(fixed)
    described = st.lists(deed, min_size=1, max_size=most)
    for_all(attempt, described, judge, seed=seed, describe=lambda deeds: f"a cache of {size}, {deeds}")


@level(1, only=("torch",))
def test_cache_parity(attempt, rng, places):
    """the cache lives on the device that was asked for"""

    def play(m, k0, v0, k1, v1):
        cache = made(m)
        append(m, cache, k0, v0, 0)
        return seen(m, *append(m, cache, k1, v1, 2))

    check_parity(attempt, cache_scenario(rng, play, lambda **arrays: joined(1, **arrays), (2, 1)), places)


def leaves(cache):
    """The arrays of a JAX cache, whatever its structure."""
    import jax

    return [jax.numpy.asarray(leaf) for leaf in jax.tree.leaves(cache)]


def numbers(cache):
    """All that a JAX cache holds, but for NaN, which may mark free slots."""
    held = np.concatenate([np.zeros(0), *(np.asarray(leaf).astype(np.float64).ravel() for leaf in leaves(cache))])
    return held[~np.isnan(held)]


def jax_updates(m, arrays, count):
    """A JAX cache after some updates."""
    B, K, L, D = AXES["B K L D"]
    m.step(f"init_cache({B}, {K}, {L}, {D}, {m.dtype_name})")
    cache = m.init_cache(B, K, L, D, m.dtype)
    update = m.compiled(m.update_cache)
    for i in range(count):
        m.step(f"update_cache with {arrays[f'k{i}'].shape[2]} tokens, update {i + 1}")
        cache = update(cache, m.to(arrays[f"k{i}"]), m.to(arrays[f"v{i}"]))
    return cache


@level(1, only=("jax",))
def test_cache_holds(attempt, rng):
    """update_cache gives a cache that holds every key and value so far, in the dtype asked for"""

    def play(m, **arrays):
        for count in (1, 3):
            cache = jax_updates(m, arrays, count)
            held = numbers(cache)
            for i in range(count):
                for name in (f"k{i}", f"v{i}"):
                    there = np.isin(arrays[name].astype(np.float64), held)
                    m.check(there.all(), f"after {count} updates the cache lacks {(~there).sum()} numbers of {name}")
            kinds = {str(leaf.dtype) for leaf in leaves(cache) if leaf.size >= arrays["k0"].size}
            m.check(m.dtype_name in kinds, f"the cache's large arrays are {kinds}, {m.dtype_name} was asked for")
        return {}

    check_dtypes(attempt, cache_scenario(rng, play))


@level(1, only=("jax",))
def test_cache_full(attempt, rng):
    """it can be filled to its last slot"""

    def play(m, **arrays):
        held = numbers(jax_updates(m, arrays, 2))
        for name, x in arrays.items():
            m.check(np.isin(x.astype(np.float64), held).all(), f"the full cache lacks numbers of {name}")
        return {}

    check_values(attempt, cache_scenario(rng, play, lengths=(4, 5)), dtypes=("float32",))


@level(1, only=("jax",))
def test_cache_fixed(attempt, rng):
    """update_cache keeps the structure, shapes and dtypes of the cache, whatever is in it"""

    def play(m, **arrays):
        import jax

        kinds = []
        for count in (0, 1, 3):
            cache = jax_updates(m, arrays, count)
            kinds.append((jax.tree.structure(cache), [(x.shape, str(x.dtype)) for x in leaves(cache)]))
            said = f"the cache's arrays were {kinds[0][1]}, after {count} updates they are {kinds[-1][1]}"
            m.check(kinds[0][1] == kinds[-1][1], said)
            m.check(kinds[0] == kinds[-1], "the cache's structure changes with what is in it")
        return {}

    check_play(attempt, cache_scenario(rng, play))


@level(1, only=("jax",))
def test_cache_pure(attempt, rng):
    """update_cache leaves the cache that it was given alone"""

    def play(m, **arrays):
        cache = jax_updates(m, arrays, 1)
        before = numbers(cache)
        m.step("update_cache")
        m.update_cache(cache, m.to(arrays["k1"]), m.to(arrays["v1"]))
        m.check(np.array_equal(before, numbers(cache)), "update_cache changes the cache it was given")
        return {}

    check_play(attempt, cache_scenario(rng, play))


@level(1, only=("jax",))
def test_cache_jit(attempt, rng, places):
    """it gives the same in every place, under jit too"""

    def play(m, **arrays):
        return {"what the cache holds": np.sort(numbers(jax_updates(m, arrays, 3)))}

    scenario = cache_scenario(rng, play, name="update_cache").cast("float32")
    home = scenario.run(attempt)
    check_parity(attempt, replace(scenario, kernel=lambda **arrays: home), places)


def check_dtypes(attempt, scenario):
    """The values in each dtype. In JAX, where float64 is a mode, the result's dtype alone is asked in it.

    In that mode Python's ints have 64 bits, and a slice refuses them beside a length of 32: that is forgiven.
    """
    for dtype in DTYPES[attempt.framework]:
        check_values(attempt, scenario, dtypes=(dtype,))
    if attempt.framework == "jax":
        try:
            check_values(attempt, replace(scenario, kernel=nothing), dtypes=("float64",))
        except Mismatch as problem:
            if "must be integers of the same type" not in str(problem.raised):
                raise


def projections(rng, options, C=MODEL.sizes["C"]):
    kv, (H, D) = options.get("n_kv_heads") or options["n_heads"], MODEL["H D"]
    shapes = ((C, H * D), (C, kv * D), (C, kv * D), (H * D, C))
    return {name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in zip(WEIGHTS, shapes, strict=True)}


def empty(m, batch, options, size):
    """A cache for cached_attention."""
    kv, D = options.get("n_kv_heads") or options["n_heads"], MODEL.sizes["D"]
    if m.framework == "jax":
        return m.init_cache(batch, kv, size, D, m.dtype)
    return m.KVCache(batch, kv, size, D, dtype=m.dtype, device=m.device)


def part(m, x, start, stop):
    """Some of the tokens; in PyTorch a view of all, as it would be."""
    return m.to(x, "x")[:, start:stop] if m.framework == "torch" else m.to(np.ascontiguousarray(x[:, start:stop]), "x")


def attend(m, function, x, given, cache):
    """(out, cache) in either framework."""
    out = function(x, *given, cache)
    if m.framework == "torch":
        return out, cache
    m.check(
        isinstance(out, tuple | list) and len(out) == 2,
        f"cached_attention returns {what(out)}, expected (out, cache)",
    )
    return out


def compiled(function):
    """Under JAX's jit; operation by operation where that fails because a value decides what Python does."""
    import jax

    fast = jax.jit(function)

    def call(*args):
        try:
            return fast(*args)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return function(*args)

    return call


@functools.lru_cache(maxsize=4)
def whole(function, options):
    """The same object for the same call, so that it is compiled once."""
    return compiled(functools.partial(function, **dict(options)))


def attention_of(m, options):
    """The person's cached_attention with these heads; in JAX compiled, which takes a tenth of the time."""
    if m.framework == "jax" and m.place == "cpu" and m.backend.whole:
        return whole(m.cached_attention, tuple(options.items()))
    return m.compiled(m.cached_attention, **options)


def in_chunks(m, x, given, cache, chunks, options, start=0):
    """Tokens through cached_attention, chunk by chunk: the results joined as NumPy, and the cache."""
    function, parts = attention_of(m, options), []
    for T in chunks:
        m.step(f"cached_attention on {T} new tokens after {start}, in chunks {chunks}")
        out, cache = attend(m, function, part(m, x, start, start + T), given, cache)
        start += T
        plain = out.detach() if m.framework == "torch" and m.backend.is_array(out) else out
        parts.append(m.array(plain, "out", shape=(x.shape[0], T, x.shape[2])))
        if m.framework == "torch":
            m.check(cache.length == start, f"the cache's length is {cache.length} after {start} tokens")
    return np.concatenate(parts, axis=1), cache


def attention_scenario(rng, chunks, options=HEADS, spare=SPARE, batch=None):
    """The tokens go in by chunks; the answer is attention over all at once."""

    def play(m, x, **w):
        given = [m.to(w[name], name) for name in WEIGHTS]
        cache = empty(m, len(x), options, x.shape[1] + spare)
        return {"out": in_chunks(m, x, given, cache, chunks, options)[0]}

    def kernel(x, **w):
        return {"out": kernels.full_attention(x, **w, **options)}

    B, C = MODEL["B C"]
    arrays = {"x": rng.normal(size=(batch or B, sum(chunks), C)), **projections(rng, options)}
    return Scenario("cached_attention", arrays, play, kernel)


@level(2, seconds=SECONDS)
def test_prefill(attempt, rng):
    """all tokens at once: causal attention, query head h reading key/value head h // (H // K)"""
    check_dtypes(attempt, attention_scenario(rng, (6,)))
    check_values(attempt, attention_scenario(rng, (6,), ALIKE))
    check_values(attempt, attention_scenario(rng, (6,), SHARED))


@level(2, seconds=SECONDS)
def test_single_steps(attempt, rng):
    """token by token it equals attention over all of them, up to the last slot, for a batch of one too"""
    check_values(attempt, attention_scenario(rng, (1,) * 6), dtypes=DTYPES[attempt.framework])
    check_values(attempt, attention_scenario(rng, (3, 1, 1, 1), ALIKE, spare=0, batch=1))


def ways(total, sizes):
    """Every way to cut so many tokens into chunks of these sizes, the simplest first."""
    found = [(size, *rest) for size in sizes if size < total for rest in ways(total - size, sizes)]
    return sorted(found + [(total,)] * (total in sizes), key=len)


@level(2, seconds=SECONDS)
def test_chunks(attempt, rng, seed):
    """in chunks of any sizes too: query i of a chunk sees what came before and the keys j <= i of its own"""
    check_values(attempt.directly, attention_scenario(rng, (4, 1, 1)), dtypes=("float32",))
    sizes = (1, 2, 3) if attempt.framework == "jax" else range(1, 6)  # in JAX each size is a program to compile
    start = rng.integers(2**32)

    def judge(drawn):
        options, chunks = drawn
        scenario = attention_scenario(np.random.default_rng(start), tuple(chunks), options)
        check_values(attempt, scenario, dtypes=("float32",))

    for chunks in ways(6, sizes):
        judge((HEADS, chunks))
    long = (70, 1) if attempt.framework == "jax" else (70, 1, 9, 1)
    check_values(attempt, attention_scenario(rng, long, SHARED), dtypes=("float32",))
    if attempt.framework == "torch":
        drawn = st.tuples(st.sampled_from((HEADS, ALIKE, SHARED)), st.lists(st.integers(1, 9), min_size=1, max_size=5))
        for_all(attempt, drawn, judge, seed=seed, describe=lambda d: f"{d[0]}, chunks of {d[1]} tokens")


@level(2, seconds=SECONDS)
def test_texts_apart(attempt, rng):
    """two caches side by side keep their texts apart, and a cache is as good as new after reset"""

    def play(m, x, other, **w):
        given = [m.to(w[name], name) for name in WEIGHTS]
        caches, found = [empty(m, len(x), HEADS, x.shape[1] + SPARE) for _ in range(2)], {}
        caches[0] = in_chunks(m, x, given, caches[0], (2,), HEADS)[1]
        caches[1] = in_chunks(m, other, given, caches[1], (3,), HEADS)[1]
        found["the first text"] = in_chunks(m, x, given, caches[0], (3, 1), HEADS, start=2)[0]
        found["the second text"] = in_chunks(m, other, given, caches[1], (1, 2), HEADS, start=3)[0]
        if m.framework == "torch":
            caches[0].reset()
            found["a text after reset"] = in_chunks(m, other, given, caches[0], (4, 2), HEADS)[0]
        return found

    def kernel(x, other, **w):
        first, second = (kernels.full_attention(y, **w, **HEADS) for y in (x, other))
        found = {"the first text": first[:, 2:], "the second text": second[:, 3:]}
        return found | ({"a text after reset": second} if attempt.framework == "torch" else {})

    arrays = {name: rng.normal(size=MODEL["B T C"]) for name in ("x", "other")} | projections(rng, HEADS)
    check_values(attempt, Scenario("cached_attention", arrays, play, kernel), dtypes=("float32",))


@level(2, only=("jax",), seconds=SECONDS)
def test_attention_pure(attempt, rng):
    """the cache that was given stays as it was: two continuations can start from it"""

    def play(m, x, other, **w):
        given = [m.to(w[name], name) for name in WEIGHTS]
        _, cache = in_chunks(m, x, given, empty(m, len(x), HEADS, x.shape[1] + SPARE), (4,), HEADS)
        one, two = (in_chunks(m, y, given, cache, (1, 1), HEADS, start=4)[0] for y in (x, other))
        return {"the first continuation": one, "the second continuation": two}

    def kernel(x, other, **w):
        both = x, np.concatenate([x[:, :4], other[:, 4:]], axis=1)
        one, two = (kernels.full_attention(y, **w, **HEADS)[:, 4:] for y in both)
        return {"the first continuation": one, "the second continuation": two}

    arrays = {name: rng.normal(size=MODEL["B T C"]) for name in ("x", "other")} | projections(rng, HEADS)
    check_values(attempt.directly, Scenario("cached_attention", arrays, play, kernel), dtypes=("float32",))


@level(2, seconds=SECONDS)
def test_large_logits(attempt, rng):
    """logits of 150 and -150, or 20,000, do no harm: a softmax stays the same when all logits of a row are shifted"""
    scenario = attention_scenario(rng, (3, 2, 1))
    arrays = {name: x.copy() for name, x in scenario.arrays.items()}
    H, D = MODEL["H D"]
    arrays["w_q"][0] = np.repeat(np.where(np.arange(H) < H // 2, 1, -1), D)
    arrays["w_k"][0] = 1
    for size in (8, 100):
        arrays["x"][..., 0] = size
        large = replace(scenario, arrays=arrays)
        # A right formula may subtract the logarithm of a row's sum: its ulp is a relative error of the weights.
        cancels = size**2 * D**0.5 * float(np.max(np.abs(large.exact()["out"])))
        large = replace(large, sizes=lambda cancels=cancels, **arrays: {"out": cancels})
        check_values(attempt, large, dtypes=("float32",))


READINGS = {"torch": ("own", "none", "nothing"), "jax": ("all", "own", "none")}


def gradient_scenario(rng, chunks, framework, reading="own"):
    """The gradients of x and the weights; in PyTorch those of the last chunk, what came before being past.

    reading: whether the keys and values in the cache are constants, which the contract leaves free.
    """
    names = tuple(f"the gradient of {name}" for name in ("x", *WEIGHTS))

    def in_torch(m, x, upstream, **w):
        import torch

        leaves = [m.to(y).requires_grad_() for y in (x, *(w[name] for name in WEIGHTS))]
        cache, start = empty(m, len(x), HEADS, x.shape[1] + SPARE), 0
        for T in chunks:
            m.step(f"cached_attention on {T} new tokens after {start}, and its gradient")
            with torch.set_grad_enabled(start + T == x.shape[1]):
                out = m.cached_attention(leaves[0][:, start : start + T], *leaves[1:], cache, **HEADS)
            start += T
        m.array(out.detach(), "out", shape=(x.shape[0], T, x.shape[2]))
        found = [None] * 5
        if out.requires_grad:
            loss = (out * m.to(upstream[:, -T:].copy())).sum()
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(y) if d is None else d for d, y in zip(found, leaves, strict=True)]

    def in_jax(m, x, upstream, **w):
        import jax

        def total(x, *given):
            cache, start, loss = empty(m, len(x), HEADS, x.shape[1] + SPARE), 0, 0.0
            for T in chunks:
                up = m.to(np.ascontiguousarray(upstream[:, start : start + T]))
                out, cache = attend(m, m.compiled(m.cached_attention, **HEADS), x[:, start : start + T], given, cache)
                loss, start = loss + (out * up).sum(), start + T
            return loss

        m.step(f"the gradient of cached_attention over chunks {chunks}")
        gradient = jax.grad(total, argnums=tuple(range(5)))
        gradient = compiled(gradient) if m.backend.whole else gradient
        return gradient(m.to(x), *(m.to(w[name]) for name in WEIGHTS))

    def play(m, **arrays):
        found = (in_torch if m.framework == "torch" else in_jax)(m, **arrays)
        return {name: m.array(d, name) for name, d in zip(names, found, strict=True)}

    def kernel(x, upstream, **w):
        if reading == "nothing":
            return {name: np.zeros_like(y) for name, y in zip(names, (x, *w.values()), strict=True)}
        found = kernels.gradients(upstream, x, **w, **HEADS, chunks=chunks, reach=reading)
        return dict(zip(names, found, strict=True))

    arrays = {"x": rng.normal(size=MODEL["B T C"]), **projections(rng, HEADS)}
    upstream = rng.normal(size=MODEL["B T C"])
    if framework == "torch":
        upstream[:, : -chunks[-1]] = 0
    return Scenario("cached_attention", {**arrays, "upstream": upstream}, play, kernel)


@level(2, seconds=SECONDS)
def test_attention_gradients(attempt, rng):
    """the gradient, if one is recorded, is right; whether it reaches what lies in the cache is free"""
    for chunks in {"jax": ((4, 2),)}.get(attempt.framework, ((6,), (4, 2))):
        seed = rng.integers(2**32)
        scenarios = [
            gradient_scenario(np.random.default_rng(seed), chunks, attempt.framework, reading)
            for reading in READINGS[attempt.framework]
        ]
        typed = scenarios[0].cast("float32")
        try:
            found = typed.run(attempt)
        except Mismatch:
            found = typed.exact()
        apart = [
            max(float(np.max(np.abs(found[name] - right))) for name, right in scenario.cast("float32").exact().items())
            for scenario in scenarios
        ]
        check_values(attempt, scenarios[int(np.argmin(apart))], dtypes=("float32",))


@level(2, seconds=SECONDS)
def test_attention_cost(attempt, rng):
    """projections are paid for the new tokens only, however many came before"""
    before, size, C = 64, 80, 64
    (H, K, D), options = MODEL["H K D"], HEADS

    def play(m, x, **w):
        given = [m.to(w[name]) for name in WEIGHTS]
        function, cache = m.compiled(m.cached_attention, **options), empty(m, 1, options, size)
        _, cache = attend(m, attention_of(m, options), part(m, x, 0, before), given, cache)
        new = part(m, x, before, before + 1)
        m.step(f"cached_attention on 1 new token after {before}")
        spent = m.cost(lambda: attend(m, function, new, given, cache)[0]).flops
        attention = 2 * 2 * H * D * size
        due = 2 * C * D * (2 * H + 2 * K) + attention
        again = 2 * C * D * 2 * K * before
        m.check(
            spent < (due * (due + again)) ** 0.5,
            f"a step on 1 new token after {before} takes {spent:,} FLOPs, about {due:,} are due: "
            "are earlier tokens projected again?",
        )
        return {}

    arrays = {"x": rng.normal(size=(1, size, C)), **projections(rng, options, C)}
    check_play(attempt, Scenario("cached_attention", arrays, play, nothing))


@level(2, seconds=SECONDS)
def test_attention_parity(attempt, rng, places):
    """it gives the same in every place"""
    scenario = attention_scenario(rng, (4, 1, 1))
    arrays = scenario.cast("float32").arrays
    check_parity(attempt, scenario, places, lambda place: kernels.fused(place, **arrays, **HEADS))


@level(2, only=("jax",), seconds=SECONDS)
def test_traces_once(attempt, rng):
    """ten single steps under jit are traced once"""

    def play(m, x, **w):
        import jax

        given = [m.to(w[name]) for name in WEIGHTS]
        traced = []

        def step(x, cache):
            traced.append(1)
            return m.cached_attention(x, *given, cache, **HEADS)

        cache, fast = empty(m, len(x), HEADS, 12), jax.jit(step)
        for i in range(10):
            m.step(f"single step {i + 1} under jit")
            _, cache = fast(m.to(np.ascontiguousarray(x[:, i % 6 : i % 6 + 1])), cache)
        m.check(len(traced) == 1, f"ten single steps are traced {len(traced)} times: does a shape or a type change?")
        return {}

    arrays = attention_scenario(rng, (6,)).arrays
    check_values(attempt, Scenario("cached_attention", arrays, play, nothing), dtypes=("float32",))


@level(2, seconds=SECONDS)
def test_attention_from_scratch(attempt, rng):
    """attention is made from its parts"""
    check_from_scratch(attempt.directly, attention_scenario(rng, (4, 1, 1)).cast("float32"))


class Step:
    """A step with a cache of its own: it remembers what it was given, and gives every position logits.

    A row's logits depend on its last two tokens and on how many there are. Row r gives eos as its new token ends[r],
    and never before; what it gives afterwards is something else.
    """

    def __init__(self, m, rows, model):
        self.m, self.rows, self.model = m, rows, model
        self.history, self.given = np.zeros((rows, 0), np.int64), []

    def __call__(self, tokens):
        m = self.m
        new = m.array(tokens, "the tokens given to step", dtype="int64")
        m.check(
            new.ndim == 2 and len(new) == self.rows,
            f"step was given tokens of shape {new.shape}, expected ({self.rows}, T)",
        )
        self.given.append(new.shape[1])
        start = self.history.shape[1]
        self.history = np.concatenate([self.history, new], axis=1)
        lengths = range(start + 1, self.history.shape[1] + 1)
        return m.to(np.array([[self.model(i, row[:t]) for t in lengths] for i, row in enumerate(self.history)]))


def language(table, prompt, ends, eos):
    """The model: logits of a row's next token from its history."""

    def logits(row, history):
        last, before = history[-1], history[-2] if len(history) > 1 else 0
        found = table[(3 * last + 5 * before + len(history) + row) % len(table)].copy()
        if eos is not None:
            found[eos] = table.max() + 1 if len(history) - prompt + 1 == ends[row] else table.min() - 1
        return found

    return logits


def generation(rng, ends, new, eos=None, prompt=4):
    """generate against decoding without a cache, and the calls of step counted; a row for each of ends.

    Logits are negative and close to each other. The last row's prompt begins with eos, as many a text does, and the
    first row's ends with it.
    """
    rows = len(ends)
    table = rng.permuted(np.tile(np.arange(VOCABULARY) / 8192 - 100, (17, 1)), axis=1)
    start = rng.integers(0, VOCABULARY, size=(2, rows, prompt))
    start = np.where(start == eos, (start + 1) % VOCABULARY, start)
    if eos is not None and prompt > 1:
        start[:, -1, 0] = eos
        start[:, 0, -1] = eos

    def once(m, table, start, when):
        model = language(table, prompt, ends, eos)
        step = Step(m, rows, model)
        ending = "" if eos is None else f"; eos is new token {', '.join(map(str, ends))} of its row"
        m.step(f"generate from ({rows}, {prompt}) tokens, max_new_tokens={new}, eos={eos}{ending}{when}")
        options = {} if eos is None else {"eos": eos}
        found = m.array(m.generate(step, m.to(start, "prompt"), new, **options), "the result", dtype="int64")
        right = kernels.greedy(model, start, new, eos)
        m.check(
            found.shape == right.shape,
            f"the result has shape {found.shape}, expected {right.shape}: {prompt} tokens of prompt and "
            f"{right.shape[1] - prompt} new ones"
            + (
                "; an eos in the prompt, as the last row begins and the first ends, ends nothing"
                if (start == eos).any()
                else ""
            ),
        )
        calls = right.shape[1] - prompt
        m.check(
            step.given == [prompt, *[1] * (calls - 1)][:calls],
            f"for {calls} new tokens step was called {len(step.given)} times, with {step.given} tokens a row; "
            f"expected {calls} calls, the prompt and then 1 at a time",
        )
        for i, (got, expected) in enumerate(zip(found.tolist(), right.tolist(), strict=True)):
            m.check(got == expected, f"row {i} is {got}, expected {expected}; {prompt} of them are the prompt")

    def play(m, table, start):
        once(m, table, start[0], "")
        once(m, table, start[1], ", called again")
        return {}

    return Scenario("generate", {"table": table, "start": start}, play, nothing)


@level(3, only=("torch",))
def test_generate_values(attempt, rng):
    """greedy: the argmax of the last position's logits is appended, for every row"""
    check_values(attempt, generation(rng, (9, 9, 9), 9), dtypes=("float32",))
    check_values(attempt, generation(rng, (9,), 9, prompt=1), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_eos(attempt, rng):
    """a row that has produced eos is filled with it, and all end when the last has"""
    for ends in ((3,), (1, 5, 3), (4, 4), (1, 1)):
        check_values(attempt, generation(rng, ends, 12, EOS), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_eos_zero(attempt, rng):
    """eos may be token 0"""
    check_values(attempt, generation(rng, (2, 1, 6), 12, eos=0), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_calls(attempt, rng):
    """n new tokens take n calls of step, max_new_tokens=0 none"""
    for new, eos in ((1, None), (2, EOS), (0, None), (0, EOS)):
        check_values(attempt, generation(rng, (1, 2), new, eos), dtypes=("float32",))


@level(3, only=("torch",))
def test_generate_ragged(attempt, rng, seed):
    """wherever the rows end, before max_new_tokens, there or never"""
    start = rng.integers(2**32)

    def judge(drawn):
        ends, new, eos, prompt = drawn
        check_values(attempt, generation(np.random.default_rng(start), ends, new, eos, prompt), dtypes=("float32",))

    for ends, new in itertools.product(itertools.product((1, 2, 3), repeat=2), range(5)):
        judge((ends, new, EOS, 2))
    ends = st.lists(st.integers(1, 8), min_size=1, max_size=4)
    drawn = st.tuples(ends, st.integers(0, 7), st.sampled_from((None, 0, EOS, VOCABULARY - 1)), st.integers(1, 3))
    for_all(
        attempt,
        drawn,
        judge,
        seed=seed,
        describe=lambda d: f"rows that end with tokens {d[0]}, max_new_tokens={d[1]}, eos={d[2]}, a prompt of {d[3]}",
    )


@level(3, only=("torch",))
def test_generate_parity(attempt, rng, places):
    """tokens stay where the prompt is"""
    check_parity(attempt, generation(rng, (3, 1, 5, 5), 12, EOS), places)


def window_scenario(rng, window, steps, apart=False):
    """Single tokens through a SlidingWindowCache; the results after the first steps and after the last.

    apart: through two of them in turn.
    """
    arrays = {name: rng.normal(size=(steps, *AXES["B K"], 1, AXES.sizes["D"])) for name in "kv"}
    looked = [t for t in range(steps) if t < 2 * window + 2 or t >= steps - 2]
    caches = 1 + apart

    def play(m, k, v):
        cache, found = [made(m, "SlidingWindowCache", window) for _ in range(caches)], {}
        for t in range(steps):
            m.step(f"update {t // caches + 1} of a window of {window}")
            out = pair(m, cache[t % caches].update(m.to(k[t], "k"), m.to(v[t], "v")))
            if t in looked:
                shape = (*AXES["B K"], min(t // caches + 1, window), AXES.sizes["D"])
                for name, x in zip(("keys", "values"), out, strict=True):
                    found[f"{name} after {t + 1} updates"] = m.array(x, f"{name} after {t + 1} updates", shape=shape)
        return found

    def kernel(k, v):
        found = {}
        for t in looked:
            last = range(t % caches, t + 1, caches)[-window:]
            for name, x in (("keys", k), ("values", v)):
                found[f"{name} after {t + 1} updates"] = np.concatenate([x[s] for s in last], axis=2)
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
    check_values(attempt, window_scenario(rng, 5, 6), dtypes=attempt.backend.dtypes)
    for window, steps in ((4, 43), (1, 4), (2, 9), (7, 30)):
        check_values(attempt, window_scenario(rng, window, steps), dtypes=("float32",))


@level(4, only=("torch",))
def test_window_apart(attempt, rng):
    """two windows side by side share nothing"""
    check_values(attempt, window_scenario(rng, 3, 15, apart=True), dtypes=("float32",))


@level(4, only=("torch",))
def test_window_storage(attempt, rng):
    """storage is O(window) and the oldest key is the right one, however long the run"""
    window, run = 5, 1024

    def play(m, k, v):
        k, v = m.to(k[0]), m.to(v[0])
        due = 2 * window * k.nbytes

        def long_run():
            cache = made(m, "SlidingWindowCache", window)
            m.step(f"{run} updates of a window of {window}")
            for t in range(run):
                keys, _ = cache.update(k * 0 + t, v * 1)
                oldest, expected = float(keys[0, 0, 0, 0]), max(0, t + 1 - window)
                m.check(oldest == expected, f"after {t + 1} updates the oldest key is that of token {oldest:g}, from 0")

        held = m.cost(long_run).peak
        m.check(
            held < due * (run / window) ** 0.5,
            f"{run} updates hold up to {held:,} bytes, a window's keys and values take {due:,}: does it grow?",
        )
        return {}

    check_values(attempt, replace(window_scenario(rng, window, 1), play=play, kernel=nothing), dtypes=("float32",))


@level(4, only=("torch",))
def test_window_parity(attempt, rng, places):
    """the cache lives on the device that was asked for"""
    check_parity(attempt, window_scenario(rng, 3, 5), places)
