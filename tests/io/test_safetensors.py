"""Files of named arrays: what comes back, the bytes of the format, and damaged files."""

import json

import ml_dtypes
import numpy as np
import pytest

from jaxfuse.errors import UserError
from jaxfuse.io.safetensors import read_safetensors, write_safetensors

TYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.bool_]
TYPES += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def _file(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


def _entry(shape=(2,), dtype="F32", begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_arrays_of_all_types_and_sides_come_back(tmp_path):
    arrays = {np.dtype(one).name: np.arange(6).reshape(2, 3).astype(one) for one in TYPES}
    arrays |= {"alone": np.float32(2.5) * np.ones(()), "none": np.zeros((0, 4), np.float32)}
    arrays |= {"other order": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.arange(3, dtype=">i4")}
    write_safetensors(tmp_path / "deep" / "a.safetensors", arrays, {"made": "by a test"})
    found = read_safetensors(tmp_path / "deep" / "a.safetensors")
    assert found.metadata == {"made": "by a test"}
    assert set(found.arrays) == set(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(found.arrays[name], array)


def test_bytes_are_those_of_the_format_and_do_not_depend_on_the_order_given(tmp_path):
    arrays = {"a": np.array([1, 2], np.uint8), "b": np.array([1.5], np.float32)}
    write_safetensors(tmp_path / "one", arrays)
    write_safetensors(tmp_path / "other", dict(reversed(arrays.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    content = (tmp_path / "one").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {"b": _entry([1], "F32", 0, 4), "a": _entry([2], "U8", 4, 6)}
    assert content[8 + length :] == np.array(1.5, "<f4").tobytes() + b"\x01\x02"


def test_arrays_off_their_own_width_are_read(tmp_path):
    header = {"a": _entry([1], "U8", 0, 1), "b": _entry([1], "F64", 1, 9)}
    found = read_safetensors(_file(tmp_path / "a", header, b"\x07" + np.array(2.25).tobytes()))
    assert found.arrays["b"].tolist() == [2.25]
    assert found.arrays["a"].tolist() == [7]


@pytest.mark.parametrize(
    ("header", "content", "sentence"),
    [
        (b"[1]", b"", "do not begin with a header"),
        (b"{nothing", b"", "its header is no JSON"),
        (b'{"a":{},"a":{}}', b"", "its header names 'a' twice"),
        ({"__metadata__": {"a": 1}}, b"", "its __metadata__ is not text by text"),
        ({"a": {"dtype": "F32"}}, b"", "the header's entry of 'a' lacks dtype, shape or data_offsets"),
        ({"a": [1]}, b"", "the header's entry of 'a' lacks"),
        ({"a": _entry([-2])}, b"12345678", "the sides or offsets of 'a' are no whole numbers"),
        ({"a": _entry([3])}, b"12345678", "'a' has 8 bytes, and its sides .3. of F32 take another number"),
        ({"a": _entry(), "b": _entry()}, b"12345678", "'b' begins at byte 0, and the one before it ends at 8"),
        ({"a": _entry(begin=4, end=12)}, b"123456789012", "'a' begins at byte 4, and the one before it ends at 0"),
        ({"a": _entry()}, b"1234567", "its header tells of 8 bytes of arrays, and it holds 7"),
        ({"a": _entry()}, b"123456789", "its header tells of 8 bytes of arrays, and it holds 9"),
        ({"a": _entry(dtype=["F32"])}, b"12345678", "in the type .*, which is not read here"),
        ({"a": _entry([1] * 100, end=4)}, b"1234", "'a' has 100 sides"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "its header is no JSON"),
        ({"a": _entry(dtype="F8_E4M3")}, b"12345678", "in the type 'F8_E4M3', which is not read here; store it as"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(header, content, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence) as told:
        read_safetensors(_file(tmp_path / "a.safetensors", header, content))
    assert str(tmp_path / "a.safetensors") in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"short", (2**60).to_bytes(8, "little") + b"{}"])
def test_files_without_a_whole_header_are_refused(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(
        UserError, match=f"its {len(content)} bytes do not begin with a header; fetch or write it again"
    ):
        read_safetensors(tmp_path / "a")


def test_a_file_that_is_not_there_and_a_type_that_cannot_be_held_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read .No such file or directory.; name a file of safetensors"):
        read_safetensors(tmp_path / "none")
    with pytest.raises(UserError, match="'a' is an array of complex64, which safetensors cannot hold"):
        write_safetensors(tmp_path / "a", {"a": np.zeros(1, np.complex64)})
    assert not (tmp_path / "a").exists()
