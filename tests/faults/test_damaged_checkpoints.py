"""A checkpoint that is damaged, and not that of another model: it is named, and the one before it used."""

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from jaxfuse.errors import UserError
from tests.engine.toy_loop import Bench, fresh
from tests.faults.catalogue import given, table
from tests.refusals import refused


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def overwritten(path: Path, byte: int = -8) -> None:
    """Puts numbers that are not finite where eight bytes of arrays were."""
    content = bytearray(path.read_bytes())
    content[byte : byte + 8 or None] = np.full(2, np.nan, np.float32).tobytes()
    path.write_bytes(content)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def another_number(path: Path) -> None:
    path.write_text(json.dumps({"best_score": 9.0, "best_step": 6}))


NEXT = "named; training goes on from the one before it, `predict` says how to use another"
SPOILED = (
    ("newest checkpoint cut short by 4 bytes", NEXT, "weights", truncated),
    ("its optimizer's file cut short", NEXT, "rest", truncated),
    ("its weights all zero bytes, as after a power cut", NEXT, "weights", zeroed),
    ("all zero bytes in its list of digests", NEXT, "digests.json", zeroed),
    ("an empty list of digests", NEXT, "digests.json", emptied),
    ("8 bytes overwritten by NaN", NEXT, "weights", overwritten),
    ("8 bytes overwritten in the optimizer's state", NEXT, "rest", overwritten),
    ("one bit flipped", NEXT, "weights", flipped),
    ("an empty manifest", NEXT, "weights/manifest.ocdbt", emptied),
    ("another best score written into it by hand", NEXT, "progress.json", another_number),
    ("a file of it deleted", NEXT, "rest", Path.unlink),
    ("its list of digests deleted", NEXT, "digests.json", Path.unlink),
)


def part(checkpoint: Path, name: str) -> Path:
    """The file of this name, or the largest one below a folder of this name: that of the arrays."""
    named = checkpoint / name
    files = [path for path in named.rglob("*") if path.is_file()]
    return max(files, key=lambda path: (path.stat().st_size, path)) if files else named


@pytest.fixture
def folder(tmp_path) -> Path:
    """Checkpoints of a training of 6 steps, saved at 2, 4 and 6, of which two are kept."""
    Bench(tmp_path, 6, checkpoint_every=2, validate_every=2, scores={2: 0.1, 4: 0.3, 6: 0.2}).run()
    return tmp_path / "checkpoints"


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@table("name,spoil", *SPOILED)
def test_it_is_named_and_the_one_before_is_used(folder, name, spoil, capfd):
    spoil(part(folder / "last" / "6", name))
    with closing(Checkpoints(folder)) as checkpoints:
        assert checkpoints.latest_step() == 4
        state, progress = checkpoints.restore(fresh())
        assert state.params["net"]["w"].tolist() == [4, 4, 4]
        assert progress == {"best_score": 0.3, "best_step": 4, "since": 0}
        (complaint,) = checkpoints.complaints
    assert f"the checkpoint of step 6 in {folder / 'last' / '6'} is damaged ({name}" in complaint.replace(
        "the bytes of ", ""
    )
    # The run goes on, and writes a sound one in its place.
    later = Bench(folder.parent, 6, checkpoint_every=2)
    assert later.run().params["net"]["w"].tolist() == [6, 6, 6]
    with closing(Checkpoints(folder)) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.complaints) == (6, [])
        assert read_weights(folder, fresh(), one_device(), best=False).params["net"]["w"].tolist() == [6, 6, 6]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "spoil"), [row[2:] for row in SPOILED if row[2] in ("weights", "digests.json")])
def test_weights_for_prediction_are_refused_with_a_way_out(folder, name, spoil):
    spoil(part(folder / "last" / "6", name))
    told = message(lambda: read_weights(folder, fresh(), one_device(), best=False))
    assert told.startswith(f"the checkpoint {folder / 'last' / '6'} is damaged (")
    assert "name RUN:PHASE@best, or remove that folder to use the checkpoint of step 4, or call train again" in told
    shutil.rmtree(folder / "last" / "6")
    assert read_weights(folder, fresh(), one_device(), best=False).params["net"]["w"].tolist() == [4, 4, 4]


@given("both kept checkpoints damaged", "refused, both named; the training is not begun anew in silence")
def test_none_is_left(folder):
    for step, spoil in (("4", zeroed), ("6", truncated)):
        spoil(part(folder / "last" / step, "weights"))
    with closing(Checkpoints(folder)) as checkpoints:
        told = message(checkpoints.refuse_if_none_is_sound)
    for piece in ("checkpoint of step 6", "checkpoint of step 4", "name another --workdir to start anew"):
        assert piece in told


@given("best weights damaged, and `@best` asked for", "refused; `@last` is offered")
def test_damaged_best(folder):
    overwritten(part(folder / "best" / "4", "weights"))
    told = message(lambda: read_weights(folder, fresh(), one_device(), best=True))
    assert "are not those that were written); name RUN:PHASE@last" in told


@given("best weights damaged, and the training goes on", "said; the next validation chooses new ones, even worse ones")
def test_damaged_best_is_chosen_anew(folder):
    overwritten(part(folder / "best" / "4", "weights"))
    bench = Bench(folder.parent, 8, validate_every=2, scores={8: 0.1})
    bench.run()
    assert ["best weights, of step 4," in told for told in bench.checkpoints.complaints] == [True]
    assert int(read_weights(folder, fresh(), one_device(), best=True).step) == 8


@given("a checkpoint of another model, undamaged", "refused as that: the array that differs is named with both shapes")
def test_of_another_model_is_called_so(folder):
    other = fresh().replace(params={"net": {"w": np.zeros(4, np.float32)}})
    told = "does not fit this (model|run's model) .params/net/w is float32 .3,. there and float32 .4,. here."
    with closing(Checkpoints(folder)) as checkpoints:
        refused(told, checkpoints.restore, other)
    refused(told, read_weights, folder, other, one_device(), best=False)
