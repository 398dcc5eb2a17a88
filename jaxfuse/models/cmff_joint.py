"""CMFT and CMFF trained at once, which the paper names and rejects for memory.

Departs from the paper: one trunk per group of modalities is shared between translation and segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax

from jaxfuse.arrays import Array, Batch, Key, Logits, Metrics, Params
from jaxfuse.learning.adversarial import Cycle, CycleLosses, cyclic_update, empty_pool
from jaxfuse.learning.state import Optimizers, State, create_state, initializer_key
from jaxfuse.learning.system import Defaults, Geometry, SegmentationLoss
from jaxfuse.models.cmff import Fusion, FusionForm, fusion_objective
from jaxfuse.models.cmft import Critics, CycleForm, ImageA, ImageB, Network, Pairing, UNetForm, pairing
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.presence import ZEROED


@dataclass(frozen=True)
class JointTraining(Defaults):
    """CMFT and CMFF at once, on trunks that both share.

    Per step L_G(CMFT) + segmentation_weight * (L_seg(S_A) + L_seg(S_B) + L_seg(S_F)) moves the player `net`
    (trunks, translation heads, segmentation heads, S_F), then the critics move. One pass of a trunk over a real
    image gives its fake and its segmentation; two further passes close the cycles. Examples without a label learn
    by translation alone. With `share_trunk=False`
    the generators have trunks of their own, and only the objective is joint.
    """

    fusion: Fusion
    ab: Network
    ba: Network
    critics: Critics
    pairing: Pairing
    loss: SegmentationLoss
    segmentation_weight: float
    share_trunk: bool
    optimizers: Optimizers
    losses: CycleLosses
    pool_size: int
    geometry: Geometry

    players = ("net", "discriminators")
    accepts_unlabeled = True
    primary = "S_F"
    probabilities = ("S_A", "S_B", "S_F")

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        image_a, image_b = self.pairing.split(batch)
        key_fusion, key_ab, key_ba, key_critics = jax.random.split(initializer_key(rng), 4)
        net = self.fusion.init(key_fusion, image_a, image_b)
        generators = {"ab": self.ab.init(key_ab, image_a), "ba": self.ba.init(key_ba, image_b)}
        if self.share_trunk:
            generators = {side: {"head": generator["head"]} for side, generator in generators.items()}
        params = {
            "net": {**net, "translation": generators},
            "discriminators": self.critics.init(key_critics, image_a, image_b),
        }
        pool = {"a": empty_pool(self.pool_size, image_a), "b": empty_pool(self.pool_size, image_b)}
        return create_state(rng, params, self.optimizers, memory={"pool": pool})

    def generators(self, net: Params) -> tuple[Params, Params]:
        """Parameters of G_AB and G_BA; their trunks are those of S_A and S_B where they are shared."""
        ab, ba = net["translation"]["ab"], net["translation"]["ba"]
        if self.share_trunk:
            return {**ab, "trunk": net["branch_a"]["trunk"]}, {**ba, "trunk": net["branch_b"]["trunk"]}
        return ab, ba

    def forward(self, net: Params, image_a: ImageA, image_b: ImageB) -> tuple[Cycle, dict[str, Logits]]:
        """Both translations with their cycles, and the three segmentations."""
        params_ab, params_ba = self.generators(net)
        features_a, features_b = features = self.fusion.features(net, (image_a, image_b))
        logits = self.fusion.read(net, features)
        if self.share_trunk:
            fake_b, fake_a = self.ab.read_out(params_ab, features_a), self.ba.read_out(params_ba, features_b)
        else:
            fake_b, fake_a = self.ab(params_ab, image_a), self.ba(params_ba, image_b)
        return Cycle(fake_a, fake_b, self.ba(params_ba, fake_b), self.ab(params_ab, fake_a)), logits

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        image_a, image_b = self.pairing.split(batch)

        def translate(net: Params) -> tuple[Cycle, Array, Metrics]:
            cycle, logits = self.forward(net, image_a, image_b)
            loss, terms = fusion_objective(logits, batch["label"], self.loss)
            return cycle, self.segmentation_weight * loss, terms

        return cyclic_update(
            state,
            image_a,
            image_b,
            optimizers=self.optimizers,
            maker="net",
            translate=translate,
            judge=self.critics.judge,
            losses=self.losses,
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        logits = self.fusion(state.params["net"], *self.pairing.split(batch))
        _, terms = fusion_objective(logits, batch["label"], self.loss)
        return {f"net/{name}": value for name, value in terms.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        # Translations are left out: nothing that is labeled reads them, and their cycles are two more passes of U-Nets.
        logits = self.fusion(state.params["net"], *self.pairing.split(inputs))
        return {name: jax.nn.softmax(value) for name, value in logits.items()}

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        net = params["net"]
        return {
            "S_A": net["branch_a"],
            "S_B": net["branch_b"],
            "S_F": net["fusion"],
            "translation": net["translation"],
            "D_A": params["discriminators"]["a"],
            "D_B": params["discriminators"]["b"],
        }


def make_joint(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    classes: int,
    pairs: Sequence[str],
    loss: SegmentationLoss,
    unet: UNetForm = UNetForm(),
    fusion: FusionForm = FusionForm(),
    cycle: CycleForm = CycleForm(),
    segmentation_weight: float = 1.0,
    share_trunk: bool = True,
) -> JointTraining:
    """CMFT and CMFF trained together, on examples that have all modalities."""
    check_choices(fusion, {"presence": (ZEROED,)})
    groups, critics = pairing(pairs, modalities), cycle.critics(unet)
    return JointTraining(
        fusion=fusion.fusion(classes, unet),
        ab=unet.network(len(groups.groups[1])),
        ba=unet.network(len(groups.groups[0])),
        critics=critics,
        pairing=groups,
        loss=loss,
        segmentation_weight=segmentation_weight,
        share_trunk=share_trunk,
        optimizers=optimizers,
        losses=cycle.losses(),
        pool_size=cycle.pool_size,
        geometry=unet.geometry(3, critics),
    )
