"""A scheme in which the fusion network stays as it is, so that segmentation learns from one fixed fusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxfuse.learning.game import FusionLeads, Game, Lead


@dataclass(frozen=True)
class frozen(FusionLeads):
    """The leader's gradient is 0. Its optimizer must have neither weight decay nor a momentum of earlier steps."""

    def __call__(self, game: Game, phi: Any, psi: Any, memory: Any) -> Lead:
        del game, psi
        return Lead(jax.tree.map(jnp.zeros_like, phi), jnp.float32(0), {}, memory)

    def without_task(self, game: Game, phi: Any, psi: Any) -> tuple[Any, Any, Any]:
        lead = self(game, phi, psi, {})
        return lead.gradient, lead.loss, lead.metrics
