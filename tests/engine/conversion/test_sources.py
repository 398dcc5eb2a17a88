"""Files are told apart: their table, their network, and files that are none of them."""

from pathlib import Path

import numpy as np
import pytest

from jaxfuse.engine.conversion.arrays import own_arrays
from jaxfuse.engine.conversion.run import target_of
from jaxfuse.engine.conversion.sources import Source, arrays_of, parse_sources, read_as, sources_of
from jaxfuse.io.safetensors import write_safetensors
from tests.engine.conversion.public_files import hinet_config, public_file, tensors
from tests.refusals import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="module")
def own(folder):
    return own_arrays(target_of(hinet_config(folder)).shapes())


def test_files_are_named_with_their_tables():
    two = parse_sources("hinet/generator:a/b.pkl, weights.npz")
    assert two == (Source(Path("a/b.pkl"), "hinet", "generator"), Source(Path("weights.npz")))
    assert parse_sources("vit_r50:x.npz")[0].table == "vit_r50"
    # A colon may belong to the name of a file.
    assert parse_sources("run:2/weights.npz") == (Source(Path("run:2/weights.npz")),)
    assert str(two[0]) == "a/b.pkl (Hi-Net)"
    refused("hinet has no part 'G'; choose one of generator, discriminator", parse_sources, "hinet/G:a.pth")
    assert read_as("cyclegan", "G_A:latest.pth") == Source(Path("latest.pth"), "cyclegan", "G_A")
    assert read_as("cyclegan", "latest.pth") == Source(Path("latest.pth"), "cyclegan")
    refused("'gan' is no table", read_as, "gan", "a.pth")


def test_a_file_tells_which_network_it_is(folder, own):
    for case, player in (("hinet", "generator"), ("hinet_critic", "discriminator")):
        path = public_file(folder, case)
        arrays = arrays_of(Source(path, "hinet"), own, ("t1", "t2"))
        assert {name.split("/")[1] for name in arrays} == {player}
        assert arrays.keys() == {name for name in own if name.split("/")[1] == player}


def test_networks_of_the_same_names_have_to_be_told_apart(folder):
    shapes = own_arrays(target_of(hinet_config(folder, "tiny,row=cyclegan")).shapes())
    path = public_file(folder, "cyclegan")
    refused("may be G_A or G_B of CycleGAN.*as G_A:", arrays_of, Source(path, "cyclegan"), shapes, ("t1",))


def test_another_file_is_told(folder, own):
    sources = ("t1", "t2")
    path = public_file(folder, "cddfuse")
    refused("272|missing.*none of it", arrays_of, Source(path, "hinet"), own, sources)
    refused(
        "lie at net, and this recipe has discriminator, generator", arrays_of, Source(path, "hyperdense"), own, sources
    )
    one = folder / "one.safetensors"
    write_safetensors(one, {"params/generator/x": np.zeros(3)})
    refused(
        "has params/generator/x, which this network has not; where it is of a public", arrays_of, Source(one), own, ()
    )
    write_safetensors(one, {"params/generator/synthesis/image/conv/bias": np.zeros(3, np.float32)})
    refused(r"has the sides \(3,\), and this network's \(1,\)", arrays_of, Source(one), own, ())
    write_safetensors(one, {})
    refused("holds no arrays", arrays_of, Source(one), own, ())


def test_another_number_of_sources_is_told(folder, own):
    path = public_file(folder, "hinet")
    refused("makes an image of 2 others, and this recipe reads t1", arrays_of, Source(path, "hinet"), own, ("t1",))


def test_sources_are_those_of_the_first_pair():
    assert sources_of(("t2+flair", "t1")) == ("t2", "flair")
    assert sources_of(()) == ()
    assert len(tensors("hinet_critic")) == 25
