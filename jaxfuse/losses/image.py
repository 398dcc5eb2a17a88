"""Distances and likenesses between images, computed in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError


def l1(a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Mean absolute difference over all elements, in the unit of the images."""
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def sobel(images: Float[Array, "b h w m"]) -> tuple[Float[Array, "b h w m"], Float[Array, "b h w m"]]:
    """Sobel responses along rows and along columns of every channel, edges repeated; the images' unit times 8."""
    # Each image by itself: the gradient of a padded batch, though padded by nothing, moves images between devices.
    padded = jax.vmap(lambda image: jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge"))(images.astype(jnp.float32))
    height, breadth = images.shape[1:3]

    def shifted(down: int, right: int) -> Array:
        return padded[:, down : down + height, right : right + breadth]

    column = [shifted(0, j) + 2 * shifted(1, j) + shifted(2, j) for j in (0, 2)]
    row = [shifted(i, 0) + 2 * shifted(i, 1) + shifted(i, 2) for i in (0, 2)]
    return column[1] - column[0], row[1] - row[0]


def sobel_magnitude(images: Float[Array, "b h w m"], width: float = 0.0) -> Float[Array, "b h w m"]:
    """|Sobel_x| + |Sobel_y| of every channel, as of `sobel`.

    With a positive `width`, each absolute value is sqrt(r^2 + width^2) - width, which has a curvature.
    """
    along, across = sobel(images)
    if width > 0:
        return jnp.sqrt(along**2 + width**2) + jnp.sqrt(across**2 + width**2) - 2 * width
    return jnp.abs(along) + jnp.abs(across)


def gradient_length(images: Float[Array, "b h w m"]) -> Float[Array, "b h w m"]:
    """The length of the gradient of every channel by Sobel's responses: 1 on a ramp of 1 per pixel, 1e-4 where flat."""
    along, across = sobel(images)
    # The root's derivative at zero is infinite.
    return jnp.sqrt(jnp.square(along / 8) + jnp.square(across / 8) + 1e-8)


def neighbor_difference(images: Float[Array, "b h w m"]) -> Float[Array, "b h w m"]:
    """The mean of a pixel's eight neighbors minus the pixel, by channel; 0 lies beyond the border.

    DDcGAN and U2Fusion take it for the gradient of an image or of a map of features.
    """
    images = images.astype(jnp.float32)
    height, breadth = images.shape[1:3]
    padded = jax.vmap(lambda image: jnp.pad(image, ((1, 1), (1, 1), (0, 0))))(images)
    rows = padded[:, :height] + padded[:, 1 : height + 1] + padded[:, 2:]
    blocks = rows[:, :, :breadth] + rows[:, :, 1 : breadth + 1] + rows[:, :, 2:]
    return (blocks - images) / 8 - images


def gradient_difference(a: Float[Array, "b h w m"], b: Float[Array, "b h w m"]) -> Float[Array, "b m"]:
    """Mean absolute difference of the gradients of two images, by sample and channel; in the unit of the images.

    The mean is over pixels and both directions, each response of `sobel` divided by 8.
    """
    # Gradients are linear.
    along, across = sobel(a.astype(jnp.float32) - b.astype(jnp.float32))
    return (jnp.abs(along) + jnp.abs(across)).mean((1, 2)) / 16


def ssim(a: Float[Array, "b h w m"], b: Float[Array, "b h w m"], *, data_range: float = 1.0) -> Float[Array, "b m"]:
    """Structural similarity by sample and channel (Wang et al. 2004): 11x11 Gaussian window of sd 1.5, valid windows.

    1 for equal images. Sides of at least 11 pixels.
    """
    return ssim_map(a, b, data_range=data_range).mean((1, 2))


def ssim_map(
    a: Float[Array, "b h w m"], b: Float[Array, "b h w m"], *, data_range: float = 1.0
) -> Float[Array, "b windows_h windows_w m"]:
    """The likeness of every window of `ssim`, at the pixels that are 5 or more away from the border."""
    if min(a.shape[1:3]) < 11:
        raise UserError(f"SSIM has windows of 11 x 11 pixels, got images of {a.shape[1:3]}; use larger ones")
    offsets = jnp.arange(11) - 5
    window = jnp.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    height, breadth = a.shape[1] - 10, a.shape[2] - 10

    def smooth(images: Array) -> Array:
        # Separable, as sums of shifted images: no convolution with one channel a group, which is slow on CPU.
        rows = jnp.asarray(sum(window[i] * images[:, i : i + height] for i in range(11)))
        return jnp.asarray(sum(window[j] * rows[:, :, j : j + breadth] for j in range(11)))

    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    mean_a, mean_b = smooth(a), smooth(b)
    var_a, var_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return luminance * structure
