"""Hi-Net: a modality of brain MRI synthesized from two or three others, slice by slice.

Source: "Hi-Net: Hybrid-fusion Network for Multi-modal MR Image Synthesis" (Zhou et al., IEEE TMI 2020) and what its
public code does. An autoencoder per source learns what is particular to it; a fusion network joins their maps at each
level; a synthesis network reads the fused maps, and those of every source again; a critic judges the target.

Departs from the paper where its code does: least squares in place of the logarithm (`gan="bce"` for that), a critic
that sees the target alone and whose first layer is not normalized, LeakyReLU in the fusion network, images that end in
tanh. Departs from the code: prediction normalizes by running statistics, and the critic's step sends no gradient to the
generator. Running variances are those of the batch (divided by n, not n - 1), and biases start at zero. Three sources
are an extension: neither has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxfuse.errors import UserError
from jaxfuse.learning.networks import LinenNetwork
from jaxfuse.learning.state import Optimizers
from jaxfuse.learning.synthesis_task import task_of
from jaxfuse.learning.system import Geometry
from jaxfuse.losses.adversarial import GanForm, gan_form
from jaxfuse.models.hinet.critic import Critic
from jaxfuse.models.hinet.form import HiNetForm
from jaxfuse.models.hinet.networks import DIVISOR, GENERATORS
from jaxfuse.models.hinet.system import HybridSynthesis

# Cross-entropy of logits is the game whose maker does not stall where the critic is sure.
GANS = {"lsgan": "lsgan", "bce": "nonsaturating"}
RECONSTRUCTION_WEIGHT = 20.0


@dataclass(frozen=True)
class LossForm:
    """Weights and form of the losses.

    Attributes:
        target_weight: of the target's mean absolute error (lambda1).
        reconstruction_weight: of each source's (lambda2); None is the paper's 20 for a network that reconstructs.
        gan: "lsgan" (least squares, what the public code runs) or "bce" (cross-entropy, Eqs. 4 and 5 with a generator
            that maximizes log D).
    """

    target_weight: float = 100.0
    reconstruction_weight: float | None = None
    gan: str = "lsgan"

    def game(self) -> GanForm:
        if self.gan not in GANS:
            raise UserError(f"gan is {self.gan!r}; choose one of {', '.join(GANS)}")
        return gan_form(GANS[self.gan])

    def of_sources(self, form: HiNetForm) -> float:
        """The weight of each source's error; 0 for a network that gives none back.

        Raises:
            UserError: a weight is asked for there, or is negative.
        """
        if self.target_weight < 0 or (self.reconstruction_weight or 0) < 0:
            raise UserError(
                f"target_weight is {self.target_weight} and reconstruction_weight {self.reconstruction_weight}; "
                "neither may be negative"
            )
        if not form.reconstructs and self.reconstruction_weight:
            raise UserError(
                f"reconstruction_weight is {self.reconstruction_weight}, but a network of kind {form.kind!r} gives no "
                "source back; remove it"
            )
        if not form.reconstructs:
            return 0.0
        return RECONSTRUCTION_WEIGHT if self.reconstruction_weight is None else self.reconstruction_weight


FORM = HiNetForm()
LOSSES = LossForm()


def shared_options(form: HiNetForm, losses: LossForm, optimizers: Optimizers) -> dict[str, Any]:
    """Options of the learning rule, whichever sources and target it has.

    Raises:
        UserError: an option of the losses has none of its values, or does not fit the network.
    """
    return {
        "game": losses.game(),
        "target_weight": losses.target_weight,
        "reconstruction_weight": losses.of_sources(form),
        "conditional": form.conditional,
        "batch_stats_at_test": form.bn_batch_stats_at_test,
        "optimizers": optimizers,
        "geometry": Geometry(2, DIVISOR),
    }


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    form: HiNetForm = FORM,
    losses: LossForm = LOSSES,
) -> HybridSynthesis:
    """Hi-Net for sources and a target such as ("t1+t2", "flair")."""
    form.check()
    task = task_of(pairs, modalities)
    return HybridSynthesis(
        generator=LinenNetwork(GENERATORS[form.kind](form, task.sources)),
        critic=LinenNetwork(Critic(form)),
        task=task,
        reconstructs=form.reconstructs,
        **shared_options(form, losses, optimizers),
    )
