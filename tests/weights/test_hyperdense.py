"""HyperDense-Net: the order of a stream's own channels, and one set of statistics for all streams."""

import numpy as np

from jaxfuse.weights.hyperdense import NET, own_first_order
from jaxfuse.weights.lines import Ours
from jaxfuse.weights.matching import read_part
from tests.refusals import refused
from tests.weights import here, sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import state_dict


def test_own_channels_come_first_in_each_layer():
    # Layers of 1 and 2 features, three streams: canonically 1 2 3 | 11 22 33.
    assert own_first_order(3, (1, 2), 2, 2).tolist() == [1, 0, 2, 5, 6, 3, 4, 7, 8]
    assert own_first_order(3, (1, 2), 3, 1).tolist() == [2, 0, 1]
    assert own_first_order(2, (25, 33), 1, 2).tolist() == list(range(116))
    refused("counted from 1", own_first_order, 2, (1, 2), 0, 1)


def test_streams_with_statistics_of_their_own_share_the_first_ones():
    ours = here.ours(here.cases()["hyperdense_2"], sizes.IMAGES["hyperdense_2"])
    given = state_dict(stored("hyperdense_2")[0])
    read = read_part(NET, given, ours, "a file")
    # Layer 2 reads one tensor of each stream; the first stream's order is the canonical one.
    shared = read["blocks/layer_2/moments_shared/variance"]
    assert np.array_equal(shared, given["conv2_Top.0.running_var"])
    # The second stream reads its own two channels first, ours last.
    x = np.array([0.3, -1.0, 2.0, 0.7])
    mean, var, scale, shift = (
        given[f"conv2_Bottom.0.{name}"][[2, 3, 0, 1]] for name in ("running_mean", "running_var", "weight", "bias")
    )
    expected = scale * (x - mean) / np.sqrt(var + 1e-5) + shift
    scale, shift = (read[f"blocks/layer_2/stream_2/{name}"] for name in ("scale", "bias"))
    made = scale * (x - read["blocks/layer_2/moments_shared/mean"]) / np.sqrt(shared + 1e-5) + shift
    assert np.allclose(made, expected, rtol=1e-6)


def test_another_number_of_modalities_is_refused():
    kernels = {f"blocks/layer_1/stream_{stream}/conv/kernel": (3, 3, 3, 1, 2) for stream in (1, 2, 3, 4)}
    refused("has 2 or 3 modalities, and this recipe 4", NET.lines, Ours(kernels))
