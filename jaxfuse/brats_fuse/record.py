"""The record of a data set (`builder.json`): its sources, its maker and its settings, so that a build can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfuse.data.cases import CaseFiles
from jaxfuse.data.digests import Digests
from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.workdir import environment, read_config
from jaxfuse.engine.trained.phases import TrainedPhase, weights_digest
from jaxfuse.errors import UserError
from jaxfuse.io.tables import read_json, write_json
from jaxfuse.options import flat

RECORD = "builder.json"
# Raise it when the same options and weights give other files.
FORMAT = 2
# Parts of the record that must be equal for a build to go on.
_DECIDING = ("format", "fingerprint", "options", "cases")


def run_fingerprint(phase: TrainedPhase) -> dict[str, Any]:
    """Tells a run's phase from any other: digests of weights and config, and the step of the checkpoint."""
    weights, config = phase.weights(), read_config(phase.workdir)
    text = json.dumps(json.loads(config.to_json_best_effort()), sort_keys=True)
    return {
        "weights": weights_digest(weights),
        "config": hashlib.sha256(text.encode()).hexdigest()[:16],
        "step": int(weights.step),
        "phase": phase.phase.name,
    }


def cases_digest(files: Sequence[CaseFiles], digests: Digests) -> str:
    """A digest of the cases' names, groups and contents."""
    parts = [
        [
            one.id,
            one.group,
            {name: digests.of_image(image) for name, image in one.images.items()},
            digests.of(one.label) if one.label else "",
        ]
        for one in files
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def open_record(root: Path, wanted: Mapping[str, Any]) -> bool:
    """Writes the record into a new folder, or compares it with the record that is there.

    Returns:
        Whether the folder already holds this data set, whole or begun.

    Raises:
        UserError: it holds another data set, said option by option.
    """
    path = root / RECORD
    if not path.is_file():
        write_json(path, {**wanted, **_surroundings()})
        return False
    found = read_json(path)
    there, now = (flat({key: record.get(key) for key in _DECIDING}) for record in (found, json.loads(_text(wanted))))
    if differ := [key for key in sorted({**there, **now}) if there.get(key) != now.get(key)]:
        lines = "; ".join(f"{key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in differ)
        raise UserError(
            f"{root} holds a data set made by {found.get('run')} with other settings ({lines}); "
            "name another --out, or give these settings again"
        )
    return True


def note_left_out(root: Path, sentences: Mapping[str, str]) -> None:
    """Notes the cases that could not be done, each with its sentence, in the record."""
    path = root / RECORD
    record = read_json(path)
    if record.get("left_out", {}) != sentences:
        write_json(path, {**record, "left_out": dict(sentences)})


def _surroundings() -> dict[str, Any]:
    """Versions and device, and the command that was given; no variables, for a data set is passed on."""
    return {name: told for name, told in environment(one_device()).items() if name != "variables"}


def _text(value: Any) -> str:
    return json.dumps(value)
