"""Files of weights are told apart by their ends, and damaged ones are refused."""

import numpy as np

from jaxfuse.io.safetensors import write_safetensors
from jaxfuse.weights.files import read_weights_file
from tests.refusals import refused
from tests.weights.make_outputs import STORED


def test_each_kind_is_read(tmp_path):
    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(3, np.int64)}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    for name in ("a.safetensors", "a.npz"):
        found = read_weights_file(tmp_path / name)
        assert {key: array.tolist() for key, array in found.items()} == {k: a.tolist() for k, a in arrays.items()}
    assert "state_dict.module.whole" in read_weights_file(STORED / "archive.pth")


def test_other_files_are_refused(tmp_path):
    refused("ends in '.h5'; weights are read of .safetensors, .npz", read_weights_file, tmp_path / "a.h5")
    refused("a.npz cannot be read", read_weights_file, tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    refused("a.npz is no whole file of arrays", read_weights_file, tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.array([{}], object))
    refused("b.npz is no whole file of arrays .*pickle", read_weights_file, tmp_path / "b.npz")
    with (tmp_path / "c.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    refused("c.npz is no whole file of arrays", read_weights_file, tmp_path / "c.npz")
    for array in (np.array(["words"]), np.zeros(2, np.complex64)):
        np.savez(tmp_path / "d.npz", a=array)
        refused("d.npz holds a, an array of .* weights are numbers", read_weights_file, tmp_path / "d.npz")
