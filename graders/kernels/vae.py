"""The variational autoencoder's parts in plain NumPy: Kingma & Welling 2014, Burda et al. 2016, with their gradients.

Each keeps its inputs' dtype, so that in the working dtype it shows how far a right formula may be off.
"""

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]


def reparameterize(mu: np.ndarray, logvar: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """A draw from N(mu, exp(logvar)) that is the image of eps; (B, Z)."""
    return eps * np.exp(logvar * logvar.dtype.type(0.5)) + mu


def reparameterize_backward(upstream: np.ndarray, mu: np.ndarray, logvar: np.ndarray, eps: np.ndarray) -> Pair:
    """Gradients of mu and logvar."""
    spread = np.exp(logvar * logvar.dtype.type(0.5))
    return upstream, upstream * eps * spread * mu.dtype.type(0.5)


def kl_standard_normal(mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """KL(N(mu, exp(logvar)) || N(0, 1)), summed over the latent axis, in nats; (B,)."""
    one, half = mu.dtype.type(1), mu.dtype.type(0.5)
    return np.sum(half * (np.square(mu) + np.exp(logvar) - logvar - one), axis=-1)


def kl_standard_normal_backward(upstream: np.ndarray, mu: np.ndarray, logvar: np.ndarray) -> Pair:
    """Gradients of mu and logvar."""
    row = upstream[:, None]
    return row * mu, row * (np.exp(logvar) - mu.dtype.type(1)) * mu.dtype.type(0.5)


def log_normal_ratio(z: np.ndarray, mu: np.ndarray, logvar: np.ndarray) -> np.ndarray:
    """log N(z; mu, exp(logvar)) - log N(z; 0, 1), whose mean over draws z is the KL; summed over the latent axis."""
    inside = np.square(z - mu) / np.exp(logvar) + logvar
    return (np.square(z) - inside).sum(-1) / 2


def bernoulli_log_prob(x: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """x log p + (1 - x) log(1 - p) with p = sigmoid(logits), summed over the pixels; (B,)."""
    one = logits.dtype.type(1)
    small = np.log1p(np.exp(-np.abs(logits)))
    log_p = np.minimum(logits, 0) - small
    log_not_p = np.minimum(-logits, 0) - small
    return np.sum(x * log_p + (one - x) * log_not_p, axis=-1)


def bernoulli_log_prob_backward(upstream: np.ndarray, x: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray]:
    """The gradient of logits."""
    return (upstream[:, None] * (x - sigmoid(logits)),)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), without overflow."""
    one = logits.dtype.type(1)
    tail = np.exp(-np.abs(logits))
    return np.where(logits >= 0, one, tail) / (one + tail)


def elbo(x: np.ndarray, logits: np.ndarray, mu: np.ndarray, logvar: np.ndarray, *, beta: float = 1.0) -> np.ndarray:
    """The likelihood less beta times the KL; (B,)."""
    return bernoulli_log_prob(x, logits) - mu.dtype.type(beta) * kl_standard_normal(mu, logvar)


def elbo_backward(
    upstream: np.ndarray,
    x: np.ndarray,
    logits: np.ndarray,
    mu: np.ndarray,
    logvar: np.ndarray,
    *,
    beta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of logits, mu and logvar."""
    d_mu, d_logvar = kl_standard_normal_backward(upstream * mu.dtype.type(-beta), mu, logvar)
    return *bernoulli_log_prob_backward(upstream, x, logits), d_mu, d_logvar


def iwae_bound(log_w: np.ndarray) -> np.ndarray:
    """log of the mean over the samples of exp(log_w); (S, B) -> (B,)."""
    top = log_w.max(axis=0)
    return top + np.log(np.mean(np.exp(log_w - top), axis=0))


def iwae_one_by_one(log_w: np.ndarray) -> np.ndarray:
    """The same, sample after sample, as right but for more roundings."""
    return np.logaddexp.reduce(log_w, axis=0) - np.log(log_w.dtype.type(len(log_w)))


def iwae_bound_backward(upstream: np.ndarray, log_w: np.ndarray) -> tuple[np.ndarray]:
    """The gradient of log_w: each sample by its share of the weights.

    By way of the bound itself, which rounds as log_w does where that is large; so do right attempts.
    """
    return (upstream * np.exp(log_w - iwae_bound(log_w)) / log_w.dtype.type(len(log_w)),)
