"""Scores predictions against references, without any training configuration.

    python -m jaxfuse.evaluate --pred DIR --ref DIR --protocol NAME --out DIR

brats, brats2023 (lesion by lesion; brats2023_men and brats2023_met by the rules of those tasks), iseg, stroke,
isles2022: label volumes, NIfTI or Analyze pairs. DIR of --pred holds one volume per case, CASE.nii.gz or CASE.hdr, or
derivatives of BIDS, as `jaxfuse.predict --bids` writes them. DIR of --ref holds the same, with or without the endings
_seg, -seg, -label and _lesion, or a data set as it is trained on, with or without its images.
synthesis: synthesized volumes. DIR of --pred holds CASE.nii.gz, DIR of --ref the same of the real modality; or, with
--target flair, CASE_flair.nii.gz as `jaxfuse.predict` writes it, and a data set as it is trained on. Volumes are scaled
to [0, 1] by the range of the real one. PSNR depends on how much background is scored, which --window cuts away:
40:200,20:200 is what Hi-Net scores of a BraTS volume. --emulate official adds what the public code of Hi-Net computes.
fusion: fused images. DIR of --pred holds CASE.png, DIR of --ref one folder per source, each with CASE.png.
The help of --protocol lists the metrics of each.

Further folders behind the options are other methods' predictions of the same cases: --pred A ... --out DIR B C. Each is
scored into DIR/NAME of its folder, and all are compared pair by pair, by case, and ranked as BraTS ranks: DIR holds
comparison.json and comparison.csv. A method that was trained with several seeds is NAME=FOLDER,FOLDER,...; they are
scored into DIR/NAME/FOLDER, a case counts by the mean of its seeds, and seeds.csv tells how they scatter.

Writes cases.csv (one row per case and region, or per case and image), summary.json and report.html, a page to look at
all of it, to --out and prints the table. Protocols that tell lesions apart also write lesions.csv, a row for each.
Scores by groups (regions that are absent or present, volumes, numbers of lesions, columns of --groups) stand in
groups.csv, groups.md and on the page. --calibration scores class probabilities too, and adds calibration.csv,
reliability.csv and reliability.png.
A case that cannot be scored is named, left out and listed in the summary; the exit code is then 1, or 2 if none can.
Cases are scored by several processes where that pays (--processes). The case of one that is killed is done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxfuse import cli
from jaxfuse.api.called import callable_module
from jaxfuse.api.evaluation import PROTOCOLS, SHOWN, evaluate_folders
from jaxfuse.case_by_case import raise_left_out
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.scoring.groups import Groups, read_groups
from jaxfuse.scoring.methods import read_methods
from jaxfuse.scoring.protocol import Call, Option

PICTURES = "pictures"
_SHARED = ("pred", "ref", "protocol", "out")


def define_flags() -> None:
    """The options of the command; not defined on import, so that commands can be imported side by side."""
    flags.DEFINE_string(
        "pred",
        None,
        "Folder of predictions, one file per case, or NAME=FOLDER,FOLDER for the seeds of a method; others behind it "
        "are compared with it.",
    )
    flags.DEFINE_string("ref", None, "Folder of references, laid out as the protocol has it.")
    metrics = "; ".join(f"{name}: {protocol.help}" for name, protocol in PROTOCOLS.items())
    flags.DEFINE_enum("protocol", None, list(PROTOCOLS), f"What is scored, and by which metrics and rules. {metrics}.")
    flags.DEFINE_string("out", None, "Folder for cases.csv, summary.json and report.html.")
    flags.DEFINE_bool(outputs.OVERWRITE, False, outputs.OVERWRITE_HELP)
    flags.DEFINE_bool("allow_missing", False, "Score the cases that have all files even where others lack one.")
    flags.DEFINE_string(
        "groups",
        None,
        "CSV file with a column case and others, such as grade, whose texts are groups of cases to be scored apart.",
    )
    flags.DEFINE_integer(
        "processes",
        None,
        "Processes that score cases at once; if not given one alone for a few seconds' work, else one for each core.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        PICTURES,
        SHOWN,
        "Label volumes: how many of the worst cases report.html shows as figures, beside three to scroll through; 0: "
        "it has numbers alone.",
        lower_bound=0,
    )
    for option in dict.fromkeys(option for protocol in PROTOCOLS.values() for option in protocol.options):
        _define(option)


def _define(option: Option) -> None:
    if option.switch:
        flags.DEFINE_bool(option.name, False, option.help)
    elif option.choices:
        flags.DEFINE_enum(option.name, None, list(option.choices), option.help)
    else:
        (flags.DEFINE_list if option.several else flags.DEFINE_string)(option.name, None, option.help)


def main(argv: Sequence[str]) -> int:
    """Runs the command on the parsed flags and returns its exit code."""
    options = flags.FLAGS
    for name in _SHARED:
        if getattr(options, name) is None:
            raise UserError(
                f"--{name} is missing; give --pred DIR --ref DIR --protocol {'|'.join(PROTOCOLS)} --out DIR"
            )
    protocol = PROTOCOLS[options.protocol]
    _refuse_foreign(options.protocol)
    given = {option.name: getattr(options, option.name) for option in protocol.options}
    groups = read_groups(Path(options.groups)) if options.groups else Groups()
    given["call"] = Call(options.allow_missing, options.overwrite, options.processes, groups)
    scored = evaluate_folders(
        protocol,
        read_methods((options.pred, *argv[1:])),
        Path(options.ref),
        Path(options.out),
        given,
        shown=options.pictures,
        say=print,
    )
    raise_left_out(scored.refused, scored.count)
    return 0


def _refuse_foreign(chosen: str) -> None:
    """An option of another protocol would change nothing, and whoever gives it expects that it does."""
    owners: dict[str, list[str]] = {}
    for protocol in PROTOCOLS.values():
        for option in protocol.options:
            owners.setdefault(option.name, []).append(protocol.name)
    owners[PICTURES] = [protocol.name for protocol in PROTOCOLS.values() if protocol.pictures is not None]
    for name, of in owners.items():
        if chosen not in of and flags.FLAGS[name].present:
            raise UserError(f"--{name} is an option of the protocol {', '.join(of)}, not of {chosen}; leave it out")


callable_module(__name__, "jaxfuse.api.evaluation:evaluate")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
