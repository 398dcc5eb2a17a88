"""How hard phantom gliomas are to find: fainter, noisier and smaller ones, and more of what looks like them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxfuse.data.phantom.signal import Tissue

_OF_TUMOR = ("edema", "non-enhancing", "enhancing", "necrosis")
# Mean radius of the core, from 14 to 20 mm, which `lesion_mm` is compared with.
USUAL_MM = 17.0


@dataclass(frozen=True)
class Looks:
    """Departures from phantom gliomas as published values make them; the defaults are none.

    Attributes:
        contrast: how far the relaxation and density of a tumor's tissues lie from those of white matter, as a power of
            their ratio, and the share of the gadolinium in its rim: 1 as measured, 0.5 halfway.
        noise_scale: times as much noise; 0: none.
        lesion_mm: mean radius of the tumor's core, with all its lengths in proportion; 0: about 17 mm.
        mimics: times as many hyperintensities of white matter and old bleedings.
    """

    contrast: float = 1.0
    noise_scale: float = 1.0
    lesion_mm: float = 0.0
    mimics: float = 1.0

    @property
    def size(self) -> float:
        """The tumor's lengths beside the usual ones."""
        return self.lesion_mm / USUAL_MM if self.lesion_mm else 1.0

    def faded(self, tissues: Mapping[str, Tissue]) -> dict[str, Tissue]:
        """Returns a table of tissues with those of tumors nearer to white matter."""
        white = tissues["white"]

        def near(tissue: Tissue) -> Tissue:
            pairs = zip(tissue, white, strict=True)
            return Tissue(*(plain * (own / plain) ** self.contrast for own, plain in pairs))

        if self.contrast == 1.0:
            return dict(tissues)
        return {name: near(tissue) if name in _OF_TUMOR else tissue for name, tissue in tissues.items()}

    @property
    def told(self) -> dict[str, float]:
        """Values that depart, by name."""
        return {name: float(value) for name, value in vars(self).items() if value != getattr(PLAIN, name)}


PLAIN = Looks()
