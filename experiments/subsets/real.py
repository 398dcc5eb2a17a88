"""One real head, labeled by each of the 15 subsets of its modalities: an overfit check, which scores nothing unseen.

    python -m experiments.subsets.real --input DIR

DIR holds one labeled case in the layout of BraTS. CMFF that masks absent groups out of the fusion trains on it, every
example showing one of the subsets; then 15 cases that hold links to the files of one subset each are labeled by
`jaxfuse.predict --missing zero`, as a user's would be. Writes real.md beside this file, and below --folder the run, the
label maps and panel.png. A finished training is not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.shared import command, train_once
from experiments.subsets.run import FORMS, MODALITIES, SUBSETS
from jaxfuse.data.cases import Case, CaseFiles, load_case
from jaxfuse.data.presence import subset_name
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.io.tables import render
from jaxfuse.labels import label_scheme
from jaxfuse.metrics.regions import score_case
from jaxfuse.report.figures import segmentation_panel

HERE = Path(__file__).parent
SCHEME = label_scheme("brats")
FORM = "CMFF, dropout, masked"
STEPS = 600


def write_subsets(files: CaseFiles, folder: Path) -> dict[str, str]:
    """Links the files of each subset as a case of its own; returns case -> name of the subset."""
    names = {}
    for number, subset in enumerate(SUBSETS):
        case = f"subset_{number:02d}"
        names[case] = subset_name(subset, MODALITIES)
        (folder / case).mkdir(parents=True, exist_ok=True)
        for modality in np.array(MODALITIES)[list(subset)]:
            link = folder / case / f"{case}_{modality}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to(files.images[modality].path)
    return names


def scores_of(case: Case, made: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns a line for each subset: Dice by region."""
    lines = []
    for name, labels in made.items():
        told = {"spacing_mm": case.spacing_mm, "one_empty": np.nan, "case": case.id, "output": name}
        rows = score_case(labels, np.asarray(case.label), SCHEME, **told)
        lines.append({"modalities": name, **{f"Dice {row['region']}": f"{row['dice']:.3f}" for row in rows}})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="the data set of one case")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "subsets_real")
    options = parser.parse_args()
    root, folder = options.input.absolute(), options.folder.absolute()
    (files,) = SOURCE.find(root, MODALITIES, labels_required=True)
    form = FORMS[FORM]
    given = (*form.arguments(0, options.steps), f"--config.data.root={root}")
    seconds = train_once(f"configs/cmff.py:,row={form.row}", folder / "run", *given)
    names = write_subsets(files, folder / "cases")
    command("predict", f"--workdir={folder / 'run'}", f"--input={folder / 'cases'}", f"--output={folder / 'labels'}",
            "--missing=zero", "--overlap=0")  # fmt: skip
    case = load_case(files, MODALITIES, SCHEME)
    written = {name: replace(files, label=folder / "labels" / f"{one}.nii.gz") for one, name in names.items()}
    made = {name: np.asarray(load_case(one, MODALITIES, SCHEME).label) for name, one in written.items()}
    segmentation_panel(
        folder / "panel.png",
        image=case.image,
        modalities=MODALITIES,
        truth=case.label,
        predictions=made,
        classes=SCHEME.classes,
        title="One head by each subset of its modalities; the network was trained on this head",
        spacing_mm=case.spacing_mm,
    )
    lines = scores_of(case, made)
    told = f"{options.steps} steps on the one head that is labeled ({seconds:.0f} s): an overfit check."
    (HERE / "real.md").write_text(f"# One real head by 15 subsets\n\n{told}\n\n{render(lines, list(lines[0]))}\n")
    print(told, render(lines, list(lines[0])), sep="\n\n")


if __name__ == "__main__":
    main()
