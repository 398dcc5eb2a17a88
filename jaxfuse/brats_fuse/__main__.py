"""Builds the data set BraTS-Fuse: slices of BraTS volumes, and their fused images in every combination.

    python -m jaxfuse.brats_fuse --root DIR --run RUN[:PHASE[@best]] --out DIR

DIR of --root holds cases in any BraTS layout, labeled or not. The run's network fuses the slices; patients that it
was trained on are refused. OUT gets manifest.csv, builder.json and a folder for each of train, val and test, as
`jaxfuse.brats_fuse.layout` describes them. The same command goes on with a build that was interrupted.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from absl import flags

from jaxfuse import cli
from jaxfuse.data.slices import AXES
from jaxfuse.labels import SCHEMES
from jaxfuse.prediction import spacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxfuse.brats_fuse.layout import Combo


def define_flags() -> None:
    """Defines the options of the command, not on import, so that commands can be imported side by side."""
    flags.DEFINE_string("root", None, "Folder of cases, at any level from the download's folder down.")
    flags.DEFINE_string("run", None, "The run whose network fuses: RUN, RUN:PHASE or RUN:PHASE@best.")
    flags.DEFINE_string("out", None, "Folder of the data set; made if need be.")
    flags.DEFINE_string("layout", None, "Layout of the cases; told from the names on disk if not given.")
    flags.DEFINE_string("labels", None, f"Label scheme, of {', '.join(SCHEMES)}; the layout's if not given.")
    flags.DEFINE_list("modalities", None, "Modalities of the data set; all that the run knows if not given.")
    flags.DEFINE_enum("axis", "axial", list(AXES), "Direction of the slices.")
    flags.DEFINE_bool("one_per_case", False, "Only one slice of each case: of the largest tumor, else the middle.")
    flags.DEFINE_enum(
        "brain_mask", "union", ["union", "hd-bet"], "union: where any volume is not zero; hd-bet: run this program."
    )
    flags.DEFINE_string("hd_bet_device", None, "cpu, cuda or mps; cuda where JAX has a GPU, else cpu, if not given.")
    flags.DEFINE_string(
        "combos", "trained", "Combinations: those that the run was trained on, all, pairs, or such as t1+t2,t1+t1ce+t2."
    )
    flags.DEFINE_bool(
        "allow_untrained", False, "Fuse combinations that the run never trained too; builder.json marks them."
    )
    flags.DEFINE_bool("attention", False, "Also write the attention that each pixel of each source receives.")
    flags.DEFINE_integer("seed", 0, "Seed of the split into train, val and test.")
    flags.DEFINE_bool("allow_trained", False, "Fuse patients of the run's training too; the manifest marks them.")
    flags.DEFINE_integer("panels", 0, "How many contact sheets are drawn into OUT/panels.", lower_bound=0)
    flags.DEFINE_integer("batch", 4, "How many images are fused at a time.", lower_bound=1)
    flags.DEFINE_string(
        "devices",
        "1",
        "Devices of this machine that share the images, each with one batch at a time: a number, or all.",
    )
    flags.DEFINE_bool(spacing.ANY_SPACING, False, spacing.ANY_SPACING_HELP)
    for name in ("root", "run", "out"):
        flags.mark_flag_as_required(name)


def main(argv: list[str]) -> int:
    """Builds or completes the data set; returns the exit code."""
    from jaxfuse.brats_fuse.build import make_data_set
    from jaxfuse.brats_fuse.plan import Order
    from jaxfuse.engine.display import Display
    from jaxfuse.engine.run_folder.workdir import compilation_cache
    from jaxfuse.engine.trained.slice_fuser import load_fuser

    cli.no_arguments(argv)
    order = Order(**{field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(Order)})
    phase = load_fuser(order.run, any_spacing=flags.FLAGS.any_spacing)
    compilation_cache(phase.data.cache_dir)
    make_data_set(order, phase, read_combos, Display())
    return 0


def read_combos(text: str, modalities: Sequence[str]) -> tuple[Combo, ...]:
    """Reads "all", "pairs", or names such as "t1+t2,t1+t1ce+t2"."""
    from jaxfuse.brats_fuse.layout import combos_of
    from jaxfuse.learning.combinations import combinations

    asked = combinations(text if text in ("all", "pairs") else tuple(text.split(",")), modalities)
    return combos_of(([modalities[member] for member in members] for members in asked.members), modalities)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
