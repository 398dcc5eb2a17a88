"""python -m jaxfuse.impute --synthesis RUN --segmentation RUN --input DIR --output DIR

Segments cases that lack a modality: it is synthesized from the others first.

Cases lie below DIR as in the data that the runs were trained on, and lack at most the modality that the first run
makes; a case that has it is segmented as it is. For each case are written:

    OUTPUT/<case>.nii.gz    the label map, on the grid of the input
    OUTPUT/<case>.png       three planes with all modalities and the labels; what is synthesized is marked
    OUTPUT/<case>/          where a modality was missing: the synthesized volume, named as it would be in the input, and
                            a JSON file beside it that says what it is

and for all of them OUTPUT/report.html and OUTPUT/cases.csv: which rest on a synthesized modality, and the volume of
each region in ml. The headers of label maps that rest on one say so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli


def define_flags() -> None:
    flags.DEFINE_string("synthesis", None, "The run that makes the missing modality: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("segmentation", None, "The run that labels: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("input", None, "Folder of cases that lack one modality; labels are not needed.")
    flags.DEFINE_string("output", None, "Folder for label maps, figures and synthesized volumes; made if need be.")
    for name in ("synthesis", "segmentation", "input", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    from jaxfuse.engine.display import Display, clock
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.missing_modality import cases_to_complete, check_output, summary
    from jaxfuse.engine.trained.phases import load_members
    from jaxfuse.engine.trained.synthesizer import load_synthesizers
    from jaxfuse.io.folders import writable_folder
    from jaxfuse.io.tables import write_rows
    from jaxfuse.report.completed import write_completed_report

    cli.no_arguments(argv)
    root, output = Path(flags.FLAGS.input), Path(flags.FLAGS.output)
    check_output(root, output)
    makers, members = load_synthesizers([flags.FLAGS.synthesis]), load_members([flags.FLAGS.segmentation])
    cases = cases_to_complete(root, makers[0], members[0])
    output = writable_folder(output, "--output")
    compilation_cache(members[0].data.cache_dir)
    display = Display()
    display.say(f"{makers[0].task} by {', '.join(m.name for m in makers)}, labels by {_names(members)}")
    display.say(summary(cases, makers[0].target))
    complete, segment = _completer(makers, output), _segmenter(members, makers[0])
    started, done = time.perf_counter(), []
    for number, case in enumerate(cases, start=1):
        path = output / f"{case.files.id}.nii.gz"
        done.append(segment(complete(case), case, path))
        how = f"with its own {makers[0].target}" if case.lacks is None else f"{makers[0].target} synthesized"
        left = (time.perf_counter() - started) / number * (len(cases) - number)
        display.say(f"{number} of {len(cases)}: {path}, {how} ({clock(left)} left)")
    target, sources = makers[0].target, makers[0].sources
    write_rows(
        output / "cases.csv",
        [
            {
                "case": one.id,
                target: "synthesized" if one.synthesized else "own",
                **{f"{region}_ml": volume for region, volume in one.volumes_ml.items()},
            }
            for one in done
        ],
    )
    facts = [("Synthesis", _names(makers)), ("Segmentation", _names(members)), ("Input", str(root))]
    write_completed_report(output / "report.html", done, target=target, sources=sources, facts=facts)
    display.say(f"Done: {output / 'report.html'}")
    return 0


def _names(members: Any) -> str:
    return ", ".join(member.name for member in members)


def _completer(makers: Any, output: Path) -> Any:
    """A function from a case to its files, with the missing one written if there is one."""
    from jaxfuse.data.cases import load_case
    from jaxfuse.engine.trained.synthesizer import volume_maker, write_synthesized

    make, first = volume_maker(makers), makers[0]

    def complete(case: Any) -> Any:
        if case.lacks is None:
            return case.files
        path = output / case.files.id / case.lacks
        write_synthesized(path, make(load_case(case.files, first.sources, None)), case.files, makers)
        return case.completed(first.target, path)

    return complete


def _segmenter(members: Any, maker: Any) -> Any:
    """A function from complete files, the case as it was and a path to what was found.

    It writes the label map there, and a figure beside it.
    """
    import numpy as np

    from jaxfuse.data.cases import load_case
    from jaxfuse.data.dataset import prepare_like
    from jaxfuse.data.preprocess import uncrop
    from jaxfuse.engine.trained.phases import mean_probabilities
    from jaxfuse.engine.trained.synthesizer import DESCRIPTION
    from jaxfuse.inference.label_map import label_map
    from jaxfuse.io.nifti import write_like
    from jaxfuse.report.completed import CompletedCase
    from jaxfuse.report.figures import segmentation_panel

    first, predict = members[0], mean_probabilities(members, overlap=None)
    modalities, scheme = first.data.modalities, first.scheme

    def segment(files: Any, case: Any, path: Path) -> CompletedCase:
        # Read back from the file: labels are those that anyone gets from the volumes as written.
        prepared = prepare_like(load_case(files, modalities, None), first.data, first.landmarks)
        labels = label_map(predict(prepared), prepared.brain)
        decoded = np.array(scheme.decode, np.uint8)[labels]
        made = case.lacks is not None
        taken = next(case.files.images[name] for name in modalities if name in case.files.images)
        description = f"{maker.target} {DESCRIPTION}" if made else None
        write_like(path, uncrop(decoded, prepared, 0), taken, dtype="uint8", description=description)
        panel = path.with_name(f"{case.files.id}.png")
        marked = [f"{name} (synthesized)" if made and name == maker.target else name for name in modalities]
        segmentation_panel(
            panel,
            image=prepared.image,
            modalities=marked,
            truth=None,
            predictions={"segmentation": labels},
            classes=scheme.classes,
            title=f"{case.files.id}: " + (f"{maker.task}, synthesized by {maker.name}" if made else "as it was taken"),
            spacing_mm=prepared.facts.spacing_mm,
        )
        voxel_ml = float(np.prod(prepared.facts.spacing_mm)) / 1000
        volumes = {region: int(np.isin(labels, classes).sum()) * voxel_ml for region, classes in scheme.regions.items()}
        return CompletedCase(case.files.id, made, volumes, panel)

    return segment


if __name__ == "__main__":
    define_flags()
    cli.run(main)
