"""A training that starts from files: what they hold is taken, the rest stays as it is drawn, and both are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import hinet
from jaxfuse.engine.conversion.arrays import own_arrays
from jaxfuse.engine.conversion.run import target_of
from jaxfuse.engine.conversion.started import start_arrays, started
from jaxfuse.engine.run import train
from jaxfuse.engine.trained.phases import load
from tests.engine.conversion.public_files import fuse4seg_config, hinet_config, public_file, tensors
from tests.refusals import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("started")


@pytest.fixture(scope="module")
def shapes(folder):
    return target_of(fuse4seg_config(folder)).shapes()


def test_what_no_file_has_stays_as_it_is_drawn(folder):
    shapes = target_of(hinet_config(folder)).shapes()
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), (shapes.params, shapes.stats))
    begun = shapes.replace(params=ones[0], stats=ones[1])
    state, told = started(begun, f"hinet:{public_file(folder, 'hinet')}", ("t1", "t2"))
    assert "values start from" in told
    assert "hinet.safetensors (Hi-Net); 22 of 262 arrays stay as they are drawn, params/discriminator/down_1/" in told
    own, public = own_arrays(state), tensors("hinet")
    assert all(np.all(leaf == 1) for name, leaf in own.items() if "/discriminator/" in name)
    variance = own["stats/generator/synthesis/layer_1/norm/var"]
    assert np.array_equal(variance, public["down_fu_4.1.running_var"])
    refused(
        "is not read as generator",
        start_arrays,
        shapes,
        f"hinet/generator:{public_file(folder, 'cddfuse')}",
        ("t1", "t2"),
    )


@pytest.mark.slow
def test_segmentation_starts_from_transunet_and_fusion_from_cddfuse(folder, shapes):
    files = {table: public_file(folder, table) for table in ("transunet", "cddfuse")}
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes.params)
    state, told = started(shapes.replace(params=zeros), f"transunet:{files['transunet']}", ("t1ce", "flair"))
    assert "stay as they are drawn, params/" in told
    own, public = own_arrays(state), tensors("transunet")
    left = {name for name, leaf in own.items() if not np.any(leaf)}
    segmentation = {name.removeprefix("params/segmentation/") for name in left if "/segmentation/" in name}
    assert all("adapter" in name or name.startswith("head/") for name in segmentation)
    assert "head/kernel" in segmentation
    mlp = own["params/segmentation/transformer/block_2/mlp/expand/kernel"][0, 0]
    assert np.array_equal(mlp, public["transformer.encoder.layer.1.ffn.fc1.weight"].T)
    # Gray images there are given three times over.
    stem = public["transformer.embeddings.hybrid_model.root.conv.weight"].sum(1)
    assert np.allclose(own["params/segmentation/encoder/stem/kernel"][:, :, 0], stem.transpose(1, 2, 0), atol=1e-6)


@pytest.mark.slow
def test_files_of_two_networks_do_not_overlap(folder, shapes):
    path = public_file(folder, "transunet")
    text = f"transunet:{path},transunet:{path}"
    refused("start names two files that have params/segmentation", start_arrays, shapes, text, ())


@pytest.mark.slow
def test_a_wrong_file_is_told_before_the_first_step(folder):
    config = hinet.get_config("tiny")
    config.data.cache, config.synthesis.start = str(folder / "cache"), f"hinet:{public_file(folder, 'cddfuse')}"
    refused("is not read as generator: .* missing, deconv", train, config, folder / "wrong")
    assert not (folder / "wrong" / "checkpoints").exists()


@pytest.mark.slow
def test_a_training_starts_from_a_file(folder):
    config = hinet.get_config("tiny")
    config.data.cache, config.synthesis.start = str(folder / "cache"), f"hinet:{public_file(folder, 'hinet')}"
    config.synthesis.steps = 1
    for player in ("generator", "discriminator"):
        config.synthesis.optimizers[player].learning_rate = 1e-12
    train(config, folder / "run")
    (phase,) = load([str(folder / "run")])
    own, public = own_arrays(phase.weights()), tensors("hinet")
    kernel = own["params/generator/encoder_t2/stage_3/layer_2/conv/kernel"]
    assert np.allclose(kernel, public["down_3_1.3.weight"].transpose(2, 3, 1, 0), atol=1e-9)
    # Once begun, it needs the file no longer.
    config.synthesis.start = config.synthesis.start
    (folder / "hinet.safetensors").unlink()
    train(config, folder / "run")
