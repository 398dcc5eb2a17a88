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

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from absl import flags

from jaxfuse import cli, scoring
from jaxfuse.case_by_case import raise_left_out
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.io.tables import read_json, read_rows, write_json, write_rows
from jaxfuse.labels import label_scheme
from jaxfuse.report.calibration import FIGURES, calibration_part
from jaxfuse.report.evaluation import Compared, Evaluation, Method, write_evaluation
from jaxfuse.report.groups import groups_part
from jaxfuse.report.kinds import KINDS, kind_of
from jaxfuse.report.lesions import lesions_part
from jaxfuse.report.parts import Part
from jaxfuse.report.shown_cases import Pictures
from jaxfuse.scoring import calibration, methods
from jaxfuse.scoring.groups import GROUPS, MARKDOWN, Groups, read_groups
from jaxfuse.scoring.lesions import LESIONS
from jaxfuse.scoring.pairing import listing
from jaxfuse.scoring.protocol import SUMMARY, TABLE, Call, Option, Protocol


def _protocols() -> dict[str, Protocol]:
    """The protocols of all modules of `jaxfuse.scoring` by name, in the order of the kinds of result."""
    modules = [import_module(f"{scoring.__name__}.{module.name}") for module in iter_modules(scoring.__path__)]
    found = [protocol for module in modules for protocol in getattr(module, "PROTOCOLS", ())]
    order = list(KINDS)
    return {protocol.name: protocol for protocol in sorted(found, key=lambda one: order.index(one.kind))}


PROTOCOLS = _protocols()
REPORT, PICTURES = "report.html", "pictures"
# Everything that a call may write into a folder.
WRITTEN = (
    *(TABLE, SUMMARY, GROUPS, MARKDOWN, *dict.fromkeys(name for one in PROTOCOLS.values() for name in one.tables)),
    *(calibration.CALIBRATION, calibration.BINS, *FIGURES, methods.JSON, methods.TABLE, methods.SEEDS, REPORT),
)
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
        3,
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
    ref, out = Path(options.ref), Path(options.out)
    found = methods.read_methods((options.pred, *argv[1:]))
    by_method = {
        name: {f"{name}/{seed}" if seed else name: folder for seed, folder in seeds.items()}
        for name, seeds in found.items()
    }
    preds = {name: folder for seeds in by_method.values() for name, folder in seeds.items()}
    written = _open(out, ref, list(preds.values()), overwrite=options.overwrite)
    before = {folder: outputs.standing(folder, WRITTEN) for folder in _folders(out, preds)}
    if len(preds) > 1:
        refused, count, compared = _score_several(protocol, by_method, ref, written, given)
    else:
        (pred,) = preds.values()
        (refused, count), compared = _score(protocol, pred, ref, out, given), None
    _report(protocol, preds, ref, written, compared, shown=options.pictures)
    _clear(before)
    raise_left_out(refused, count)
    return 0


def _open(out: Path, ref: Path, preds: Sequence[Path], *, overwrite: bool) -> outputs.Outputs:
    """Checks the places of the page, and of the comparison of several methods, before anything is scored."""
    several = len(preds) > 1
    for pred in preds if several else ():
        if not pred.is_dir():
            raise UserError(f"{pred} is not a folder; give a folder of predictions for each method")
    names = (REPORT, *FIGURES, *((methods.JSON, methods.TABLE, methods.SEEDS) if several else ()))
    reads = [("--ref", ref), *(("--pred", pred) for pred in preds)]
    return outputs.open_outputs(out, "--out", reads=reads, names=names, overwrite=overwrite)


def _score(
    protocol: Protocol, pred: Path, ref: Path, out: Path, given: Mapping[str, Any]
) -> tuple[dict[str, str], int]:
    """Scores one folder and prints its table; returns the cases that were refused, and how many there were."""
    summary = protocol.score(pred, ref, out, **given)
    if (render := kind_of(summary).render) is not None:
        print(render(summary))
    if "calibration" in summary:
        print(calibration.render_calibration(summary["calibration"]))
    for key, lacks in (("without_prediction", "prediction"), ("without_reference", "reference")):
        if summary[key]:
            print(f"Left out, for they have no {lacks}: {listing(summary[key])}.")
    tables = TABLE, *protocol.tables, *((GROUPS,) if summary["groups"] else ())
    print(f"Written: {', '.join(str(out / name) for name in tables)} and {out / SUMMARY}")
    return dict(summary["refused"]), summary["cases"] + len(summary["refused"])


def _score_several(
    protocol: Protocol,
    by_method: Mapping[str, Mapping[str, Path]],
    ref: Path,
    written: outputs.Outputs,
    given: Mapping[str, Any],
) -> tuple[dict[str, str], int, Compared]:
    """Scores several folders, each into a folder of its own name, and compares the methods that they are of."""
    out, refused, count = written.folder, dict[str, str](), 0
    for name, pred in ((name, pred) for seeds in by_method.values() for name, pred in seeds.items()):
        print(f"{name}:")
        more, cases = _score(protocol, pred, ref, out / name, given)
        refused |= {f"{name}: {case}": sentence for case, sentence in more.items()}
        count += cases
        print()
    tables = {name: [read_rows(out / seed / TABLE) for seed in seeds] for name, seeds in by_method.items()}
    found = methods.compare_methods(tables, protocol)
    print(methods.render_comparison(found, protocol.metrics))
    with written.together() as folder:
        write_json(folder / methods.JSON, found)
        for name, rows in ((methods.TABLE, found["pairs"]), (methods.SEEDS, found["between_seeds"])):
            if rows:
                write_rows(folder / name, rows)
    print(f"Written: {out / methods.JSON} and the tables beside it")
    return refused, count, methods.tables_of(found, protocol.metrics)


def _report(
    protocol: Protocol,
    preds: Mapping[str, Path],
    ref: Path,
    written: outputs.Outputs,
    compared: Compared | None,
    *,
    shown: int,
) -> None:
    """Writes the page on what was scored, with figures of so many of the worst cases."""
    folders = {name: written.folder / name if compared else written.folder for name in preds}
    scored = {
        name: Method(preds[name], read_rows(folder / TABLE), read_json(folder / SUMMARY))
        for name, folder in folders.items()
    }
    pictures = None
    if shown and protocol.pictures is not None:
        scheme = label_scheme(next(iter(scored.values())).summary["labels"])
        pictures = Pictures(protocol.pictures(preds, ref, scheme), scheme, shown)
    with written.together() as folder:
        parts = _parts(protocol, folder, folders, {name: one.summary for name, one in scored.items()})
        page = Evaluation(protocol.name, protocol.output, ref, scored, compared, pictures, parts)
        write_evaluation(folder / REPORT, page)
    print(f"Written: {written.folder / REPORT}")


def _parts(
    protocol: Protocol, out: Path, folders: Mapping[str, Path], summaries: Mapping[str, Mapping[str, Any]]
) -> list[Part]:
    """The parts of the page that this evaluation has; their figures are written to `out`."""
    parts = []
    parts += groups_part({name: summary["groups"] for name, summary in summaries.items()})
    if LESIONS in protocol.tables:
        parts += lesions_part({name: read_rows(folder / LESIONS) for name, folder in folders.items()})
    if found := {name: summary["calibration"] for name, summary in summaries.items() if "calibration" in summary}:
        bins = {name: read_rows(folder / calibration.BINS) for name, folder in folders.items()}
        parts.append(calibration_part(out, found, bins))
    return parts


def _folders(out: Path, preds: Mapping[str, Path]) -> list[Path]:
    """The folders that a call writes into."""
    return [out, *(out / name for name in preds)] if len(preds) > 1 else [out]


def _clear(before: Mapping[Path, Mapping[str, tuple[int, int]]]) -> None:
    """Removes what an earlier call has written and this one has not, and tells of what is left of others."""
    for folder, files in before.items():
        removed, kept = outputs.remove_outdated(folder, files)
        for names, told in ((removed, "Removed, as of an earlier call"), (kept, "Kept, but of an earlier call")):
            if names:
                print(f"{told}: {', '.join(str(folder / name) for name in names)}")
    top = next(iter(before))
    others = [path for path in sorted([*top.glob("*/"), *top.glob("*/*/")]) if outputs.wrote(path, SUMMARY)]
    if left := [str(path) for path in others if path not in before]:
        print(f"Scores of methods of an earlier call: {listing(left)}")


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


if __name__ == "__main__":
    define_flags()
    cli.run(main)
