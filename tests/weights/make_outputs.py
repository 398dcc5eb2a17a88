"""python -m tests.weights.make_outputs

Writes what PyTorch makes of the state dicts of `rule`, a file for each network, into `tests/weights/stored`, and two
files of `torch.save`, one of either form.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.weights.sizes import IMAGES

STORED = Path(__file__).parent / "stored"


def stored(case: str) -> tuple[dict[str, tuple[int, ...]], np.ndarray]:
    """Returns names and sides of a public state dict, and the output of its network."""
    with np.load(STORED / f"{case}.npz") as file:
        shapes = json.loads(str(file["shapes"]))
        return {name: tuple(shape) for name, shape in shapes.items()}, file["output"]


def main() -> None:
    from tests.weights.peers import output, save

    STORED.mkdir(exist_ok=True)
    for case in IMAGES:
        shapes, made = output(case)
        np.savez_compressed(STORED / f"{case}.npz", shapes=np.array(json.dumps(shapes)), output=made)
        print(case, len(shapes), "tensors", made.shape, "standard deviation", float(made.std()))
    save(STORED / "archive.pth", archive=True)
    save(STORED / "in_a_row.pkl", archive=False)


if __name__ == "__main__":
    main()
