"""Facts and forms that the tests of Fuse4Seg's phases share: three modalities, three classes, small critics."""

from dataclasses import replace
from functools import partial

import jax

from jaxfuse.losses.overlap import dice_and_cross_entropy
from jaxfuse.models.fuse4seg.judging import CriticForm

NAMES = ("t1", "t1ce", "t2")
CLASSES = 3
ALL = ("fusion", "critics", "segmentation")
CRITICS = CriticForm(critic_base=2, kernel_init=jax.nn.initializers.lecun_normal())
NO_CRITICS = replace(CRITICS, adversarial_weight=0.0)
EQ_14 = partial(
    dice_and_cross_entropy,
    include_background=True,
    squared=True,
    over_batch=True,
    dice_weight=0.5,
    entropy_weight=0.5,
)
