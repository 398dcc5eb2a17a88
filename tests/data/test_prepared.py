"""Arrays of prepared cases: mapped once in a process, read-only, and anew where the file is another."""

import numpy as np
import pytest

from jaxfuse.data.prepared import open_mapped


def test_a_file_is_mapped_once_and_again_when_it_was_replaced(tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.arange(6.0))
    first = open_mapped(path)
    assert open_mapped(path) is first
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    np.save(tmp_path / "other.npy", np.zeros(6))
    (tmp_path / "other.npy").replace(path)
    assert not open_mapped(path).any()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        open_mapped(path)
