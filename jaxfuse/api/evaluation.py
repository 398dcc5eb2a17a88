"""Scores of predictions against references, by the protocols of `jaxfuse.scoring`, without any training config.

The command prints what the Python interface returns: both go one way, and write the same files.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from tempfile import TemporaryDirectory
from typing import Any

from jaxfuse import scoring
from jaxfuse.api.scores import Comparison, Scores
from jaxfuse.api.sentences import in_python, told_in_python
from jaxfuse.errors import UserError
from jaxfuse.io import outputs
from jaxfuse.io.tables import read_json, read_rows, write_json, write_rows
from jaxfuse.labels import label_scheme
from jaxfuse.report.calibration import FIGURES, calibration_part
from jaxfuse.report.evaluation import Evaluation, Method, write_evaluation
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

REPORT = "report.html"
# Cases that a page shows as figures, where it shows any.
SHOWN = 3

# Method -> the folders of its seeds; one that has no name is a method of one seed.
Methods = Mapping[str, Mapping[str, Path]]
Say = Callable[[str], None]


def _protocols() -> dict[str, Protocol]:
    """The protocols of all modules of `jaxfuse.scoring` by name, in the order of the kinds of result."""
    modules = [import_module(f"{scoring.__name__}.{module.name}") for module in iter_modules(scoring.__path__)]
    found = [protocol for module in modules for protocol in getattr(module, "PROTOCOLS", ())]
    order = list(KINDS)
    return {protocol.name: protocol for protocol in sorted(found, key=lambda one: order.index(one.kind))}


PROTOCOLS = _protocols()
# Everything that a call may write into a folder.
WRITTEN = (
    *(TABLE, SUMMARY, GROUPS, MARKDOWN, *dict.fromkeys(name for one in PROTOCOLS.values() for name in one.tables)),
    *(calibration.CALIBRATION, calibration.BINS, *FIGURES, methods.JSON, methods.TABLE, methods.SEEDS, REPORT),
)


@dataclass(frozen=True)
class Scored:
    """The scores of all folders of a call.

    Attributes:
        by_method: the scores of each folder, by the name of its method, and of its seed where there are several.
        comparison: the content of comparison.json; None for a single folder.
        refused: the sentences of the cases that could not be scored.
        count: how many cases there were, in all folders.
    """

    by_method: Mapping[str, Scores]
    comparison: Mapping[str, Any] | None
    refused: Mapping[str, str]
    count: int


def evaluate(
    pred: Any,
    ref: str | os.PathLike[str],
    protocol: str,
    *,
    out: str | os.PathLike[str] | None = None,
    groups: str | os.PathLike[str] | None = None,
    allow_missing: bool = False,
    processes: int | None = 1,
    overwrite: bool = False,
    pictures: int | None = None,
    **options: Any,
) -> Scores | Comparison:
    """Scores predictions against references, as `python -m jaxfuse.evaluate` does.

        scores = jaxfuse.evaluate("labels", "cases", "brats")
        scores.mean("dice", region="WT")
        jaxfuse.evaluate(jaxfuse.load("runs/cmff").predict("cases"), "cases", "brats")

    Args:
        pred: folder of predictions, one file for each case; or predictions of a `Run`. Several methods as a mapping,
            name -> folder, or folders of its seeds; they are compared.
        ref: folder of references, laid out as the protocol has it, such as a data set as it is trained on.
        protocol: name of a protocol: what is scored, and by which metrics and rules.
        out: folder for what the command writes: tables, summary and a page. None: nothing is kept.
        groups: CSV file of groups of cases to be scored apart.
        allow_missing: score the cases that have all files even where others lack one.
        processes: how many score cases at once; None: as many as pay. Scripts that ask for several guard their own
            start by `if __name__ == "__main__"`, as Python's `multiprocessing` asks of them.
        overwrite: replace files in `out` that jaxfuse did not write.
        pictures: label volumes, with `out`: how many of the worst cases the page shows as figures; None: 3.
        options: those of the protocol, by the names that the command has for them.

    Returns:
        The scores as a table; of several methods their comparison. Cases that could not be scored are named in a
        warning, and in `refused`.

    Raises:
        UserError: something cannot be read, or an option is not one of the protocol.
        CasesLeftOut: no case could be scored.
    """
    chosen = _chosen(protocol)
    given = _given(chosen, options)
    if pictures is not None and (out is None or chosen.pictures is None):
        why = "out is not given, so that there is no page" if out is None else f"those of {protocol} have none"
        raise UserError(f"pictures is {pictures}, for pages of label volumes, and {why}; leave it out")
    shown = SHOWN if pictures is None else pictures
    with told_in_python(), TemporaryDirectory() as scratch:
        given["call"] = Call(allow_missing, overwrite, processes, read_groups(Path(groups)) if groups else Groups())
        folder = Path(scratch, "scores") if out is None else Path(out)
        methods_found = _methods_of(pred, Path(scratch))
        scored = evaluate_folders(chosen, methods_found, Path(ref), folder, given, shown=shown, page=out is not None)
    for sentence in scored.refused.values():
        warnings.warn(f"left out: {in_python(sentence)}", stacklevel=2)
    if scored.comparison is None:
        return next(iter(scored.by_method.values()))
    return Comparison(scored.by_method, scored.comparison, chosen.metrics)


def evaluate_folders(
    protocol: Protocol,
    found: Methods,
    ref: Path,
    out: Path,
    given: Mapping[str, Any],
    *,
    shown: int = SHOWN,
    page: bool = True,
    say: Say = lambda text: None,
) -> Scored:
    """Scores folders of predictions, compares several, and writes tables and a page to `out`.

    Args:
        found: as `jaxfuse.scoring.methods.read_methods` has them.
        given: the options of the protocol, and the `call`.
        shown: how many of the worst cases the page shows as figures.
        page: whether there is a page.
        say: takes the tables, and where they were written.
    """
    by_method = {
        name: {f"{name}/{seed}" if seed else name: folder for seed, folder in seeds.items()}
        for name, seeds in found.items()
    }
    preds = {name: folder for seeds in by_method.values() for name, folder in seeds.items()}
    written = _open(out, ref, list(preds.values()), overwrite=given["call"].overwrite)
    several = len(preds) > 1
    folders = {name: out / name if several else out for name in preds}
    before = {folder: outputs.standing(folder, WRITTEN) for folder in dict.fromkeys([out, *folders.values()])}
    scores = dict[str, Scores]()
    for name, pred in preds.items():
        if several:
            say(f"{name}:")
        scores[name] = _score(protocol, pred, ref, folders[name], given, say)
        if several:
            say("")
    document = _compare(protocol, by_method, written, say) if several else None
    if page:
        _report(protocol, preds, ref, written, document, shown=shown)
        say(f"Written: {written.folder / REPORT}")
    _clear(before, say)
    refused = {
        f"{name}: {case}" if several else case: sentence
        for name, one in scores.items()
        for case, sentence in one.refused.items()
    }
    return Scored(scores, document, refused, sum(one.summary["cases"] + len(one.refused) for one in scores.values()))


def _open(out: Path, ref: Path, preds: Sequence[Path], *, overwrite: bool) -> outputs.Outputs:
    """Checks the places of the page, and of the comparison of several methods, before anything is scored."""
    several = len(preds) > 1
    for pred in preds if several else ():
        if not pred.is_dir():
            raise UserError(f"{pred} is not a folder; give a folder of predictions for each method")
    names = (REPORT, *FIGURES, *((methods.JSON, methods.TABLE, methods.SEEDS) if several else ()))
    reads = [("--ref", ref), *(("--pred", pred) for pred in preds)]
    return outputs.open_outputs(out, "--out", reads=reads, names=names, overwrite=overwrite)


def _score(protocol: Protocol, pred: Path, ref: Path, out: Path, given: Mapping[str, Any], say: Say) -> Scores:
    """Scores one folder, and says its table."""
    summary = protocol.score(pred, ref, out, **given)
    if (render := kind_of(summary).render) is not None:
        say(render(summary))
    if "calibration" in summary:
        say(calibration.render_calibration(summary["calibration"]))
    for key, lacks in (("without_prediction", "prediction"), ("without_reference", "reference")):
        if summary[key]:
            say(f"Left out, for they have no {lacks}: {listing(summary[key])}.")
    tables = TABLE, *protocol.tables, *((GROUPS,) if summary["groups"] else ())
    say(f"Written: {', '.join(str(out / name) for name in tables)} and {out / SUMMARY}")
    return Scores(read_rows(out / TABLE), read_json(out / SUMMARY), dict(summary["refused"]))


def _compare(
    protocol: Protocol, by_method: Mapping[str, Mapping[str, Path]], written: outputs.Outputs, say: Say
) -> dict[str, Any]:
    """Compares the methods of several folders that were scored; returns the content of comparison.json."""
    out = written.folder
    tables = {name: [read_rows(out / seed / TABLE) for seed in seeds] for name, seeds in by_method.items()}
    found = methods.compare_methods(tables, protocol)
    say(methods.render_comparison(found, protocol.metrics))
    with written.together() as folder:
        write_json(folder / methods.JSON, found)
        for name, rows in ((methods.TABLE, found["pairs"]), (methods.SEEDS, found["between_seeds"])):
            if rows:
                write_rows(folder / name, rows)
    say(f"Written: {out / methods.JSON} and the tables beside it")
    return found


def _report(
    protocol: Protocol,
    preds: Mapping[str, Path],
    ref: Path,
    written: outputs.Outputs,
    document: Mapping[str, Any] | None,
    *,
    shown: int,
) -> None:
    """Writes the page on what was scored, with figures of so many of the worst cases."""
    folders = {name: written.folder / name if document else written.folder for name in preds}
    scored = {
        name: Method(preds[name], read_rows(folder / TABLE), read_json(folder / SUMMARY))
        for name, folder in folders.items()
    }
    pictures = None
    if shown and protocol.pictures is not None:
        scheme = label_scheme(next(iter(scored.values())).summary["labels"])
        pictures = Pictures(protocol.pictures(preds, ref, scheme), scheme, shown)
    compared = methods.tables_of(document, protocol.metrics) if document else None
    with written.together() as folder:
        parts = _parts(protocol, folder, folders, {name: one.summary for name, one in scored.items()})
        page = Evaluation(protocol.name, protocol.output, ref, scored, compared, pictures, parts)
        write_evaluation(folder / REPORT, page)


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


def _clear(before: Mapping[Path, Mapping[str, tuple[int, int]]], say: Say) -> None:
    """Removes what an earlier call has written and this one has not, and tells of what is left of others."""
    for folder, files in before.items():
        removed, kept = outputs.remove_outdated(folder, files)
        for names, told in ((removed, "Removed, as of an earlier call"), (kept, "Kept, but of an earlier call")):
            if names:
                say(f"{told}: {', '.join(str(folder / name) for name in names)}")
    top = next(iter(before))
    others = [path for path in sorted([*top.glob("*/"), *top.glob("*/*/")]) if outputs.wrote(path, SUMMARY)]
    if left := [str(path) for path in others if path not in before]:
        say(f"Scores of methods of an earlier call: {listing(left)}")


def _chosen(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r} is not known; choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _given(protocol: Protocol, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a protocol as its flags give them.

    Raises:
        TypeError: a name is no option of any protocol.
        UserError: it is one of another protocol, or the value is none of its choices.
    """
    own = {option.name: option for option in protocol.options}
    for name in options:
        owners = [other.name for other in PROTOCOLS.values() if name in {option.name for option in other.options}]
        if not owners:
            raise TypeError(f"evaluate has no option {name!r}; protocol {protocol.name} has {', '.join(own) or 'none'}")
        if name not in own:
            raise UserError(
                f"{name} is an option of the protocol {', '.join(owners)}, not of {protocol.name}; leave it out"
            )
    return {name: _value(option, options.get(name)) for name, option in own.items()}


def _value(option: Option, value: Any) -> Any:
    if option.switch:
        return bool(value)
    if value is None:
        return None
    if option.several:
        return [str(one) for one in ([value] if isinstance(value, str) else value)]
    if option.choices and value not in option.choices:
        raise UserError(f"{option.name} is {value!r}; choose one of {', '.join(option.choices)}")
    return str(value)


def _methods_of(pred: Any, scratch: Path) -> Methods:
    """Returns folders of predictions by method and seed; predictions that lie nowhere are written below `scratch`."""
    if not isinstance(pred, Mapping):
        return methods.read_methods([str(_folder(pred, scratch / "predictions"))])
    found = dict[str, Mapping[str, Path]]()
    for number, (name, some) in enumerate(pred.items()):
        several = isinstance(some, list | tuple)
        folders = [_folder(one, scratch / f"predictions{number}") for one in (some if several else [some])]
        (seeds,) = methods.read_methods([f"{name}={','.join(map(str, folders))}"]).values()
        found[name] = seeds if several else {"": folders[0]}
    return found


def _folder(pred: Any, scratch: Path) -> Path:
    if isinstance(pred, str | os.PathLike):
        return Path(os.fspath(pred))
    if not hasattr(pred, "save"):
        raise UserError(f"predictions came as {type(pred).__name__}; give a folder, or what a run has predicted")
    # One prediction is saved as a file, several are saved below a folder.
    pred.save(scratch / pred.file_name if hasattr(pred, "file_name") else scratch)
    return scratch
