"""Runs that were never trained, for tests of commands that synthesize a modality."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import cmff, hinet
from jaxfuse.recipes import volume_data
from tests.made_cases import MODALITIES
from tests.untrained_run import write_untrained_run

RANGES = {"t1": (0.0, 500.0), "t1ce": (0.0, 600.0), "t2": (0.0, 700.0), "flair": (0.0, 800.0)}
# The geometry of cases to be synthesized from, for `made_cases.write_case`.
SCANNED = {"spacing_mm": (1.0, 1.5, 2.0), "origin_mm": (-7.0, 12.5, 3.25), "description": b"as the scanner wrote it"}
TRAIN = {"Brats18_0_1_z010": "k"}


def synthesis_run(folder: Path, text: str = "tiny", *, seed: int = 0, **data: Any) -> Path:
    """A run of `configs/hinet.py`."""
    config = hinet.get_config(text)
    config.data.cache = str(folder / "cache")
    config.data.update(data)
    return write_untrained_run(folder, config, "synthesis", train=TRAIN, seed=seed, ranges=RANGES)


def labeling_run(
    folder: Path,
    modalities: Sequence[str] = MODALITIES,
    source: str = "slices",
    *,
    scheme_name: str = "brats",
    **data: Any,
) -> Path:
    """A run of a small 2D network that labels what BraTS labels, or in another scheme."""
    config = cmff.get_config("tiny,row=voc")
    config.schedule = config.result = ("voc",)
    config.network.unet.base = config.network.unet.levels = 2
    config.voc.patch, config.voc.validation.tile_batch = (16, 16), 8
    config.voc.data = volume_data(source=source, modalities=tuple(modalities), cases=1, shape=(8, 8, 8), spacing_mm=1)
    config.voc.data.update({"cache": str(folder / "cache"), **data})
    return write_untrained_run(folder, config, "voc", train=TRAIN, scheme_name=scheme_name)
