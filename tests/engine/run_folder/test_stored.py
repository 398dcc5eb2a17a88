"""Files of checkpoints: arrays come back bit by bit, and what is not what was written is told."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.run_folder.stored import (
    Damaged,
    decode_arrays,
    encode_arrays,
    fault_of,
    read_stored,
    remove_partial,
    write_stored,
)

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.int8),
    "scalar": np.array(7, np.int32),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "half": np.array([1.5, -2.0], jnp.bfloat16),
    "flags": np.array([True, False]),
}


def test_arrays_come_back_with_their_types_and_shapes():
    arrays, notes = decode_arrays(b"".join(encode_arrays(ARRAYS, {"of": "a test"})))
    assert notes == {"of": "a test"}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_the_form_is_that_of_safetensors():
    content = b"".join(encode_arrays({"w": np.float32([1, 2])}, {}))
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = {"__metadata__": {}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert json.loads(content[8 : 8 + length]) == header
    assert content[8 + length :] == np.float32([1, 2]).tobytes()


def test_a_checkpoint_is_there_as_a_whole_or_as_it_was(tmp_path):
    folder = tmp_path / "last" / "3"
    write_stored(folder, {"a": [b"one", b"two"], "b": [b""]})
    assert read_stored(folder, "a") == b"onetwo"
    assert fault_of(folder, ("a", "b")) == ""

    def breaks():
        yield b"x"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_stored(folder, {"a": breaks()})
    assert [path.name for path in folder.parent.iterdir()] == ["3"]
    assert read_stored(folder, "a") == b"onetwo"
    write_stored(folder, {"a": [b"three"]})
    assert read_stored(folder, "a") == b"three"
    with pytest.raises(Damaged, match=r"digests.json cannot be read|b cannot be read"):
        read_stored(folder, "b")
    assert fault_of(tmp_path / "none", ("a",)) == "digests.json cannot be read: No such file or directory"


def test_what_a_killed_process_began_is_removed(tmp_path):
    (tmp_path / ".partial-4-1-aa" / "a").mkdir(parents=True)
    (tmp_path / "4").mkdir()
    remove_partial(tmp_path)
    remove_partial(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
