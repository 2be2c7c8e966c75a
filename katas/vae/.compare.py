"""What is compared of the VAE kata."""

import numpy as np

from graders.checks import Case
from graders.compare import Picture, Probe
from graders.compare.drawing import both, shade
from graders.kernels import vae as kernels

SIZES = (64, 256, 1_024, 4_096)
X, Z = 64, 8
OPTIONS = {"z_dim": 8, "hidden": 128, "batch_size": 128, "lr": 3e-3}
STEPS = (30, 100, 300, 1_000)
SAMPLED, PAIRS, BETWEEN = (4, 7), 3, 8
HELD_OUT = 300


def latents(rng, n):
    return rng.normal(size=(n, Z)), rng.normal(size=(n, Z))


def draw_latent(rng, n):
    return Case("reparameterize", (*latents(rng, n), rng.normal(size=(n, Z))), kernels.reparameterize)


def divergence(rng, n):
    return Case("kl_standard_normal", latents(rng, n), kernels.kl_standard_normal)


def likelihood(rng, n):
    args = (rng.uniform(size=(n, X)), 5 * rng.normal(size=(n, X)))
    return Case("bernoulli_log_prob", args, kernels.bernoulli_log_prob)


def bound(rng, n):
    args = (rng.uniform(size=(n, X)), 5 * rng.normal(size=(n, X)), *latents(rng, n))
    return Case("elbo", args, kernels.elbo, options={"beta": 0.5})


def importance(rng, n):
    return Case("iwae_bound", (20 * rng.normal(size=(n, 32)),), kernels.iwae_bound)


def digits():
    """Images to train on and images held out, each (N, 64) in [0, 1]."""
    from sklearn.datasets import load_digits

    x = (load_digits().data / 16).astype(np.float32)
    return x[HELD_OUT:], x[:HELD_OUT]


class Model:
    """The person's trained VAE, by the names of the contract in either framework."""

    def __init__(self, m, x, steps):
        self.m = m
        m.step(f"fit on digits, {steps} steps")
        if m.framework == "torch":
            self.native = m.fit(m.to(x), steps=steps, seed=0, **OPTIONS)
        else:
            import jax

            self.native = m.fit(jax.random.key(0), m.to(x), steps=steps, **OPTIONS)

    def encode(self, x):
        call = self.native.encode if self.m.framework == "torch" else lambda x: self.m.encode(self.native, x)
        return [self._plain(part) for part in call(self.m.to(x))]

    def decode(self, z):
        call = self.native.decode if self.m.framework == "torch" else lambda z: self.m.decode(self.native, z)
        return self._plain(call(self.m.to(z)))

    def between(self, x0, x1):
        self.m.step("interpolate")
        return self._plain(self.m.interpolate(self.native, self.m.to(x0), self.m.to(x1), BETWEEN))

    def _plain(self, array):
        found = array.detach() if self.m.framework == "torch" else array
        return self.m.array(found, "a result", dtype="any").astype(np.float64)

    def bound(self, x, eps):
        """The mean ELBO of these images, with one draw from each posterior."""
        mu, logvar = self.encode(x)
        z = kernels.reparameterize(mu, logvar, eps)
        return float(np.mean(kernels.elbo(x.astype(np.float64), self.decode(z), mu, logvar)))


def take(m, rng):
    """Samples from the same latents, walks between the same images, and the held-out bound by steps."""
    x, held_out = digits()
    z, eps = rng.normal(size=(SAMPLED[0] * SAMPLED[1], Z)), rng.normal(size=(HELD_OUT, Z))
    bounds = []
    for steps in STEPS:
        model = Model(m, x, steps)
        bounds.append(model.bound(held_out, eps))
    walks = [model.between(held_out[2 * i], held_out[2 * i + 1]) for i in range(PAIRS)]
    ends = [held_out[2 * i : 2 * i + 2] for i in range(PAIRS)]
    return {
        "samples": kernels.sigmoid(model.decode(z)),
        "walks": np.stack(walks),
        "ends": np.stack(ends),
        "bounds": np.array(bounds),
    }


def mosaic(rows):
    """Images of 8 x 8 side by side, a pixel apart."""
    return np.concatenate([np.concatenate([np.pad(x.reshape(8, 8), (0, 1)) for x in row], axis=1) for row in rows])


def draw(figure, yours, reference):
    grid = figure.add_gridspec(3, 2, height_ratios=(4.1, 3, 3.6))
    for column, (side, data) in enumerate((("yours", yours), ("reference", reference))):
        for row, what in enumerate(("samples", "walks")):
            ax = figure.add_subplot(grid[row, column])
            ax.set_axis_off()
            if data is None:
                continue
            tiles = data[what]
            if what == "samples":
                tiles = tiles.reshape(*SAMPLED, -1)
                ax.set_title(f"{side}: samples from the prior")
            else:
                pairs = zip(data["ends"], tiles, strict=True)
                tiles = [[ends[0], *walk, ends[1]] for ends, walk in pairs]
                ax.set_title("from one held-out digit (left) to another (right)")
            shade(ax, mosaic(tiles), side, top=1.0)
    ax = figure.add_subplot(grid[2, :])
    both(ax, STEPS, *(data["bounds"] if data else None for data in (yours, reference)))
    ax.set(xscale="log", xlabel="steps of training", ylabel="held-out ELBO, nats")
    ax.set_xticks(STEPS, [f"{n:,}" for n in STEPS])
    ax.minorticks_off()


PROBES = (
    Probe("reparameterize", "B", SIZES, draw_latent),
    Probe("kl_standard_normal", "B", SIZES, divergence),
    Probe("bernoulli_log_prob", "B", SIZES, likelihood),
    Probe("elbo", "B", SIZES, bound),
    Probe("iwae_bound", "S", SIZES, importance),
)
PICTURES = (
    Picture(
        "Digits that never were",
        f"Decoded from the same latents in both models, each trained for {STEPS[-1]:,} steps. Below, the way between "
        "the posterior means of two digits that were held out; the digits themselves stand at the ends. "
        "At the foot, the bound on digits that were held out, by the steps of training.",
        "Grids of small digits drawn by the attempt's model and by the reference's, and digits turning into others; "
        "a curve of the held-out bound by steps.",
        take,
        draw,
        size=(9.6, 7.6),
        seconds=60.0,
    ),
)
