"""Names of the files that are made of cases: one folder of label maps, or derivatives of BIDS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.sources import bids_derivatives
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import Outputs
from jaxfuse.io.whole_file import at
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.probability_maps import ENTROPY, PROBABILITIES


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

    def synthesized(self, files: CaseFiles, modality: str, place: Callable[[str, str], Path]) -> str:
        """An image that a case lacks; without BIDS in its folder, where `place` puts it."""
        if self.bids:
            return bids_derivatives.place_of_image(files, modality)
        return f"{files.id}/{place(files.id, modality).as_posix()}"

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


def write_descriptions(outputs: Outputs, described: Mapping[str, str]) -> None:
    """Writes the files that describe those of all cases."""
    if described:
        with outputs.together() as folder:
            for name, content in described.items():
                with at(folder / name):
                    (folder / name).write_text(content, encoding="utf-8")


PLAIN = CaseNames()
