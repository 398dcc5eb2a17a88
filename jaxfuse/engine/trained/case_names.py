"""Names of the files that are made of cases: one folder of label maps, or derivatives of BIDS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources import bids_derivatives
from jaxfuse.engine.trained.probability_maps import ENTROPY, PROBABILITIES
from jaxfuse.errors import UserError
from jaxfuse.labels import LabelScheme


@dataclass(frozen=True)
class CaseNames:
    """The files of each case, relative to the output folder.

    Attributes:
        maps: those of `probability_maps.MAPS` that are written beside the label map.
        bids: name them as derivatives of BIDS.
    """

    maps: tuple[str, ...] = ()
    bids: bool = False

    def label_map(self, files: CaseFiles) -> str:
        """The label map of a case."""
        return bids_derivatives.place(files) if self.bids else f"{files.id}.nii.gz"

    def maps_of(self, files: CaseFiles) -> Mapping[str, str]:
        """Map -> its file. Without BIDS they lie in folders of their own, where nobody takes them for label maps."""
        if self.bids:
            return {one: bids_derivatives.place(files, bids_derivatives.PROBABILITIES) for one in self.maps}
        return {one: f"{one}/{files.id}.nii.gz" for one in self.maps}

    def of(self, files: CaseFiles) -> tuple[str, ...]:
        """All files of a case, the label map first."""
        return self.label_map(files), *self.maps_of(files).values()

    def descriptions(self, scheme: LabelScheme, runs: str) -> Mapping[str, str]:
        """File -> content, of what describes the files of all cases."""
        if not self.bids:
            return {}
        return bids_derivatives.descriptions(scheme, made_by=runs, probabilities=PROBABILITIES in self.maps)

    def check(self, layout: str) -> None:
        """Refuses names of BIDS for cases without such, and for maps that have none."""
        if self.bids:
            bids_derivatives.check_layout(layout)
        if self.bids and ENTROPY in self.maps:
            raise UserError(f"BIDS has no name for a map of {ENTROPY}; leave out --save_{ENTROPY}, or --bids")


PLAIN = CaseNames()
