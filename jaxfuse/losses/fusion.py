"""Losses of image fusion (Fuse4Seg 2024, Eqs. 9-14, as far as they can be read), for any subset of modalities.

Images are (b h w m) with a slot for each modality, and `presence` (b m) says with 1 and 0 which slots hold one; the
others count for nothing, whatever they contain. Everything is computed in float32.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxfuse.arrays import Array, Float
from jaxfuse.losses.image import sobel_magnitude, ssim

# Weights by which a picture in gray, in red and cyan, or in red, green and blue is seen in gray (ITU-R BT.601).
SEEN_IN_GRAY = {1: (1.0,), 2: (0.299, 0.701), 3: (0.299, 0.587, 0.114)}
Images = Float[Array, "b h w m"]
Presence = Float[Array, "b m"]
Bands = Float[Array, "b h w c m"]


def present_mean(values: Float[Array, "b m"], presence: Presence) -> Float[Array, ""]:
    """Mean over samples of the mean over the modalities that a sample has; 0 where it has none."""
    weights = presence.astype(jnp.float32)
    # Absent values are cut off before they are weighed: 0 times infinity would not be 0.
    kept = jnp.where(weights > 0, values.astype(jnp.float32), 0)
    return (kept.sum(1) / jnp.maximum(weights.sum(1), 1)).mean()


def in_gray(image: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    """The luminance of a fused image of one, two or three channels: itself, of one."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array(SEEN_IN_GRAY[image.shape[-1]], jnp.float32)
    return (image.astype(jnp.float32) * weights).sum(-1, keepdims=True)


def reconstruction(sources: Images, made: Images, presence: Presence) -> Float[Array, ""]:
    """Eq. 12 for every modality: squared error (per-pixel mean) + 1 - SSIM, averaged over the modalities present."""
    squared = jnp.square(sources.astype(jnp.float32) - made.astype(jnp.float32)).mean((1, 2))
    return present_mean(squared + 1 - ssim(sources, made), presence)


def band_correlation(low: Bands, high: Bands, presence: Presence) -> Float[Array, ""]:
    """Eq. 11, mean over pairs of modalities: CC(high)^2 / (CC(low) + 1.01), CC by sample and channel over pixels.

    Low bands should agree and high bands should not. The denominator lies in [0.01, 2.01]; clip the gradient. 0 for
    a sample with one modality.
    """
    slots = low.shape[-1]
    firsts, seconds = jnp.triu_indices(slots, 1)

    def correlation(bands: Bands) -> Float[Array, "b p"]:
        flat = bands.astype(jnp.float32).reshape(bands.shape[0], -1, bands.shape[3], slots)
        flat = flat - flat.mean(1, keepdims=True)
        a, b = flat[..., firsts], flat[..., seconds]
        # Added inside the root, so that a constant channel has a derivative.
        norms = jnp.sqrt(jnp.square(a).sum(1) * jnp.square(b).sum(1) + 1e-12)
        return jnp.clip((a * b).sum(1) / norms, -1, 1).mean(1)

    both = presence[:, firsts] * presence[:, seconds]
    return present_mean(jnp.square(correlation(high)) / (correlation(low) + 1.01), both)


def fusion_content(
    fused: Float[Array, "b h w c"],
    sources: Images,
    presence: Presence,
    *,
    intensity: float = 1.0,
    gradient: float = 10.0,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Eq. 13 with CDDFuse's intensity term: the fused image against the maxima over the modalities present.

    intensity * mean |fused - max sources| + gradient * mean ||grad fused| - max |grad sources||, |grad| being the sum
    of the absolute Sobel responses. `intensity=0` is the printed form, which leaves the mean gray level free. Of a
    fused image in color its luminance is compared: hues are free.
    Returns the sum and both terms, unweighted, as "intensity" and "gradient".
    """
    fused, sources = in_gray(fused).astype(jnp.float32), sources.astype(jnp.float32)
    shown = presence[:, None, None, :] > 0
    brightest = jnp.where(shown, sources, 0).max(-1, keepdims=True)
    steepest = jnp.where(shown, sobel_magnitude(jnp.where(shown, sources, 0)), 0).max(-1, keepdims=True)
    terms = {
        "intensity": jnp.abs(fused - brightest).mean(),
        "gradient": jnp.abs(sobel_magnitude(fused) - steepest).mean(),
    }
    return intensity * terms["intensity"] + gradient * terms["gradient"], terms


def smooth_fusion_energy(
    fused: Float[Array, "b h w 1"],
    output: Float[Array, "b h w 1"],
    sources: Images,
    presence: Presence,
    *,
    gamma: float,
    kappa: float = 1.0,
    width: float = 1e-2,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The pixel-level energy E(theta; phi) = |theta - Phi|^2 / 2 + gamma * l(theta), summed over pixels and samples.

    l = sum h(theta - max M) + kappa * sum h(|grad theta| - max |grad M|), with h(r) = sqrt(r^2 + width^2) - width and
    |grad| smoothed the same way: an L1 norm has no curvature that automatic differentiation could see. `fused` is
    theta, `output` the fusion network's Phi. Returns the energy and its residuals for Gauss-Newton.
    """
    fused, output, sources = (array.astype(jnp.float32) for array in (fused, output, sources))
    shown = presence[:, None, None, :] > 0
    brightest = jnp.where(shown, sources, 0).max(-1, keepdims=True)
    steepest = jnp.where(shown, sobel_magnitude(jnp.where(shown, sources, 0)), 0).max(-1, keepdims=True)
    residuals = {
        "fidelity": fused - output,
        "intensity": fused - brightest,
        "gradient": sobel_magnitude(fused, width) - steepest,
    }
    return fusion_energy_of(residuals, gamma=gamma, kappa=kappa, width=width), residuals


def fusion_energy_of(residuals: dict[str, Array], *, gamma: float, kappa: float, width: float) -> Float[Array, ""]:
    """The convex function of the residuals whose value is the energy."""

    def smooth(r: Array) -> Array:
        return (jnp.sqrt(jnp.square(r) + width**2) - width).sum()

    penalty = smooth(residuals["intensity"]) + kappa * smooth(residuals["gradient"])
    return 0.5 * jnp.square(residuals["fidelity"]).sum() + gamma * penalty
