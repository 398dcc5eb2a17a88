"""The labels of one case after the other, of which some may lack modalities: what is read, labeled and said of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxfuse.data.cases import CaseFiles, Image
from jaxfuse.data.prepared import Prepared
from jaxfuse.engine.trained.completer import Completer, Lacking, synthesized_note
from jaxfuse.labels import LabelScheme
from jaxfuse.prediction.labeler import CaseLabeler, Labeled, description
from jaxfuse.prediction.maker import Task


@dataclass(frozen=True)
class Labeling:
    """The way in which cases are labeled.

    Attributes:
        scheme: that of the labels.
        completer: makes the modalities that cases lack; None where none are made.
    """

    labeler: CaseLabeler
    scheme: LabelScheme
    completer: Completer | None = None

    def tasks(self, files: CaseFiles) -> Sequence[Task]:
        """Returns how each modality is made that a case lacks; none where nothing is made."""
        return self.completer.tasks(files.id, files.images) if self.completer else ()

    def read(self, files: CaseFiles) -> Prepared | Lacking:
        """Reads and prepares a case; its label file, if there is one, is not opened."""
        return self.completer.read(files) if self.completer and self.tasks(files) else self.labeler.read(files)

    def label(self, given: Prepared | Lacking, device: Any, *, keep: bool) -> Labeled:
        """Labels a case; `keep` as of `CaseLabeler.labeled`."""
        whole = self.labeler.preparation.prepare(given.completed(device)) if isinstance(given, Lacking) else given
        return self.labeler.labeled(whole, device, keep=keep)

    def like(self, files: CaseFiles) -> Image:
        """Returns the image on whose grid the labels of a case are written."""
        reads = self.completer.reads if self.completer else self.labeler.preparation.modalities
        return next(files.images[name] for name in reads if name in files.images)

    def description(self, files: CaseFiles, made: Labeled) -> str | None:
        """Returns what the header of a label map says of its case; None where there is nothing to say."""
        facts, after = made.case.facts, self.labeler.postprocessing
        parts = [synthesized_note(self.tasks(files)), (after.note(facts) if after else None) or ""]
        return description(facts.lacks, "; ".join(filter(None, parts)))
