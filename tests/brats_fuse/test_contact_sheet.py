"""The contact sheet of a slice."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxfuse.brats_fuse import contact_sheet as module
from jaxfuse.brats_fuse.contact_sheet import contact_sheet
from jaxfuse.labels import label_scheme

MODALITIES = ("t1", "t1ce", "t2", "flair")
CLASSES = label_scheme("brats").classes


def pictures():
    levels = np.pad(np.ones((10, 14), np.uint8), [(5, 5), (6, 4)])
    sources = {name: levels * np.uint8(60 * number) for number, name in enumerate(MODALITIES, start=1)}
    combos = [combo for size in (2, 3, 4) for combo in itertools.combinations(MODALITIES, size)]
    return sources, {combo: np.full((20, 24), 10 * i, np.uint8) for i, combo in enumerate(combos)}


@pytest.mark.parametrize("labeled", [True, False])
def test_every_picture_has_its_place_and_one_gray_scale(tmp_path, monkeypatch, labeled):
    drawn, finish = list[Figure](), module.finish
    monkeypatch.setattr(module, "finish", lambda figure, *rest: (drawn.append(figure), finish(figure, *rest)))
    sources, fused = pictures()
    mask = np.where(sources["t1"] > 0, 3, 0).astype(np.uint8) if labeled else None
    path = tmp_path / "sheet.png"
    contact_sheet(path, sources=sources, mask=mask, fused=fused, classes=CLASSES, title="A", note="note")
    assert path.stat().st_size > 1000
    axes = np.array(drawn[0].axes).reshape(3, 6)
    titles = [[ax.get_title() for ax in line if ax.images] for line in axes]
    combos = ["+".join(combo) for combo in fused]
    assert titles == [[*MODALITIES, *(["mask"] if labeled else [])], combos[:6], combos[6:]]
    for ax in (ax for ax in axes.flat if ax.images):
        assert ax.images[0].get_clim() == (0, 255)
        assert ax.images[0].get_array().shape == (14, 18)  # the brain and two pixels around it
    shown = {ax.get_title(): ax.images[0].get_array() for ax in axes.flat if ax.images}
    for combo, levels in fused.items():
        assert (shown["+".join(combo)] == levels[0, 0]).all()
