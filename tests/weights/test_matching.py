"""Public tensors meet our arrays by name and sides, whatever dictionaries they lie in; other files are told."""

from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.weights.lines import LINEAR, RESHAPED, Form, Line, Ours, Part, batch_norm, conv, counters
from jaxfuse.weights.matching import bare, listed, matched, read_part, write_part
from tests.refusals import refused

OURS = Ours({"a/kernel": (3, 3, 2, 4), "a/bias": (4,), "both/kernel": (1, 1, 2, 6), "n/scale": (4,), "n/bias": (4,)})
OURS = replace(OURS, shapes={**OURS.shapes, "n/mean": (4,), "n/var": (4,)})


def _lines(ours):
    shares = [Line(f"part_{number}.weight", "both/kernel", LINEAR, share=(number, 3)) for number in range(3)]
    return [*conv("first", "a"), *batch_norm("norm", "n"), *shares]


PART = Part("net", "net", _lines, ignored=("unused.*",))


def given(**further):
    """A whole public state dict."""
    random = np.random.default_rng(0)
    shapes = {"first.weight": (4, 2, 3, 3), "first.bias": (4,), "part_0.weight": (2, 2), "part_1.weight": (2, 2)}
    shapes |= {"part_2.weight": (2, 2), **{f"norm.{word}": (4,) for word in ("weight", "bias")}}
    shapes |= {"norm.running_mean": (4,), "norm.running_var": (4,), **further}
    return {name: random.normal(size=shape) for name, shape in shapes.items()}


def test_each_array_is_what_its_line_says():
    public = given()
    read = read_part(PART, public, OURS, "a file")
    assert {path: array.shape for path, array in read.items()} == dict(OURS.shapes)
    assert all(array.dtype == np.float32 for array in read.values())
    assert np.allclose(read["a/kernel"][2, 1, 0, 3], public["first.weight"][3, 0, 2, 1])
    assert np.allclose(read["both/kernel"][0, 0, :, 2:4], public["part_1.weight"].T)
    assert np.allclose(read["n/var"], public["norm.running_var"])


@pytest.mark.parametrize("start", ["", "module.", "state_dict.", "model.module.", "net."])
def test_names_are_found_within_dictionaries(start):
    public = {f"{start}{name}": array for name, array in given().items()}
    others = {"epoch": np.zeros(()), "optimizer.state.0.exp_avg": np.zeros(3)} if start not in ("", "module.") else {}
    assert read_part(PART, {**public, **others}, OURS, "a file").keys() == OURS.shapes.keys()
    assert matched(PART, {**public, **others}, OURS) == 9
    assert bare(public, {"first.weight"}).keys() == given().keys()


def test_what_nothing_depends_on_may_be_there():
    further = {"unused.0.weight": (2,), "norm.num_batches_tracked": ()}
    assert read_part(PART, given(**further), OURS, "a file").keys() == OURS.shapes.keys()


def test_a_wrong_file_is_told_by_the_names_it_lacks():
    public = {name: array for name, array in given(head=(3,), tail=(3,)).items() if "norm" not in name}
    del public["first.bias"]
    refused(
        "x.pth is not read as net: 5 of its 9 tensors are missing, first.bias, norm.bias, norm.running_mean and 2 more"
        "; 2 of the file's are none of it, head, tail; name the file that holds it",
        read_part,
        PART,
        public,
        OURS,
        "x.pth",
    )
    refused("9 of its 9 tensors are missing", read_part, PART, {"a": np.zeros(1)}, OURS, "x.pth")


@pytest.mark.parametrize(("name", "shape"), [("first.bias", (5,)), ("first.weight", (4, 3, 3, 3)), ("first.bias", ())])
def test_other_sides_are_told(name, shape):
    public = given(**{name: shape})
    refused(f"x.pth: {name} has the sides .*, which do not make a/.* choose", read_part, PART, public, OURS, "x.pth")


def test_another_network_of_ours_is_told():
    more = replace(OURS, shapes={**OURS.shapes, "b/kernel": (3,)})
    refused("network has b/kernel, for which the public code has no name", read_part, PART, given(), more, "a file")
    assert "b/kernel" not in read_part(replace(PART, partial=True), given(), more, "a file")
    less = replace(OURS, shapes={path: shape for path, shape in OURS.shapes.items() if path != "a/bias"})
    refused("network has no a/bias, which the public code has", read_part, PART, given(), less, "a file")


def test_written_names_are_those_that_were_read():
    read = read_part(PART, given(), OURS, "a file")
    written = write_part(PART, read)
    assert written.keys() == {*given(), "norm.num_batches_tracked"}
    assert all(np.array_equal(written[name], np.float32(array)) for name, array in given().items())
    assert written["norm.num_batches_tracked"].dtype == np.int64
    assert counters(conv("first", "a")) == {}


def test_values_in_order_take_our_sides():
    assert RESHAPED.read(np.arange(6).reshape(1, 2, 3), (2, 3)).shape == (2, 3)
    with pytest.raises(ValueError, match="cannot reshape"):
        RESHAPED.read(np.arange(6), (4,))


def test_three_names_are_listed():
    assert listed(list("abcde")) == "a, b, c and 2 more"
    assert listed(["a"]) == "a"


def test_what_is_read_as_a_start_is_not_written():
    summed = Line("stem.weight", "a/kernel", Form(lambda theirs, shape: theirs))
    refused("stem.weight is read as a start and cannot be made of a/kernel", summed.write, np.zeros((3, 3, 2, 4)))
