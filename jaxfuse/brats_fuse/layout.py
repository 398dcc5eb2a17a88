"""The data set BraTS-Fuse on disk: where its files lie, what its manifest says, and how patients are split.

    manifest.csv                               one row per slice
    <split>/source/<modality>/<case>_z077.png  levels 1 to 255 in the brain, 0 outside
    <split>/mask/<case>_z077.png               class indices, of labeled cases
    <split>/fused/<a-b>/<case>_z077.png        the fused image of the modalities a and b
    <split>/attn/<a-b>/<case>_z077.npz         on request: "attention" (h w modalities), float16
    brain/<case>.nii.gz                        the brain mask, where a program made it

The data set is that of the Fuse4Seg paper, which gives neither the split nor the intensities nor the choice of slices.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from jaxfuse.data.slices import slice_name
from jaxfuse.data.splits import split_cases
from jaxfuse.data.subject_names import subject_of
from jaxfuse.errors import UserError

SPLITS = ("train", "val", "test")
BRAIN = "brain"
# A file that was being written when its process was killed.
_PIECE = re.compile(r"\..+\.(png|npz|gz)\.\d+\.[0-9a-f]{8}")
_HELD_OUT = 0.1  # share of the patients of each, val and test

Row = Mapping[str, Any]
Combo = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Names of the files of a row of the manifest, relative to the data set, with forward slashes.

    Attributes:
        modalities: sources, in the order of the manifest's columns.
        combos: combinations that are fused, each in the order of `modalities`.
        attention: whether each combination has an attention map.
        axis: array axis of a canonical volume that is cut; it decides the letter before a slice's number.
        brain: whether each case has a brain mask.
    """

    modalities: tuple[str, ...]
    combos: tuple[Combo, ...]
    attention: bool
    axis: int
    brain: bool

    def source(self, row: Row, modality: str) -> str:
        return f"{row['split']}/source/{modality}/{self.name(row)}.png"

    def mask(self, row: Row) -> str:
        return f"{row['split']}/mask/{self.name(row)}.png"

    def fused(self, row: Row, combo: Combo) -> str:
        return f"{row['split']}/fused/{'-'.join(combo)}/{self.name(row)}.png"

    def attn(self, row: Row, combo: Combo) -> str:
        return f"{row['split']}/attn/{'-'.join(combo)}/{self.name(row)}.npz"

    def name(self, row: Row) -> str:
        """Names a slice, such as CASE_z077."""
        return slice_name(row["case"], self.axis, row["z"])

    def cut(self, row: Row) -> tuple[str, ...]:
        """Lists the files that are cut out of the volumes."""
        sources = tuple(self.source(row, modality) for modality in self.modalities)
        return (*sources, self.mask(row)) if row["has_label"] else sources

    def made(self, row: Row, combo: Combo) -> tuple[str, ...]:
        """Lists the files that the network makes of one combination."""
        return (self.fused(row, combo), *([self.attn(row, combo)] if self.attention else []))

    def files(self, row: Row) -> Iterator[str]:
        """Yields all files of a slice."""
        yield from self.cut(row)
        for combo in self.combos:
            yield from self.made(row, combo)
        if self.brain:
            yield brain_file(row["case"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the manifest. `<modality>_p_lo/hi`: the intensities mapped to gray levels 1 and 255."""
        limits = (f"{modality}_p_{end}" for modality in self.modalities for end in ("lo", "hi"))
        return ("case", "z", "split", "has_label", "brain_px", "tumor_px", *limits, "seen_in_training")


def brain_file(case: str) -> str:
    """The brain mask of a case, relative to the data set."""
    return f"{BRAIN}/{case}.nii.gz"


def combos_of(members: Iterable[Sequence[str]], modalities: Sequence[str]) -> tuple[Combo, ...]:
    """Returns each combination once, in the order of `modalities`, on which a fused image does not depend."""
    ordered = (tuple(name for name in modalities if name in combo) for combo in members)
    return tuple(dict.fromkeys(ordered))


def split_by_patient(ids_and_groups: Iterable[tuple[str, str]], *, seed: int) -> dict[str, tuple[str, ...]]:
    """Draws train, val and test: 80, 10 and 10 % of the patients, in proportion to their groups.

    Of three or more patients, val and test get at least one each; of two, one is tested; a single one trains.
    """
    pairs = sorted(ids_and_groups)
    patients = len({subject_of(case) for case, _ in pairs})
    held = max(1, round(_HELD_OUT * patients))
    left, sides = pairs, {}
    for side, count in (("test", held if patients > 1 else 0), ("val", held if patients > 2 else 0)):
        chosen = split_cases(left, seed=seed, val_count=count)["val"] if count else ()
        sides[side] = chosen
        left = [pair for pair in left if pair[0] not in set(chosen)]
    sides["train"] = tuple(case for case, _ in left)
    return {side: sides[side] for side in SPLITS}


def files_on_disk(root: Path) -> set[str]:
    """Lists the files of the data set below `root`, relative to it, without hidden ones and those of the top folder."""
    return {path for path in _below(root) if not PurePosixPath(path).name.startswith(".")}


def remove_pieces(root: Path) -> None:
    """Removes files that a killed process had not finished. One process at a time builds a data set."""
    for path in _below(root):
        if _PIECE.fullmatch(PurePosixPath(path).name):
            (root / path).unlink(missing_ok=True)


def check_whole(root: Path, layout: Layout, rows: Iterable[Row], left_out: Iterable[str] = ()) -> int:
    """Returns the number of files, and checks that they are exactly those of the manifest.

    Files of the cases `left_out`, which may have been begun, are passed over.

    Raises:
        UserError: a file is missing, or one lies there that no row stands for.
    """
    listed = {path for row in rows for path in layout.files(row)}
    found = files_on_disk(root)
    if missing := sorted(listed - found):
        raise UserError(f"{_count(missing)} of the manifest of {root} lack; run the same command again")
    begun = tuple(f"{case}{end}" for case in left_out for end in "._")
    if strange := sorted(path for path in found - listed if not PurePosixPath(path).name.startswith(begun)):
        raise UserError(f"{_count(strange)} below {root} stand in no row of the manifest; move them elsewhere")
    return len(listed)


def _below(root: Path) -> Iterator[str]:
    for top in (*SPLITS, BRAIN):
        for folder, _, names in os.walk(root / top):
            inside = Path(folder).relative_to(root).as_posix()
            yield from (f"{inside}/{name}" for name in names)


def _count(paths: Sequence[str]) -> str:
    return f"{len(paths)} files ({paths[0]}{' ...' if len(paths) > 1 else ''})"
