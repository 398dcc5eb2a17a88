"""Arrays in one file."""

import numpy as np

from jaxfuse.io.npz import write_npz


def test_arrays_come_back_in_their_types_and_equal_ones_give_equal_bytes(tmp_path):
    arrays = {"attention": np.arange(6, dtype=np.float16).reshape(2, 3), "modalities": np.array(["t1", "t1ce"])}
    first, second = tmp_path / "deep" / "a.npz", tmp_path / "b.npz"
    write_npz(first, **arrays)
    write_npz(second, **{name: np.asfortranarray(array) for name, array in arrays.items()})
    assert first.read_bytes() == second.read_bytes()
    with np.load(first) as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    assert [path.name for path in first.parent.iterdir()] == ["a.npz"]
