"""Hi-Net from any sources to any target: one network that makes whichever modality lacks of those that are there.

Source: "Hi-Net: Hybrid-fusion Network for Multi-modal MR Image Synthesis" (Zhou et al., IEEE TMI 2020), as
`jaxfuse.models.hinet.make` reads it: an autoencoder of its own for each modality, mixed fusion level by level, one
synthesis network and one critic, and the paper's losses.

Departs from the paper, whose network has two sources and one target:

- each step draws of each example a target and a subset of its other modalities as sources;
- of P sources f_i that are there the mixed block takes 2/P sum f_i, the mean of f_i f_j over all pairs (f^2 of one
  source alone) and max f_i, side by side; of two sources that is the paper's block. A source that is not there is left
  out, whatever stands in its place;
- the maps of the synthesis network are scaled and shifted (as FiLM does, Perez et al., 2018) by what one hidden layer
  makes of the target and of the sources' presence; it begins as the identity;
- the critic is told the target, by one constant channel for each;
- batch normalization of a source's autoencoder counts the examples alone that show it.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxfuse.errors import UserError
from jaxfuse.learning.networks import LinenNetwork
from jaxfuse.learning.state import Optimizers
from jaxfuse.models.hinet.any_network import AnyToAny, TargetCritic
from jaxfuse.models.hinet.any_system import AnySynthesis
from jaxfuse.models.hinet.any_task import any_task_of
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.make import FORM, LOSSES, LossForm, shared_options


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    form: HiNetForm = FORM,
    losses: LossForm = LOSSES,
) -> AnySynthesis:
    """Hi-Net for sources and targets such as ("t1+t1ce+t2+flair", "t1+t1ce+t2+flair").

    Raises:
        UserError: an option has none of its values, or one that this network does not read.
    """
    form.check()
    mixed = {"kind": "hybrid", "fusion_block": "mixed", "synthesis_block": "mixed"}
    for name, value in mixed.items():
        if (asked := getattr(form, name)) != value:
            raise UserError(f"{name} is {asked!r}, but Hi-Net from any sources to any target is {value!r}; remove it")
    task = any_task_of(pairs, modalities)
    return AnySynthesis(
        generator=LinenNetwork(AnyToAny(form, task.sources)),
        critic=LinenNetwork(TargetCritic(form)),
        task=task,
        **shared_options(form, losses, optimizers),
    )
