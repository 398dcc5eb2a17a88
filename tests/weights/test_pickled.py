"""Files of PyTorch: their tensors are read, and nothing that they ask for is run."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.weights import pickled
from jaxfuse.weights.pickled import ALLOWED, read_pickled
from tests.refusals import refused
from tests.weights.make_outputs import STORED

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)


@pytest.mark.parametrize("name", ["archive.pth", "in_a_row.pkl"])
def test_tensors_are_those_that_pytorch_wrote(name):
    found = read_pickled(STORED / name)
    expected = {"whole": WHOLE, "turned": WHOLE.T, "corner": WHOLE[1:3, 2:4], "number": np.array(7)}
    expected |= {"empty": np.zeros((0, 3), np.float32), "learned": np.array([1.5, -2.0], np.float32)}
    expected |= {kind: np.array([0, 1, 1]) for kind in ("float16", "bfloat16", "float64", "int32", "uint8", "bool")}
    own = {f"state_dict.module.{key}": value for key, value in expected.items()}
    assert found.keys() == {*own, "optimizer.state.0.exp_avg"}
    for key, value in own.items():
        assert found[key].shape == value.shape
        assert np.array_equal(found[key].astype(np.float64), value)
    assert {key: str(found[f"state_dict.module.{key}"].dtype) for key in ("bfloat16", "bool", "int32", "whole")} == {
        "bfloat16": "bfloat16",
        "bool": "bool",
        "int32": "int32",
        "whole": "float32",
    }


def archive(path: Path, content: bytes, **storages: bytes) -> Path:
    """Writes an archive as PyTorch does."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/data.pkl", content)
        for key, storage in storages.items():
            file.writestr(f"weights/data/{key}".replace("data/../", ""), storage)
    return path


@pytest.mark.parametrize("name", ["OrderedDict.fromkeys", "OrderedDict.__init__.__globals__"])
def test_a_name_within_an_allowed_one_is_refused(tmp_path, name):
    content = pickle.PROTO + b"\x04" + b"\x8c\x0bcollections" + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    refused(f"collections.{name}", read_pickled, archive(tmp_path / "a.pth", content))


class Pickler(pickle.Pickler):
    """A writer of tensors as PyTorch names them, without PyTorch."""

    def reducer_override(self, thing):
        return thing.reduced if isinstance(thing, Tensor) else NotImplemented

    def persistent_id(self, thing):
        return thing.named if isinstance(thing, Storage) else None


class Storage:
    def __init__(self, *named):
        self.named = named


class Named:
    """Something that is pickled by its name alone."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class Tensor:
    def __init__(self, *given):
        self.reduced = (_rebuild_tensor_v2, given)


def _rebuild_tensor_v2():
    """Stands for PyTorch's function of this name."""


def tensor_file(path: Path, start, shape, steps, values=6, **further) -> Path:
    """Writes one tensor "a" over a storage of so many values, with further files in the archive."""
    body = io.BytesIO()
    Pickler(body, 2).dump({"a": Tensor(Storage("storage", Named, "0", "cpu", values), start, shape, steps, False, {})})
    content = body.getvalue().replace(
        f"c{__name__}\n_rebuild_tensor_v2\n".encode(), b"ctorch._utils\n_rebuild_tensor_v2\n"
    )
    content = content.replace(f"c{__name__}\nNamed\n".encode(), b"ctorch\nFloatStorage\n")
    return archive(path, content, **{"0": np.arange(values, dtype="<f4").tobytes(), **further})


def test_a_view_lies_within_its_storage(tmp_path):
    assert read_pickled(tensor_file(tmp_path / "a.pth", 1, (2, 2), (2, 1)))["a"].tolist() == [[1, 2], [3, 4]]
    for start, shape, steps in (
        (0, (7,), (1,)),
        (3, (2, 2), (2, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
    ):
        path = tensor_file(tmp_path / "b.pth", start, shape, steps)
        refused("asks for a tensor", read_pickled, path)


def text(word: str) -> bytes:
    """An operation that puts a text on the stack."""
    return pickle.BINUNICODE + len(word).to_bytes(4, "little") + word.encode()


def test_what_stands_for_a_name_cannot_be_changed(tmp_path):
    storage = pickle.GLOBAL + b"torch\nFloatStorage\n"
    state = pickle.EMPTY_DICT + text("dtype") + text("int32") + pickle.SETITEM
    before = ALLOWED["torch", "FloatStorage"]
    for given in (state, pickle.NONE + state + pickle.TUPLE2):
        content = pickle.PROTO + b"\x02" + storage + given + pickle.BUILD + pickle.STOP
        refused("is no whole file", read_pickled, archive(tmp_path / "a.pth", content))
    assert before.dtype == np.float32


def test_a_small_file_asks_for_little_memory(tmp_path, monkeypatch):
    wide = tensor_file(tmp_path / "wide.pth", 0, (10**6, 10**6), (0, 0))
    refused("more than 16 times the values of its storages", read_pickled, wide)
    notes = pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + (2**30).to_bytes(4, "little") + pickle.STOP
    refused("note 1073741824 of fewer", read_pickled, archive(tmp_path / "notes.pth", notes))
    (tmp_path / "notes.pkl").write_bytes(notes)
    refused("note 1073741824 of fewer", read_pickled, tmp_path / "notes.pkl")
    monkeypatch.setattr(pickled, "_ENTRIES", 1000)
    doubled: dict = {}
    for _ in range(40):
        doubled = {"a": doubled, "b": doubled}
    refused("more than 1,000 entries", read_pickled, archive(tmp_path / "d.pth", pickle.dumps(doubled, 2)))
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("weights/data.pkl", pickle.dumps({}, 2))
    refused("data.pkl is compressed", read_pickled, tmp_path / "packed.pth")


@pytest.mark.parametrize("name", ["archive.pth", "in_a_row.pkl"])
def test_a_file_that_was_cut_is_told(tmp_path, name):
    whole = (STORED / name).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        path = tmp_path / name
        path.write_bytes(whole[:length])
        refused("is no whole file that torch.save has written", read_pickled, path)


def test_other_files_are_told(tmp_path):
    refused("cannot be read .*No such file", read_pickled, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("weights")
    refused("no whole file", read_pickled, tmp_path / "b.pth")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as file:
        file.writestr("readme.txt", "")
    refused("without a data.pkl", read_pickled, tmp_path / "c.pth")


def test_an_archive_of_a_machine_with_the_other_order_is_read(tmp_path):
    turned = {"0": np.arange(6, dtype=">f4").tobytes(), "../byteorder": b"big"}
    assert read_pickled(tensor_file(tmp_path / "a.pth", 0, (6,), (1,), **turned))["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_allowed_is_short():
    assert len(ALLOWED) == 16
    assert {module for module, _ in ALLOWED} == {"collections", "torch", "torch._utils"}
