"""Arrays of a state that are split among devices, and the memory that this spares."""

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jaxfuse.engine.devices.split_state import LEAST, split_over
from jaxfuse.learning.state import State
from tests.engine.devices.runs import several
from tests.tiny_systems import shape


def _state(**params):
    net = {name: shape(*sides) for name, sides in params.items()}
    opt_state = {"net": {"mu": net, "count": shape()}}
    memory = {"pool": shape(8, 64, 64)}
    return State(step=shape(), rng=shape(), params={"net": net}, stats={"net": net}, opt_state=opt_state, memory=memory)


@pytest.mark.parametrize(("mesh", "names"), [((4, 2), ("data", "space")), ((8, 1), "data"), ((1, 8), "space")])
def test_large_arrays_are_split_along_their_longest_axis_that_divides(mesh, names):
    state = _state(kernel=(3, 3, 64, 128), square=(64, 64), odd=(3, 3, 64, 1001), prime=(61, 67), bias=(LEAST // 2,))
    found = split_over(AbstractMesh(mesh, ("data", "space")), state)
    specs = jax.tree.map(lambda one: one.spec, found)
    whole = PartitionSpec()
    assert specs.params["net"] == {
        "kernel": PartitionSpec(None, None, None, names),
        "square": PartitionSpec(names),
        "odd": PartitionSpec(None, None, names),
        "prime": whole,
        "bias": whole,
    }
    assert specs.opt_state["net"] == {"mu": specs.params["net"], "count": whole}
    rest = (specs.stats, specs.memory, specs.step, specs.rng)
    assert set(jax.tree.leaves(rest, is_leaf=lambda one: isinstance(one, PartitionSpec))) == {whole}


@pytest.mark.slow
def test_a_step_of_fuse4seg_equals_the_plain_one_and_takes_an_eighth_of_its_state():
    found = several("fuse4seg", "tiny", "cooperative", 8, 1, True, 8, 32, 32)
    assert found["apart"] < 1e-10
    assert found["several"]["programs"] == 1, "a state that a step made is one that it takes"


@pytest.mark.slow
def test_of_the_state_of_fuse4seg_at_the_width_of_its_paper_a_device_holds_an_eighth():
    found = several("fuse4seg", "paper", "cooperative", 8, 1, True, 8, 32, 32, run=False)
    many, one = found["several"], found["one"]
    # 125 million parameters and as many numbers of momentum in float32.
    assert one["arguments"] > 9e8
    assert many["arguments"] < one["arguments"] / 7.5
