"""Losses for classes of very unequal size, between logits and a label map. All of them are computed in float32.

Combo, focal and Tversky are defined for one class against the rest (Taghanaki et al. 2019; Lin et al. 2017; Salehi et
al. 2017). With two classes that one is the foreground; with more, each foreground class is set against all others and
the values are averaged, as in the ablation of HyperFusionNet. Its Dice is `losses.overlap:dice_loss_of_logits` with
`over_batch=True, eps=1.0`. Sums and means run over the voxels of the whole batch.

Generalized Dice and weighted cross-entropy (InfiNet) weigh classes by `frequencies`, the share of each class among
the voxels of the training cases, background included. A config leaves that argument out: it is filled in from the data.

Voxels labeled `IGNORED` count in no sum and no mean, and no gradient comes from them. Any other index outside 0..k-1 in
a label map belongs to no class: it counts as "rest" everywhere, and adds nothing to weighted cross-entropy but its
place in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64

from jaxfuse.arrays import Array, Float, Label, Logits
from jaxfuse.errors import UserError
from jaxfuse.losses.overlap import known

_LEAST = 1e-7  # Combo's probabilities are clipped to [_LEAST, 1 - _LEAST]

# How Combo joins its two logarithms: (y log s, (1 - y) log(1 - s), beta) -> entropy. Eq. 4 of HyperFusionNet can be
# read in two ways, and a popular collection of losses has the third.
_COMBO_FORMS: Mapping[str, Callable[[Array, Array, float], Array]] = {
    "weighted": lambda inside, outside, beta: -(beta * inside + (1 - beta) * outside),
    "literal": lambda inside, outside, beta: -beta * inside + (1 - beta) * outside,
    "scaled": lambda inside, outside, beta: -beta * (inside + (1 - beta) * outside),
}


class _AgainstRest(NamedTuple):
    """Each scored class against all others: (b *space c)."""

    log_s: Array  # log of its probability
    log_rest: Array  # log of 1 minus that, from the logits too: exact where the probability rounds to 1
    y: Array  # 1 where the label names it, else 0
    known: Array  # (b *space 1): whether the voxel counts

    def mean(self, terms: Array) -> Array:
        """The mean over classes and over the voxels that count, or 0 where none does."""
        counted = jnp.maximum(self.known.sum() * terms.shape[-1], 1)
        return jnp.where(self.known, terms, 0.0).sum() / counted

    @property
    def s(self) -> Array:
        """The probability, 0 where the voxel does not count."""
        return jnp.where(self.known, jnp.exp(self.log_s), 0.0)


def _against_rest(logits: Logits, label: Label, include_background: bool) -> _AgainstRest:
    classes = logits.shape[-1]
    if classes < 2:
        raise UserError(f"a class is set against the rest, but the logits have {classes} class; give them at least 2")
    first = 0 if include_background else 1
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    others = [jax.nn.logsumexp(jnp.delete(log_probs, c, axis=-1), axis=-1) for c in range(first, classes)]
    y = jax.nn.one_hot(label, classes, dtype=jnp.float32)[..., first:]
    return _AgainstRest(log_probs[..., first:], jnp.stack(others, axis=-1), y, known(label)[..., None])


def combo(
    logits: Logits,
    label: Label,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    eps: float = 1.0,
    form: str = "weighted",
    include_background: bool = False,
) -> Float[Array, ""]:
    """alpha * entropy - (1 - alpha) * Dice (HyperFusionNet, Eq. 4), at least -(1 - alpha) unless `form` is "literal".

    Dice is (2 sum s y + eps) / (sum s + sum y + eps). The entropy is the mean over voxels of, by `form`:

    - "weighted": -[beta y log s + (1 - beta) (1 - y) log(1 - s)];
    - "literal": -beta y log s + (1 - beta) (1 - y) log(1 - s), the equation to the letter. It **rewards false
      positives**: at y = 0 it falls as s grows. For comparison only;
    - "scaled": -beta [y log s + (1 - beta) (1 - y) log(1 - s)].

    s is clipped to [1e-7, 1 - 1e-7] in the logarithms: beyond, a voxel has a gradient by its Dice alone. The paper
    gives none of the constants; these are the defaults of public implementations.

    Raises:
        UserError: an unknown form, or fewer than two classes.
    """
    if form not in _COMBO_FORMS:
        raise UserError(f"form is {form!r}; choose one of {', '.join(_COMBO_FORMS)}")
    log_s, log_rest, y, _ = against = _against_rest(logits, label, include_background)
    low, high = float(np.log(_LEAST)), float(np.log1p(-_LEAST))
    inside, outside = y * jnp.clip(log_s, low, high), (1 - y) * jnp.clip(log_rest, low, high)
    entropy = against.mean(_COMBO_FORMS[form](inside, outside, beta))
    s, voxels = against.s, tuple(range(y.ndim - 1))
    overlap = (2 * (s * y).sum(voxels) + eps) / (s.sum(voxels) + y.sum(voxels) + eps)
    return alpha * entropy - (1 - alpha) * overlap.mean()


def focal(
    logits: Logits, label: Label, *, gamma: float = 2.0, alpha: float = 0.25, include_background: bool = False
) -> Float[Array, ""]:
    """Mean over voxels of -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, Eq. 5), in nats.

    p_t is s where the label names the class and 1 - s elsewhere; alpha_t is alpha and 1 - alpha likewise. The factor is
    that of the voxel itself; code that takes it of the mean of a batch is another loss.
    """
    log_s, log_rest, y, _ = against = _against_rest(logits, label, include_background)
    hit = -alpha * jnp.exp(gamma * log_rest) * log_s
    rejected = -(1 - alpha) * jnp.exp(gamma * log_s) * log_rest
    return against.mean(y * hit + (1 - y) * rejected)


def tversky(
    logits: Logits,
    label: Label,
    *,
    a: float = 0.3,
    b: float = 0.7,
    eps: float = 1.0,
    include_background: bool = False,
) -> Float[Array, ""]:
    """1 - (TP + eps) / (TP + a FP + b FN + eps) with soft counts (Salehi et al. 2017), in [0, 1).

    `b` above `a` punishes what is missed more than what is invented. With a = b = 1/2 it is a Dice loss that smooths
    with 2 eps.
    """
    _, log_rest, y, _ = against = _against_rest(logits, label, include_background)
    s, voxels = against.s, tuple(range(y.ndim - 1))
    tp, fp = (s * y).sum(voxels), (s * (1 - y)).sum(voxels)
    fn = (jnp.exp(log_rest) * y).sum(voxels)
    return 1 - ((tp + eps) / (tp + a * fp + b * fn + eps)).mean()


def generalized_dice(
    logits: Logits, label: Label, *, frequencies: Sequence[float], eps: float = 1e-7
) -> Float[Array, ""]:
    """1 - 2 sum_k w_k sum_x s y / sum_k w_k sum_x (s + y) over all classes, in [0, 1] (InfiNet; Sudre et al. 2017).

    w_k = 1 / f_k^2, scaled to sum 1 before `eps` is added above and below: only then is eps small beside them. The
    printed formula lacks the sum over classes, without which it is no single number.

    Args:
        frequencies: f_k, positive, of every class and the background.
    """
    w = _class_weights(frequencies, logits.shape[-1], lambda f: f**-2.0 / (f**-2.0).sum())
    s = jnp.where(known(label)[..., None], jax.nn.softmax(logits.astype(jnp.float32)), 0.0)
    y = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    voxels = tuple(range(y.ndim - 1))
    overlap = (w * (s * y).sum(voxels)).sum()
    return 1 - (2 * overlap + eps) / ((w * (s + y).sum(voxels)).sum() + eps)


def weighted_cross_entropy(logits: Logits, label: Label, *, frequencies: Sequence[float]) -> Float[Array, ""]:
    """Mean over voxels of -w_y log softmax(logits)_y, in nats, balanced by the median frequency (InfiNet's U-Nets).

    w_k = median(f) / f_k; of an even number of classes the median is the mean of the middle two.

    Args:
        frequencies: f_k, positive, of every class and the background.
    """
    w = _class_weights(frequencies, logits.shape[-1], lambda f: np.median(f) / f)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    y = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    w = w.reshape((1,) * (y.ndim - 1) + (-1,))
    return -(w * y * log_probs).sum() / jnp.maximum(known(label).sum(), 1)


def _class_weights(
    frequencies: Sequence[float],
    classes: int,
    rule: Callable[[Float64[np.ndarray, " k"]], Float64[np.ndarray, " k"]],
) -> Float[Array, " k"]:
    """The weights by class, computed on the host in double precision."""
    f = np.asarray(frequencies, np.float64)
    if f.shape != (classes,):
        raise UserError(f"frequencies has {f.size} values for {classes} classes; give one of each, background first")
    if not np.all(np.isfinite(f) & (f > 0)):
        raise UserError(f"frequencies is {tuple(f.tolist())}; a class that never occurs has no weight: leave it out")
    return jnp.asarray(rule(f), jnp.float32)
