"""Bundles as folders: programs, weights, settings, the modules that run them, and a card."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxfuse
from jaxfuse.data.slices import AXES
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.engine.display import Display
from jaxfuse.engine.exported.carried_modules import RUNNER, runner_files
from jaxfuse.engine.exported.model_card import Exported, model_card
from jaxfuse.engine.exported.onnx_file import check_installed, write_onnx
from jaxfuse.engine.exported.programs import ExportedNetwork, export_network
from jaxfuse.engine.trained.incomplete import seen_subsets
from jaxfuse.engine.trained.passes import PATCHES, Passes, each_of, way_of
from jaxfuse.engine.trained.phases import MODALITIES, TrainedPhase, one_kind
from jaxfuse.engine.trained.postprocessed import postprocessing_of
from jaxfuse.engine.trained.segmenter import check_labels
from jaxfuse.engine.trained.synthesizer import check_synthesis
from jaxfuse.errors import UserError
from jaxfuse.io.outputs import open_outputs, remove_outdated, standing
from jaxfuse.io.safetensors import write_safetensors
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.labels import LabelScheme
from jaxfuse.patches import output_sides
from jaxfuse.postprocessing.option import AUTO
from jaxfuse.prediction.bundle import LABELS, MODALITY
from jaxfuse.prediction.bundle_files import (
    FORMAT,
    HASHES,
    PLAN,
    PREPARATION,
    PROGRAMS,
    RECORD,
    WEIGHTS,
    damage_of,
    digest_of,
)
from jaxfuse.prediction.maker import Task
from jaxfuse.prediction.postprocessed import Postprocessing

CARD, LICENSE, LIBRARIES = "MODEL_CARD.md", "LICENSE", "libraries"
# What JAX reads exported programs with, and does not bring.
_READS_PROGRAMS = "flatbuffers"

RUN = f'''"""Predicts cases by the exported run in this folder: python run.py --input DIR --output DIR

In Python: from run import Bundle; Bundle(".").predict({{"t1": "t1.nii.gz", ...}}). It takes NumPy, nibabel and JAX.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
# At the end, so that one that is installed comes first.
sys.path.append(str(HERE / "{LIBRARIES}"))

if sys.version_info < (3, 11):
    damage = "this bundle needs Python 3.11 or newer"
else:
    try:
        from {RUNNER}.prediction.bundle_files import damage_of

        damage = damage_of(HERE)
    except (ImportError, SyntaxError, ValueError) as error:
        damage = f"{{HERE / '{RUNNER}'}} is damaged ({{error}}); fetch the bundle again, or export the run anew"
if damage and __name__ == "__main__":
    print(damage, file=sys.stderr)
    sys.exit(2)
if damage:
    raise ImportError(damage)

from {RUNNER}.prediction.bundle import Bundle  # noqa: E402
from {RUNNER}.prediction.bundle_command import main  # noqa: E402

__all__ = ["Bundle"]

if __name__ == "__main__":
    sys.exit(main(HERE))
'''


@dataclass(frozen=True)
class Exporting:
    """Trained phases, and how they are to predict.

    Attributes:
        result: the label scheme, or the task of a synthesis.
        passes: of each phase.
    """

    phases: Sequence[TrainedPhase]
    result: LabelScheme | Task
    passes: Sequence[Passes]

    @property
    def labels(self) -> bool:
        """Whether label maps come of it."""
        return isinstance(self.result, LabelScheme)

    def networks(self) -> list[ExportedNetwork]:
        """Exports each network, for tiles of its training patch."""
        return [
            export_network(one, one.patch, (one.system.primary,) if self.labels else tuple(self._targets(one).values()))
            for one in self.phases
        ]

    def _targets(self, phase: TrainedPhase) -> dict[str, str]:
        """Modality -> the output that holds it; none of a network that labels."""
        return {} if isinstance(self.result, LabelScheme) else {self.result.target: phase.output_of(self.result.target)}

    def document(self, number: int, network: ExportedNetwork) -> dict[str, Any]:
        """Returns the record of one network, as JSON."""
        one, targets = self.phases[number], self._targets(self.phases[number])
        geometry, own = one.system.geometry, self.passes[number].filled(one.phase)
        way = way_of(self.passes[number], one.phase, one.system, AXES[one.data.axis])
        programs = {kind: f"{PROGRAMS}/{number}_{kind}.stablehlo" for kind in network.programs}
        return {
            "name": one.name,
            "programs": programs,
            "primary": one.system.primary,
            "targets": targets,
            "ranges": {target: list(one.ranges[target]) for target in targets},
            "ndim": geometry.ndim,
            "margin": geometry.margin,
            "axis": one.data.axis,
            "patch": list(one.patch),
            "tile": list(output_sides(one.patch, geometry.margin)),
            "tile_batch": one.phase.validation.tile_batch,
            "any_batch": network.any_batch,
            "centered": one.phase.sampling.centered,
            "overlap": way.overlap,
            "weighting": own.weighting,
            "mirror": list(way.mirror),
            "shown": sorted(seen_subsets(one)),
        }

    def record(self, networks: Sequence[ExportedNetwork], made: Mapping[str, str]) -> dict[str, Any]:
        """Returns what describes the bundle, as JSON."""
        first = self.phases[0].data
        kept = {name: getattr(first, name) for name in ("source", "layout", "entities", "all_background")}
        common = {"format": FORMAT, "made": dict(made), "cases": kept}
        common["networks"] = [self.document(number, one) for number, one in enumerate(networks)]
        if isinstance(self.result, LabelScheme):
            scheme = self.result
            return {
                **common,
                "makes": LABELS,
                "scheme": scheme.name,
                "labels": dict(zip(scheme.classes, scheme.decode, strict=True)),
                "regions": {name: list(classes) for name, classes in scheme.regions.items()},
                "masked": self.phases[0].phase.mask_to_brain,
            }
        return {
            **common,
            "makes": MODALITY,
            "task": {"sources": list(self.result.sources), "target": self.result.target},
            "masked": False,
        }


def exporting(phases: Sequence[TrainedPhase], passes: Passes = PATCHES) -> Exporting:
    """Checks what is to be exported.

    Raises:
        UserError: the phases make neither label maps nor one modality, cannot be averaged, or see pictures of a data
            set without volumes.
    """
    for one in phases:
        source_of(one.data.source)
    result = check_synthesis(phases) if one_kind(phases) in MODALITIES else check_labels(phases)
    members = [(one.name, one.phase, one.system.geometry, AXES[one.data.axis]) for one in phases]
    return Exporting(phases, result, each_of(passes, members))


def export_bundle(
    phases: Sequence[TrainedPhase],
    folder: Path,
    display: Display,
    *,
    passes: Passes = PATCHES,
    postprocessing: str = AUTO,
    command: str = "",
    onnx: bool = False,
    overwrite: bool = False,
) -> None:
    """Writes a bundle of trained phases into a folder.

    Args:
        passes: what replaces the settings of the phases' validation.
        postprocessing: auto, none, or the file of a plan (`jaxfuse.engine.trained.postprocessed`).
        command: the command line, for the card.
        onnx: whether each network is written as ONNX as well.
        overwrite: replace files in the folder that are not our own.

    Raises:
        UserError: the phases cannot be exported (`exporting`), a library is not installed, or the folder holds
            something else.
    """
    if onnx:
        check_installed()
    what = exporting(phases, passes)
    after = _after(what, postprocessing)
    texts, copies = _texts(), _copies() | ({PLAN: after.stored.path} if after else {})
    display.say(f"exporting {', '.join(one.name for one in phases)}")
    networks, made = what.networks(), _made(command)
    programs = {
        f"{PROGRAMS}/{number}_{kind}.stablehlo": program
        for number, one in enumerate(networks)
        for kind, program in one.programs.items()
    }
    graphs = {f"onnx/{number}.onnx": one for number, one in enumerate(networks)} if onnx else {}
    names = [*programs, *graphs, *texts, *copies, WEIGHTS, PREPARATION, RECORD, CARD, HASHES]
    outputs = open_outputs(folder, "--output", reads=_reads(phases), names=names, overwrite=overwrite)
    before = standing(folder, _listed(folder))
    with outputs.together() as staged:
        for path in {(staged / name).parent for name in names}:
            path.mkdir(parents=True, exist_ok=True)
        for name, one in graphs.items():
            write_onnx(staged / name, one.forward, one.weights, one.image)
        for name, program in programs.items():
            (staged / name).write_bytes(program.serialize())
        for name, text in texts.items():
            (staged / name).write_text(text, encoding="utf-8")
        for name, path in copies.items():
            shutil.copyfile(path, staged / name)
        write_safetensors(staged / WEIGHTS, _weights(networks), {"format": "flax"})
        write_json(staged / PREPARATION, {"networks": [one.preparation.document() for one in phases]})
        write_json(staged / RECORD, {**what.record(networks, made), "postprocessed": after is not None})
        files = {name: (staged / name).stat().st_size for name in (*programs, *graphs, WEIGHTS, PREPARATION, RECORD)}
        counts = [sum(array.size for array in one.weights.values()) for one in networks]
        card = model_card(phases, Exported(made, what.result, files, counts))
        (staged / CARD).write_text(card, encoding="utf-8")
        write_json(staged / HASHES, {name: digest_of(staged / name) for name in sorted(set(names) - {HASHES})})
    remove_outdated(folder, before)
    _tell(display, folder, networks, phases)


def _after(what: Exporting, asked: str) -> Postprocessing | None:
    """Returns the last work on label maps; refuses to be asked for it where none come of it."""
    if what.labels:
        return postprocessing_of(what.phases, asked)
    if asked != AUTO:
        raise UserError("--postprocessing is for label maps, and these runs synthesize a modality; leave it out")
    return None


def _listed(folder: Path) -> list[str]:
    """Names the files of a bundle that lies in a folder already; none where there is no whole one."""
    return [] if damage_of(folder) else list(read_json(folder / HASHES))


def _texts() -> dict[str, str]:
    """The files of a bundle that are alike in all of them, with their content."""
    return {**{f"{RUNNER}/{name}": text for name, text in runner_files().items()}, LICENSE: _license(), "run.py": RUN}


def _copies() -> dict[str, Path]:
    """The files of the library that JAX reads programs with; refuses to go on without it."""
    try:
        found = importlib.import_module(_READS_PROGRAMS)
    except ImportError as error:
        raise UserError(
            f"exporting takes {_READS_PROGRAMS}, which is not installed; call pip install {_READS_PROGRAMS}"
        ) from error
    files = Path(str(found.__file__)).parent.glob("*.py")
    return {f"{LIBRARIES}/{_READS_PROGRAMS}/{path.name}": path for path in sorted(files)}


def _weights(networks: Sequence[ExportedNetwork]) -> dict[str, np.ndarray]:
    """The weights of all networks, each under its number."""
    return {f"{number}/{name}": array for number, one in enumerate(networks) for name, array in one.weights.items()}


def _made(command: str) -> dict[str, str]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "jax": jax.__version__, "jaxfuse": jaxfuse.__version__, "command": command}


def _license() -> str:
    """The license of jaxfuse, and a note on what else lies in a bundle."""
    version = importlib.metadata.version(_READS_PROGRAMS)
    files = importlib.metadata.files("jaxfuse") or []
    own = next((one.read_text() for one in files if one.name == LICENSE), None)
    root = Path(jaxfuse.__file__).parents[1] / LICENSE
    text = own or (root.read_text(encoding="utf-8") if root.is_file() else "Apache License, Version 2.0\n")
    note = f"{LIBRARIES}/{_READS_PROGRAMS}: version {version}, Copyright Google Inc., Apache-2.0."
    return f"{text.rstrip()}\n\n---\n\n{note}\n"


def _reads(phases: Iterable[TrainedPhase]) -> list[tuple[str, Path]]:
    return [("--workdir", workdir) for workdir in dict.fromkeys(one.workdir for one in phases)]


def _tell(display: Display, folder: Path, networks: Sequence[ExportedNetwork], phases: Sequence[TrainedPhase]) -> None:
    for one, network in zip(phases, networks, strict=True):
        tiles = "any number of tiles" if network.any_batch else f"{one.phase.validation.tile_batch} tiles"
        display.say(f"{one.name}: {len(network.weights)} arrays of weights, programs for {tiles} at once")
        if one.phase.validation.memory_mb:
            display.say(
                f"{one.name} predicts in larger tiles where memory allows; the bundle's are those of its training patch"
            )
    display.say(f"{folder}: python {folder / 'run.py'} --input DIR --output DIR")
