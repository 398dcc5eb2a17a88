"""Hi-Net's critic: is a patch of the target real?

The paper says four convolutions and lists five; the size of its score maps settles it: four of stride 2, and a last one
of stride 1 without padding. No sigmoid.
"""

from __future__ import annotations

import flax.linen as nn

from jaxfuse.arrays import Array, Float
from jaxfuse.errors import UserError
from jaxfuse.models.hinet.form import HiNetForm, leaky_relu
from jaxfuse.models.hinet.layers import There
from jaxfuse.nn.conv import Conv

HALVINGS = 4
# Halved four times, rounding up, it leaves the 3 pixels that the last kernel needs.
LEAST_SIDE = 2 * 2**HALVINGS + 1


class Critic(nn.Module):
    """Image in [-1, 1] -> one unbounded score per patch, float32; 128x128 pixels leave 6x6 scores.

    Raises (when traced):
        UserError: a side is shorter than 33 pixels.
    """

    form: HiNetForm

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w m"], there: There = None, *, train: bool = False
    ) -> Float[Array, "b scores_h scores_w 1"]:
        if min(image.shape[1:3]) < LEAST_SIDE:
            raise UserError(
                f"Hi-Net's critic halves its image {HALVINGS} times and needs sides of at least {LEAST_SIDE} pixels, "
                f"got {image.shape[1:3]}; use larger patches"
            )
        form, x = self.form, image
        for layer in range(1, HALVINGS + 1):
            x = Conv(form.critic_width * 2 ** (layer - 1), 3, 2, **form.common, name=f"down_{layer}")(x)
            if layer > 1 or form.critic_first_norm:
                x = form.norm(f"norm_{layer}", train, form.critic_norm_eps)(x, there)
            x = leaky_relu(x)
        # In float32 even on bfloat16 features, so that losses start from full precision.
        return Conv(1, 3, padding=0, kernel_init=form.kernel_init, name="score")(x)
