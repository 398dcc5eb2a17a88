"""Brain masks by HD-BET (Isensee et al. 2019), a program that users install themselves.

BraTS volumes come without skull: their brain is where any of them is not zero, so that no program is needed.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Bool
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation

from jaxfuse.errors import UserError
from jaxfuse.io.nifti import Volume, read_volume, write_like

PROGRAM = "hd-bet"


def hd_bet_program() -> str:
    """Returns the path of the program; refuses to go on where it is not installed."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise UserError(
            f"brain_mask is {PROGRAM!r}, and there is no program {PROGRAM} on PATH; install it (pip install {PROGRAM}) "
            "and activate its environment, or use brain_mask union where the volumes have no skull"
        )
    return program


def hd_bet_command(program: str, given: Path, made: Path, device: str) -> list[str]:
    """Returns the command line of version 2; without a GPU one pass replaces eight mirrored ones."""
    sparing = ["--disable_tta"] if device == "cpu" else []
    return [program, "-i", str(given), "-o", str(made), "-device", device, *sparing, "--save_bet_mask"]


def extract_brain(image: Path, mask: Path, *, program: str, device: str) -> None:
    """Runs the program on the volume `image`, and writes the file `mask`, which is 1 in the brain.

    The mask lies on the grid of the image by the image's own header: the program's output may have lost its sform.

    Raises:
        UserError: the program fails, or gives a mask of another shape or an empty one.
    """
    reference = read_volume(image)
    with tempfile.TemporaryDirectory(prefix="brain-") as folder:
        given, made = Path(folder, "image.nii.gz"), Path(folder, "brain.nii.gz")
        # The program takes .nii.gz only.
        given.write_bytes(image.read_bytes() if image.name.endswith(".gz") else gzip.compress(image.read_bytes()))
        command = hd_bet_command(program, given, made, device)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = made.with_name("brain_bet.nii.gz")
        if done.returncode or not found.is_file():
            last = ([line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["no message"])[-1]
            raise UserError(
                f"{PROGRAM} made no mask of {image} (exit code {done.returncode}: {last.strip()}); "
                f"try it by itself: {' '.join(command).replace(folder + '/', '')}"
            )
        inside = _on_grid(found, reference)
    if not inside.any():
        raise UserError(f"{PROGRAM} finds no brain in {image}; look at the volume, or leave the case out")
    write_like(mask, inside, image, dtype="uint8")


def read_brain(path: Path) -> Bool[np.ndarray, "d h w"]:
    """Reads a mask on the canonical axes."""
    return read_volume(path).array > 0


def _on_grid(path: Path, reference: Volume) -> Bool[np.ndarray, "d h w"]:
    """Reads a mask as if it had the header of the reference, whose canonical axes it gets."""
    try:
        stored = np.asanyarray(nib.load(path).dataobj)  # pyright: ignore
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise UserError(f"{PROGRAM} wrote a mask that cannot be read ({error}); check its installation") from error
    shape = reference.stored_shape[:3]
    if stored.shape[:3] != shape or stored.size != np.prod(shape):
        raise UserError(f"{PROGRAM} made a mask of shape {stored.shape} for {reference.path} of shape {shape}")
    return np.ascontiguousarray(apply_orientation(stored.reshape(shape) > 0, reference.orientation))
