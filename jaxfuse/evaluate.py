"""Scores predictions against references, without any training configuration.

    python -m jaxfuse.evaluate --pred DIR --ref DIR --protocol brats|iseg|stroke|synthesis|fusion --out DIR

brats, iseg, stroke: label volumes, NIfTI or Analyze pairs. DIR of --pred holds one volume per case, CASE.nii.gz or
CASE.hdr. DIR of --ref holds the same, with or without the endings _seg, -seg, -label and _lesion, or a data set as it
is trained on, with or without its images. Per region of the label scheme: brats has Dice, IoU, sensitivity,
specificity and HD95; iseg Dice and all that is called a distance between tissues; stroke Dice and HD in mm and voxels.
synthesis: synthesized volumes. DIR of --pred holds CASE.nii.gz, DIR of --ref the same of the real modality; or, with
--target flair, CASE_flair.nii.gz as `jaxfuse.predict` writes it, and a data set as it is trained on. PSNR, NMSE and
SSIM of volumes scaled to [0, 1] by the range of the real one. PSNR depends on how much background is scored, which
--window cuts away: 40:200,20:200 is what Hi-Net scores of a BraTS volume. --emulate official adds what the public code
of Hi-Net computes.
fusion: fused images. DIR of --pred holds CASE.png, DIR of --ref one folder per source, each with CASE.png.

Writes cases.csv (one row per case and region, or per case and image) and summary.json to --out and prints the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli
from jaxfuse.errors import UserError
from jaxfuse.labels import SCHEMES
from jaxfuse.metrics.protocols import BRATS, ISEG, STROKE
from jaxfuse.report.synthesis_table import render_synthesis
from jaxfuse.scoring.fusion import render_fusion, score_fusion
from jaxfuse.scoring.labels import render_labels, score_labels
from jaxfuse.scoring.pairing import listing
from jaxfuse.scoring.synthesis import OFFICIAL_CODE, score_synthesis


@dataclass(frozen=True)
class Protocol:
    """One way to score two folders.

    Attributes:
        options: the flags that it understands beside those that all protocols share, passed on by their names.
        score: (pred, ref, out, **options) -> summary; writes both files.
        render: the printed form of a summary.
    """

    options: tuple[str, ...]
    score: Callable[..., Mapping[str, Any]]
    render: Callable[[Mapping[str, Any]], str]


_OF_LABELS = ("labels", "one_empty", "allow_missing")
PROTOCOLS = {
    **{
        scored.name: Protocol(_OF_LABELS, partial(score_labels, protocol=scored), render_labels)
        for scored in (BRATS, ISEG, STROKE)
    },
    "synthesis": Protocol(("target", "emulate", "window", "allow_missing"), score_synthesis, render_synthesis),
    "fusion": Protocol(("sources", "allow_missing"), score_fusion, render_fusion),
}
_SHARED = ("pred", "ref", "protocol", "out")


def define_flags() -> None:
    """The options of the command; not defined on import, so that commands can be imported side by side."""
    flags.DEFINE_string("pred", None, "Folder of predictions, one file per case.")
    flags.DEFINE_string("ref", None, "Folder of references, laid out as the protocol has it.")
    flags.DEFINE_enum("protocol", None, list(PROTOCOLS), "What is scored, and by which metrics and rules.")
    flags.DEFINE_string("out", None, "Folder for cases.csv and summary.json.")
    flags.DEFINE_bool("allow_missing", False, "Score the cases that have all files even where others lack one.")
    flags.DEFINE_string(
        "labels",
        None,
        f"Label volumes: what the values of both folders mean: {', '.join(SCHEMES)}. iseg and stroke have their own; "
        "for brats case folders imply it by their naming (brats unless of 2023).",
    )
    flags.DEFINE_string(
        "one_empty",
        None,
        "Label volumes: distances where exactly one of prediction and reference is empty: penalty (373.13 mm, from "
        "2023 on 374; the default of brats), nan (left out of the mean, and counted; that of iseg and stroke) or a "
        "number of mm.",
    )
    flags.DEFINE_string(
        "target", None, "synthesis: the modality that was synthesized, such as flair, where --ref holds a data set."
    )
    flags.DEFINE_enum("emulate", None, [OFFICIAL_CODE], "synthesis: adds the metrics as Hi-Net's public code has them.")
    flags.DEFINE_string(
        "window", None, "synthesis: the voxels to score along x and y, such as 40:200,20:200; default: all."
    )
    flags.DEFINE_list("sources", None, "fusion: the folders of --ref that were fused, such as t1ce,flair; default all.")


def main(argv: Sequence[str]) -> int:
    """Runs the command on the parsed flags and returns its exit code."""
    if len(argv) > 1:
        raise UserError(f"{' '.join(argv[1:])!r} is not an option; give folders as --pred DIR --ref DIR --out DIR")
    options = flags.FLAGS
    for name in _SHARED:
        if getattr(options, name) is None:
            raise UserError(
                f"--{name} is missing; give --pred DIR --ref DIR --protocol {'|'.join(PROTOCOLS)} --out DIR"
            )
    protocol = PROTOCOLS[options.protocol]
    _refuse_foreign(options.protocol)
    given = {name: getattr(options, name) for name in protocol.options}
    summary = protocol.score(Path(options.pred), Path(options.ref), Path(options.out), **given)
    print(protocol.render(summary))
    for key, lacks in (("without_prediction", "prediction"), ("without_reference", "reference")):
        if summary[key]:
            print(f"Left out, for they have no {lacks}: {listing(summary[key])}.")
    print(f"Written: {Path(options.out) / 'cases.csv'} and {Path(options.out) / 'summary.json'}")
    return 0


def _refuse_foreign(chosen: str) -> None:
    """An option of another protocol would change nothing, and whoever gives it expects that it does."""
    own = PROTOCOLS[chosen].options
    for name in dict.fromkeys(option for protocol in PROTOCOLS.values() for option in protocol.options):
        if name not in own and flags.FLAGS[name].present:
            of = ", ".join(other for other, protocol in PROTOCOLS.items() if name in protocol.options)
            raise UserError(f"--{name} is an option of the protocol {of}, not of {chosen}; leave it out")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
