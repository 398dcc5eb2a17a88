"""A figure of synthesized images: their sources, the truth, and where they err."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from jaxfuse.report.canvas import BAR_INCH, color_bar, finish, panel_grid
from jaxfuse.report.planes import AXIAL, VIEWS, Plane, bounding_box, center_of, extents_mm, form_of

Image = Float[np.ndarray, "*space"]
# The quantile of the errors inside the brain at the end of the scale; larger ones are drawn alike.
_TOP = 0.99


def synthesis_panel(
    path: Path,
    *,
    sources: Mapping[str, Image],
    made: Mapping[str, Image],
    truth: Image,
    target: str,
    title: str,
    spacing_mm: tuple[float, ...] | None = None,
    label: Integer[np.ndarray, "*space"] | None = None,
) -> None:
    """Sources, what each method made of them, and the truth; three planes of a volume, or the one of a picture.

    Below each image stands its absolute difference from the truth, all in one scale. Below each source: the error
    made if the source itself were taken for the target. The target has one gray scale, whoever made it.

    Args:
        sources: modality -> image, in [0, 1] like all others.
        made: method -> image of the target.
        target: name of the synthesized modality.
        spacing_mm: voxel sides by axis; 1 mm where not given.
        label: class indices; planes pass through most of its foreground, without one through most of the brain.
    """
    lift, views, sides = form_of(truth.ndim, spacing_mm)
    images = {name: lift(image) for name, image in {**sources, **made}.items()}
    truth, label = lift(truth), None if label is None else lift(label)
    brain = np.any([image != 0 for image in (*(images[name] for name in sources), truth)], axis=0)
    errors = {name: np.abs(image - truth) for name, image in images.items()}
    norm = _scale(errors, brain)
    box, center = bounding_box(brain), center_of([label], brain)
    extents = extents_mm(box, sides, [view for view in views for _ in range(2)])
    figure, axes = panel_grid(extents, len(images) + 1, right_inch=BAR_INCH)
    for ax, header in zip(axes[0], [*images, f"real {target}"], strict=True):
        ax.set_title(header, fontsize=9, color="white", pad=3)
    for view, above, below in zip(views, axes[::2], axes[1::2], strict=True):
        show = Plane(view, center[view.axis], box, sides)
        for ax, error_ax, (name, image) in zip(above, below, images.items(), strict=False):
            show.gray(ax, image, brain, like=image if name in sources else truth)
            show.error(error_ax, errors[name], brain, norm)
            if view is AXIAL and brain.any():
                mean = errors[name][brain].mean(dtype=np.float64)
                error_ax.set_title(f"error, mean {mean:.3f}", fontsize=8, color="white", pad=2)
        show.gray(above[-1], truth, brain)
        show.letters(above[0])
    color_bar(figure, axes, ScalarMappable(norm, "inferno"), f"absolute error against {target}, images in [0, 1]")
    # Short, since there may be three columns only.
    where = f"planes at voxel {center[0]}, {center[1]}, {center[2]}; " if views == VIEWS else ""
    finish(figure, path, title, [], f"error: mean over the whole brain; {where}R = patient's right")


def _scale(errors: Mapping[str, np.ndarray], brain: np.ndarray) -> Normalize:
    """A scale from 0 to the bound of 99 % of the errors inside the brain, in the worst of the images."""
    tops = [float(np.quantile(error[brain], _TOP)) for error in errors.values()] if brain.any() else [1.0]
    return Normalize(0.0, max(*tops, 1e-12))
