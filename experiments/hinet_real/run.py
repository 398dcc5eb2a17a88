"""Hi-Net on real volumes: FLAIR of T1 and T2, judged on slices of the same head that it was not trained on.

    python -m experiments.hinet_real.run --input DIR

DIR holds one case in the layout of BraTS with t1, t2 and flair. Its brain is cut along the body's axis into thirds. The
middle one is held out, with five slices on either side that nobody sees; the network trains on the rest by the command
that a user would run. What it makes of the held-out block stands beside each source in place of the target and a linear
regression by voxel fitted on the same slices. One head says nothing about others: the table tells whether the method
works on real intensities, not how well it generalizes.

Writes table.md and scores.json beside this file, and below --folder the blocks, the run, FLAIR of the whole head and a
panel of the held-out slices. A finished training is not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.hinet_rows.images import SOURCES, TARGET, copies, image, judged, linear, network, table
from experiments.shared import command, train_once
from jaxfuse.data.cache import prepare
from jaxfuse.data.intensities import normalization
from jaxfuse.data.phantom.writing import write_nifti
from jaxfuse.data.prepared import PreparedCase
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.io.tables import write_json
from jaxfuse.models.hinet.networks import DIVISOR
from jaxfuse.report.synthesis import synthesis_panel

HERE = Path(__file__).parent

MODALITIES = (*SOURCES, TARGET)
GAP = 5
LEAST_BRAIN = 0.01  # of a slice, for it to count among the thirds
NORMALIZE = "percentiles"
HELD_OUT, TRAINING = "held_out", ("below", "above")


def blocks_of(brain: Sequence[bool]) -> dict[str, slice]:
    """Splits the slices that show enough brain into training blocks and the held-out one."""
    first, *_, last = np.flatnonzero(brain)
    low, high = np.linspace(first, last + 1, 4).round().astype(int)[1:3]
    return {
        "below": slice(first, low - GAP),
        HELD_OUT: slice(low, high),
        "above": slice(high + GAP, last + 1),
    }


def write_blocks(case_root: Path, folder: Path) -> dict[str, slice]:
    """Writes each block as a case of its own, its place in the head kept, and the split file."""
    found = SOURCE.find(case_root, MODALITIES, labels_required=False)
    if len(found) != 1:
        raise SystemExit(f"{case_root} holds {len(found)} cases; name the folder of one")
    files = found[0]
    volumes = {name: files.images[name].read() for name in MODALITIES}
    shown = np.any([volume.array != 0 for volume in volumes.values()], axis=0)
    blocks = blocks_of(shown.mean(axis=(0, 1)) >= LEAST_BRAIN)
    for block, slices in blocks.items():
        for name, volume in volumes.items():
            path = folder / "cases" / block / f"{block}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            shift = np.eye(4)
            shift[2, 3] = slices.start
            write_nifti(path, volume.array[:, :, slices], volume.affine @ shift)
    write_json(folder / "split.json", {"train": TRAINING, "val": [HELD_OUT]})
    return blocks


def train(folder: Path, options: Sequence[str]) -> float:
    data = {"root": folder / "cases", "split": folder / "split.json", "modalities": MODALITIES, "normalize": NORMALIZE}
    given = [f"--config.data.{name}={value}" for name, value in data.items()]
    return train_once("configs/hinet.py", folder / "run", *given, *options)


def scored(folder: Path) -> tuple[dict[str, dict[str, float]], PreparedCase, dict[str, np.ndarray]]:
    """Scores of the held-out block by image, the block, and the images."""
    files = SOURCE.find(folder / "cases", MODALITIES, labels_required=False)
    prepared = prepare(files, MODALITIES, None, normalize=normalization(NORMALIZE), cache=folder / "prepared")
    cases = {one.id: one for one in prepared}
    held_out = cases[HELD_OUT]
    # Rows run along the second axis of a volume, columns along the first.
    columns, rows = (side + -side % DIVISOR for side in held_out.facts.shape[:2])
    makers = {
        **copies(),
        "linear regression": linear(cases[name] for name in TRAINING),
        "Hi-Net": network(folder / "run"),
        "Hi-Net, whole slices": network(folder / "run", (rows, columns)),
    }
    scores, images = {}, {}
    for name, make in makers.items():
        scores[name], made = judged(make, [held_out])
        images[name] = made[held_out.id]
    return scores, held_out, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="a case, or a folder of one")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "hinet_real", help="blocks, run and volumes")
    parser.add_argument("options", nargs="*", help="options of the training, such as --config.synthesis.steps=100")
    parsed = parser.parse_args()
    root, folder = parsed.input.absolute(), parsed.folder.absolute()
    blocks = write_blocks(root, folder)
    seconds = train(folder, parsed.options)
    print(f"trained in {seconds:.0f} s", flush=True)
    scores, held_out, images = scored(folder)
    command("predict", f"--workdir={folder / 'run'}", f"--input={root}", f"--output={folder / 'whole'}")
    synthesis_panel(
        folder / "panel.png",
        sources={name: image(held_out, name) for name in SOURCES},
        made={name: images[name] for name in ("linear regression", "Hi-Net")},
        truth=image(held_out, TARGET),
        target=TARGET,
        title=f"{TARGET} from {' and '.join(SOURCES)}: slices of one head that no training has seen",
        spacing_mm=held_out.facts.spacing_mm,
        label=None,
    )
    slices = {name: [int(one.start), int(one.stop)] for name, one in blocks.items()}
    write_json(HERE / "scores.json", {"slices": slices, "images": scores, "training_s": seconds})
    text = table({name: [found] for name, found in scores.items()})
    place = {name: f"{first} to {last - 1}" for name, (first, last) in slices.items()}
    told = f"Trained on slices {place['below']} and {place['above']} of one head, judged on {place[HELD_OUT]}."
    (HERE / "table.md").write_text(f"# Hi-Net on held-out slices of one real head\n\n{told}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
