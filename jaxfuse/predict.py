"""python -m jaxfuse.predict --workdir RUN[:PHASE[@last|@best]] [RUN ...] --input DIR --output DIR

Labels every case below DIR with a trained run, or with the mean of the probabilities of several runs or phases.
Cases lie there as in the data that the run was trained on: folders of BraTS or of stroke, or subjects of iSeg.
Each label map is written as OUTPUT/<case>.nii.gz on the grid of the input (affine, shape, orientation, header),
with the data set's own label values. A run whose result is made of several phases is averaged without being told.

A run that synthesizes a modality, or several of one task, makes that modality instead, from cases that need to have its
sources only: OUTPUT/<case>_<target>.nii.gz, on the grid of the first source, and a JSON file beside it that says what
it is. The real image's range is not known; values are in the median range of the training volumes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jaxfuse import cli
from jaxfuse.errors import UserError


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Run: RUN, RUN:PHASE or RUN:PHASE@best; further ones may follow it.")
    flags.DEFINE_string(
        "input", None, "Folder of cases, of the kind that the run was trained on; labels are not needed."
    )
    flags.DEFINE_string("output", None, "Folder for the label maps or volumes; made if need be.")
    flags.DEFINE_float(
        "overlap", None, "Least share of a tile in common with its neighbor; that of the run if not given."
    )
    flags.DEFINE_integer(
        "memory_mb",
        None,
        "Networks of valid convolutions: most memory for a tile in MB, 0 for tiles of the training patch; that of the "
        "run if not given.",
        lower_bound=0,
    )
    flags.DEFINE_bool(
        "whole_slices", False, "Runs that synthesize: each slice in one pass, not in patches of the size of training."
    )
    for name in ("workdir", "input", "output"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    from jaxfuse.engine.trained.synthesizer import synthesizes

    runs = [flags.FLAGS.workdir, *argv[1:]]
    return _synthesize(runs) if synthesizes(runs) else _label(runs)


def _label(runs: Sequence[str]) -> int:
    from jaxfuse.data.cases import load_case
    from jaxfuse.data.dataset import prepare_like
    from jaxfuse.data.preprocess import uncrop
    from jaxfuse.data.sources.volumes import source_of
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.phases import load_members, mean_probabilities
    from jaxfuse.inference.label_map import label_map
    from jaxfuse.io.folders import writable_folder
    from jaxfuse.io.nifti import write_like

    if flags.FLAGS.whole_slices:
        raise UserError("--whole_slices is an option of runs that synthesize a modality, and these label; leave it out")
    members = load_members(runs)
    first = members[0]
    compilation_cache(first.data.cache_dir)
    source = source_of(first.data.source)
    files = source.find(flags.FLAGS.input, first.data.modalities, labels_required=False, layout=first.data.layout)
    output = writable_folder(flags.FLAGS.output, "--output")
    display = Display()
    display.say(f"{len(files)} cases by {', '.join(m.name for m in members)}; labels of scheme {first.scheme.name}")
    predict = mean_probabilities(members, overlap=flags.FLAGS.overlap, memory_mb=flags.FLAGS.memory_mb)
    for one, tell in _counted(files, display):
        # The label file, if there is one, is not opened: a prediction must not depend on it.
        case = load_case(one, first.data.modalities, None)
        prepared = prepare_like(case, first.data, first.landmarks)
        labels = _decode(label_map(predict(prepared), prepared.brain), first.scheme)
        path = output / f"{one.id}.nii.gz"
        write_like(path, uncrop(labels, prepared, 0), one.images[first.data.modalities[0]], dtype="uint8")
        tell(path)
    return 0


def _synthesize(runs: Sequence[str]) -> int:
    from jaxfuse.data.cases import load_case
    from jaxfuse.data.sources.volumes import source_of
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.synthesizer import Passes, load_synthesizers, volume_maker, write_synthesized
    from jaxfuse.io.folders import writable_folder

    options = flags.FLAGS
    passes = Passes(options.whole_slices, options.overlap, options.memory_mb)
    members = load_synthesizers(runs)
    first = members[0]
    compilation_cache(first.data.cache_dir)
    source = source_of(first.data.source)
    # Of the target nothing is read, whether it is there or not.
    files = source.find(options.input, first.sources, labels_required=False, layout=first.data.layout)
    output = writable_folder(options.output, "--output")
    display = Display()
    display.say(f"{len(files)} cases: {first.task} by {', '.join(m.name for m in members)}")
    make = volume_maker(members, passes)
    for one, tell in _counted(files, display):
        path = output / f"{one.id}_{first.target}.nii.gz"
        write_synthesized(path, make(load_case(one, first.sources, None)), one, members, passes)
        tell(path)
    return 0


def _counted(files: Sequence[Any], display: Any) -> Iterator[tuple[Any, Callable[[Path], None]]]:
    """Each case with a function that says where its result was written, and how long the others will take."""
    from jaxfuse.engine.display import clock

    started = time.perf_counter()
    for number, one in enumerate(files, start=1):

        def tell(path: Path, number: int = number) -> None:
            left = (time.perf_counter() - started) / number * (len(files) - number)
            display.say(f"{number} of {len(files)}: {path} ({clock(left)} left)")

        yield one, tell


def _decode(labels: Any, scheme: Any) -> Any:
    """Class indices -> the values of the data set's files."""
    import numpy as np

    return np.array(scheme.decode, np.uint8)[labels]


if __name__ == "__main__":
    define_flags()
    cli.run(main)
