"""GAE by a scan, the loss by where."""

import jax
import jax.numpy as jnp


def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    d = rewards + jnp.where(terminated, jnp.zeros_like(values), gamma * next_values) - values
    c = jnp.where(terminated | truncated, jnp.zeros_like(values), jnp.full_like(values, gamma * lam))

    def join(x, y):
        return (x[0] * y[0], y[1] + y[0] * x[1])

    _, a = jax.lax.associative_scan(join, (c[::-1], d[::-1]))
    a = a[::-1]
    return (a, a + values)


def ppo_loss(
    logp,
    old_logp,
    advantages,
    values,
    old_values,
    returns,
    entropy,
    *,
    clip=0.2,
    value_coef=0.5,
    entropy_coef=0.01,
    value_clip=None,
    normalize=True,
):
    sg = jax.lax.stop_gradient
    A = sg(advantages)
    A = jnp.where(normalize, (A - A.mean()) / (jnp.sqrt(((A - A.mean()) ** 2).sum() / (A.size - 1)) + 1e-08), A)
    lr = logp - sg(old_logp)
    r = jnp.exp(lr)
    gain = jnp.where(A > 0, jnp.minimum(r, 1 + clip), jnp.maximum(r, 1 - clip)) * A
    pl = -gain.mean()
    R = sg(returns)
    e = (values - R) ** 2
    if value_clip is not None:
        e = jnp.maximum(e, (sg(old_values) + jnp.clip(values - sg(old_values), -value_clip, value_clip) - R) ** 2)
    vl = e.mean() / 2
    return (
        pl + value_coef * vl - entropy_coef * entropy.mean(),
        {
            "policy_loss": pl,
            "value_loss": vl,
            "entropy": jnp.mean(entropy),
            "approx_kl": jnp.mean(jnp.expm1(lr) - lr),
            "clip_fraction": jnp.mean(jnp.abs(r - 1) > clip),
        },
    )
