"""CMFT, cross-modality feature transition (Zhang et al., Pattern Recognition 110, 2021): a 3D cycle GAN.

Two generators translate between two groups of modalities, A -> B and B -> A; two critics judge them. What the
generators learn is handed to the segmentation branches of `jaxfuse.models.cmff`.

Departs from the paper: Eq. 5 read literally lets a critic maximize its own least-squares error, so the update is
that of the CycleGAN code which the paper cites (generators first, then critics, with a pool of 50 past fakes).
The paper leaves open the U-Net's details; the residual form is the default (see `jaxfuse.nn.unet`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.arrays import Array, Batch, Bool, Float, Image, Key, Metrics, Params, channels_of, presence_of, shown
from jaxfuse.errors import UserError
from jaxfuse.learning.adversarial import (
    Cycle,
    CycleLosses,
    critic_objective,
    cyclic_update,
    empty_pool,
    maker_objective,
)
from jaxfuse.learning.networks import Stateless
from jaxfuse.learning.state import Optimizers, State, create_state, initializer_key
from jaxfuse.learning.system import Defaults, Geometry
from jaxfuse.losses.adversarial import gan_form
from jaxfuse.losses.image import l1
from jaxfuse.nn.forms import check_choices
from jaxfuse.nn.headed_unet import Network, Supervised, shape_of
from jaxfuse.nn.initializers import KernelInit, normal
from jaxfuse.nn.patch_critic import PatchCritic
from jaxfuse.nn.precision import cast_dtype
from jaxfuse.nn.presence import CONDITIONED, ZEROED, Modulation
from jaxfuse.nn.unet import Head, UNet

# The groups need not have the same number of modalities.
ImageA = Float[Array, "b *space m_a"]
ImageB = Float[Array, "b *space m_b"]


@dataclass(frozen=True)
class Pairing:
    """Channels of a batch's image that form each group of modalities: A, B, and more where there are more."""

    groups: tuple[tuple[int, ...], ...]

    @property
    def letters(self) -> str:
        """The letter of each group."""
        return "abcd"[: len(self.groups)]

    def split(self, batch: Batch | Mapping[str, Any]) -> tuple[Array, ...]:
        """The image of each group. A batch with the streams `a` and `b` takes each from its own subject (unpaired)."""
        images = (shown(batch.get(side, batch)) for side in self.letters)
        return tuple(channels_of(image, group) for image, group in zip(images, self.groups, strict=True))

    def present(self, batch: Batch | Mapping[str, Any]) -> tuple[Bool[Array, " b"], ...] | None:
        """Tells of each example of one subject whether anything of each group is there; None where all is."""
        presence = presence_of(batch)
        if presence is None:
            return None
        return tuple(channels_of(presence, group).any(-1) for group in self.groups)  # pyright: ignore


def pairing(pairs: Sequence[str], modalities: Sequence[str], *, most: int = 2) -> Pairing:
    """Reads pairs such as ("t1+t1ce", "t2+flair") against the channel order of the data.

    Raises:
        UserError: they are fewer than two groups or more than `most`, one is empty, or a modality is not in the data,
            or in a group already.
    """
    if not 2 <= len(pairs) <= most:
        expected = "two" if most == 2 else f"two to {most}"
        raise UserError(
            f"pairs is {tuple(pairs)}; it must name {expected} groups, such as ('t1+t1ce', 't2+flair')"
            + ("; the rows three_groups and four_groups of configs/cmff.py have more" if len(pairs) > most else "")
        )
    seen: list[str] = []
    for group in pairs:
        if not all(names := group.split("+")):
            raise UserError(f"pairs is {tuple(pairs)}, of which the group {group!r} names an empty modality; fill it")
        if absent := [name for name in names if name not in modalities]:
            raise UserError(f"pairs names {', '.join(absent)}, but the data has {', '.join(modalities)}")
        if twice := [name for number, name in enumerate(names) if name in [*seen, *names[:number]]]:
            raise UserError(f"pairs is {tuple(pairs)}, and {twice[0]} stands twice; a modality is in one group only")
        seen += names
    return Pairing(tuple(tuple(list(modalities).index(name) for name in group.split("+")) for group in pairs))


@dataclass(frozen=True)
class UNetForm:
    """The form of every U-Net of a System; the defaults are the paper's.

    Attributes:
        remat: each level is computed again in the backward pass.
        dtype: arithmetic of the convolutions, "float32" or "bfloat16"; weights, norms and losses are float32.
        presence: what a U-Net that labels makes of absent modalities: "zeroed", or "conditioned": its features are
            scaled and shifted by what is present.
    """

    arch: str = "residual"
    base: int = 16
    levels: int = 5
    kernel_init: KernelInit = normal()
    remat: bool = False
    dtype: str = "float32"
    presence: str = ZEROED

    @property
    def conditioned(self) -> bool:
        """Whether a U-Net that labels is told which modalities are present."""
        check_choices(self, {"presence": (ZEROED, CONDITIONED)})
        return self.presence == CONDITIONED

    def network(self, outputs: int) -> Network:
        """A U-Net with `outputs` kernels in its last layer, which sees images alone.

        Raises:
            UserError: it is to be conditioned, which one that stands alone and labels can be.
        """
        if self.conditioned:
            raise UserError(
                "unet.presence is 'conditioned', which is an option of U-Nets that label alone, such as S_A; leave it "
                "at 'zeroed' for phases that translate, reconstruct or fuse branches"
            )
        return self._network(outputs)

    def _network(self, outputs: int) -> Network:
        trunk = UNet(
            base=self.base,
            levels=self.levels,
            arch=self.arch,
            remat=self.remat,
            dtype=cast_dtype(self.dtype),
            kernel_init=self.kernel_init,
        )
        modulation = Modulation(trunk.widths) if self.conditioned else None
        return Network(trunk, Head(outputs, kernel_init=self.kernel_init), modulation)

    def segmenter(self, classes: int, deep_supervision: int = 0) -> Stateless | Supervised:
        """A U-Net that labels voxels, in training on so many coarser levels of its decoder, too.

        Raises:
            UserError: the decoder has not so many.
        """
        network = self._network(classes)
        if not deep_supervision:
            return Stateless(network)
        if deep_supervision > self.levels - 2:
            raise UserError(
                f"deep_supervision is {deep_supervision}, and a U-Net of {self.levels} levels has {self.levels - 2} "
                "that are coarser than its output; ask for at most so many"
            )
        return Supervised(network, deep_supervision)

    def geometry(self, ndim: int, critics: Critics | None = None) -> Geometry:
        """Patches of this U-Net, and of critics that judge what it makes."""
        return Geometry(ndim, 2 ** (self.levels - 1), judged=critics.network.least_side if critics else 0)


@dataclass(frozen=True)
class Critics:
    """Patch critics of the same form, one per group of modalities."""

    network: PatchCritic

    def init(self, rng: Key[Array, ""], *images: Array) -> Params:
        keys = jax.random.split(rng, len(images))
        return {
            side: self.network.lazy_init(key, shape_of(image))["params"]
            for side, key, image in zip("abcd"[: len(images)], keys, images, strict=True)
        }

    def judge(self, params: Params, image: Image) -> Array:
        """One critic's patch scores, float32, without sigmoid."""
        return self.network.apply({"params": params}, image).astype(jnp.float32)  # pyright: ignore


@dataclass(frozen=True)
class CycleTranslation(Defaults):
    """The learning rule of CMFT (Eqs. 2-6, as a cycle-consistent least-squares GAN).

    Attributes:
        ab, ba: the generators G_AB and G_BA.
        pool_size: past fakes kept per critic; 0 disables the pool.
    """

    ab: Network
    ba: Network
    critics: Critics
    pairing: Pairing
    optimizers: Optimizers
    losses: CycleLosses
    pool_size: int
    geometry: Geometry

    players = ("generators", "discriminators")
    primary = "fake_b"
    accepts_unpaired = True

    def init(self, rng: Key[Array, ""], batch: Batch) -> State:
        image_a, image_b = self.pairing.split(batch)
        key_ab, key_ba, key_critics = jax.random.split(initializer_key(rng), 3)
        params = {
            "generators": {"ab": self.ab.init(key_ab, image_a), "ba": self.ba.init(key_ba, image_b)},
            "discriminators": self.critics.init(key_critics, image_a, image_b),
        }
        pool = {"a": empty_pool(self.pool_size, image_a), "b": empty_pool(self.pool_size, image_b)}
        return create_state(rng, params, self.optimizers, memory={"pool": pool})

    def translate(self, generators: Params, image_a: ImageA, image_b: ImageB) -> Cycle:
        """A -> fake B -> cycle A, and B -> fake A -> cycle B."""
        fake_b = self.ab(generators["ab"], image_a)
        fake_a = self.ba(generators["ba"], image_b)
        return Cycle(fake_a, fake_b, self.ba(generators["ba"], fake_b), self.ab(generators["ab"], fake_a))

    def train_step(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        image_a, image_b = self.pairing.split(batch)
        return cyclic_update(
            state,
            image_a,
            image_b,
            optimizers=self.optimizers,
            maker="generators",
            translate=lambda generators: (self.translate(generators, image_a, image_b), jnp.float32(0), {}),
            judge=self.critics.judge,
            losses=self.losses,
        )

    def eval_step(self, state: State, batch: Batch) -> Metrics:
        image_a, image_b = self.pairing.split(batch)
        critics = state.params["discriminators"]
        cycle = self.translate(state.params["generators"], image_a, image_b)
        loss, terms = maker_objective(
            cycle, image_a, image_b, lambda side, image: self.critics.judge(critics[side], image), self.losses
        )
        critic, critic_terms = critic_objective(
            critics,
            {"a": image_a, "b": image_b},
            {"a": cycle.fake_a, "b": cycle.fake_b},
            self.critics.judge,
            self.losses,
        )
        makers = {f"generators/{name}": value for name, value in {"loss": loss, **terms}.items()}
        return makers | {f"discriminators/{name}": value for name, value in {"loss": critic, **critic_terms}.items()}

    def predict(self, state: State, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.translate(state.params["generators"], *self.pairing.split(inputs))._asdict()

    def networks(self, params: Mapping[str, Params]) -> dict[str, Params]:
        return {
            "G_AB": params["generators"]["ab"],
            "G_BA": params["generators"]["ba"],
            "D_A": params["discriminators"]["a"],
            "D_B": params["discriminators"]["b"],
        }


@dataclass(frozen=True)
class CycleForm:
    """Critics, losses and fake pool of the cycle GAN; the defaults are the paper's (Table 1, Eqs. 2-6)."""

    critic_base: int = 16
    critic_layers: int = 4
    cycle_weight: float = 10.0
    pool_size: int = 50

    def critics(self, unet: UNetForm) -> Critics:
        """Both critics, in the arithmetic and with the initializer of the U-Nets."""
        dtype, init = cast_dtype(unet.dtype), unet.kernel_init
        return Critics(PatchCritic(base=self.critic_base, layers=self.critic_layers, dtype=dtype, kernel_init=init))

    def losses(self) -> CycleLosses:
        return CycleLosses(gan_form("lsgan"), l1, self.cycle_weight)


def make_system(
    *,
    optimizers: Optimizers,
    modalities: Sequence[str],
    pairs: Sequence[str],
    unet: UNetForm = UNetForm(),
    cycle: CycleForm = CycleForm(),
) -> CycleTranslation:
    """CMFT for the named pairs."""
    groups, critics = pairing(pairs, modalities), cycle.critics(unet)
    return CycleTranslation(
        ab=unet.network(len(groups.groups[1])),
        ba=unet.network(len(groups.groups[0])),
        critics=critics,
        pairing=groups,
        optimizers=optimizers,
        losses=cycle.losses(),
        pool_size=cycle.pool_size,
        geometry=unet.geometry(3, critics),
    )
