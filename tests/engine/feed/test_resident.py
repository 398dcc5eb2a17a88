"""Cases on the device give the batches of the host, bit by bit, or a sentence says why they do not lie there."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxfuse.data.pipeline import Loader, Share, batches
from jaxfuse.data.shelf import BFLOAT16, FLOAT16, PRECISIONS, as_written
from jaxfuse.engine.devices.placement import Placement, one_device
from jaxfuse.engine.feed import resident as module
from jaxfuse.engine.feed.resident import put_cases, resident, room_for
from jaxfuse.engine.feed.windows import cut_all

STEPS = {"batch": 3, "seed": 4, "stop": 6}
HERE = one_device()
cut = jax.jit(cut_all)


def quietly(what: str, done: int, total: int, worked: int | None = None) -> None:
    del what, done, total, worked


@pytest.mark.parametrize(
    ("axes", "sampling", "options"),
    [
        (3, "tumor", {}),
        (3, "mixed", {"margin": 1, "flip": 0.0}),
        (3, "foreground", {"margin": 2}),
        (3, "brain", {"margin": 2, "whole_labels": True}),
        (3, "brain", {"unpaired": True, "labels": False}),
        (2, "tiles", {"halves": True}),
        (2, "whole", {"unpaired": True, "margin": 2}),
        (3, "brain", {"lacking": True}),
        (3, "brain", {"unlabeled": True, "margin": 1}),
    ],
)
def test_batches_equal_those_of_the_host_bit_by_bit(sampler, monkeypatch, axes, sampling, options):
    made = sampler(axes, sampling, **options)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 20_000)  # two cases at a time
    told = []
    held = put_cases(made, HERE, lambda *what: told.append(what))
    assert told[-1] == ("putting cases on the device", 3, 3)
    for start in (0, 3):
        host = list(batches(made, start=start, loader=Loader(), **STEPS))
        here = [cut(HERE.put(batch)) for batch in held.stream(start, **STEPS)]
        assert len(here) == len(host) == 6 - start
        for one, other in zip(here, host, strict=True):
            assert jax.tree.structure(one) == jax.tree.structure(dict(other))
            for leaf, wanted in zip(jax.tree.leaves(one), jax.tree.leaves(dict(other)), strict=True):
                assert (leaf.dtype, leaf.tobytes()) == (wanted.dtype, wanted.tobytes())
    (rows, *_), *_ = (jax.tree.leaves(cut(HERE.put(batch))) for batch in held.stream(0, share=Share(2, 3), **STEPS))
    assert rows.tobytes() == jax.tree.leaves(cut(HERE.put(next(held.stream(0, **STEPS)))))[0][2:].tobytes()
    first = next(held.stream(0, **STEPS))
    places = (first["a"] if made.unpaired else first).places
    mirrors = options.get("flip") != 0.0
    assert (places.mirrored is not None) == mirrors  # no program mirrors for nothing
    # What goes to the device for an example: its case, its first voxel, and whether each axis is mirrored.
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(places)) == 3 * (4 + 4 * axes + axes * mirrors)


@pytest.mark.parametrize("precision", [FLOAT16, BFLOAT16])
def test_cases_of_half_precision_take_half_the_memory_and_give_the_same_batches(sampler, tmp_path, precision):
    made = sampler(3, "brain")
    for case in made.cases:
        shutil.copytree(case.folder, tmp_path / case.id)
        np.save(tmp_path / case.id / "image.npy", as_written(case.image, precision))
    half = replace(made, cases=tuple(replace(case, folder=tmp_path / case.id) for case in made.cases))
    held = put_cases(half, HERE, quietly)
    assert held.images.dtype == PRECISIONS[precision]
    room = room_for(half)
    assert room.bytes_of(half) == held.images.nbytes + held.labels.nbytes
    assert room.bytes_of(made) - room.bytes_of(half) == held.images.nbytes
    host = next(iter(batches(half, start=0, loader=Loader(), **STEPS)))
    here = cut(HERE.put(next(held.stream(0, **STEPS))))
    for name in ("image", "label"):
        assert (here[name].dtype, here[name].tobytes()) == (host[name].dtype, host[name].tobytes())
    assert here["image"].dtype == np.float32


def test_cases_have_room_for_every_patch(sampler):
    room = room_for(sampler(3, "tumor", margin=1))
    # Windows are 6 x 4 x 6: as long as the shortest case or shorter.
    assert (room.border, room.sides) == ((1, 1, 1), (13, 14, 12))
    wide = room_for(sampler(3, "tumor"))
    assert (wide.border, wide.sides) == ((2, 0, 1), (13, 12, 11))
    assert wide.bytes_of(sampler(3, "tumor")) == 3 * 13 * 12 * 11 * (2 * 4 + 1)
    assert wide.bytes_of(sampler(3, "tumor", labels=False)) == 3 * 13 * 12 * 11 * 2 * 4


def test_cases_lie_where_it_is_asked_and_of_use(sampler, monkeypatch):
    """Cases that do not fit are in `tests/faults/test_machine.py`."""
    made, said = sampler(2, "tumor"), []
    assert (
        resident([made], "off", HERE, said.append, quietly)
        == resident([made], "auto", HERE, said.append, quietly)
        == []
    )
    assert said == []
    assert len(resident([made, made], "on", HERE, said.append, quietly)) == 2
    assert said.pop().startswith("The training cases lie on the device: 0.00 GB")
    monkeypatch.setattr(Placement, "backend", "gpu")
    assert len(resident([made], "auto", HERE, said.append, quietly)) == 1
