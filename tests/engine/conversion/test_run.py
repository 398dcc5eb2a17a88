"""A run made of public weights: its phase holds them, and makes what PyTorch makes of them."""

import jax
import numpy as np
import pytest

from jaxfuse.engine.conversion.arrays import network_paths, own_arrays
from jaxfuse.engine.conversion.run import replaced, settled_for_all, target_of, write_run
from jaxfuse.engine.conversion.sources import Source
from jaxfuse.engine.conversion.written import OWN_FILE, write_arrays, write_weights
from jaxfuse.engine.run_folder.workdir import check_workdir
from jaxfuse.engine.trained.phases import load
from jaxfuse.io.safetensors import read_safetensors
from jaxfuse.io.tables import read_json
from jaxfuse.weights.files import read_weights_file
from jaxfuse.weights.lines import OWN
from tests.engine.conversion.public_files import fuse4seg_config, hinet_config, public_file, tensors
from tests.refusals import refused
from tests.weights import sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("converted")


@pytest.fixture(scope="module")
def run(folder):
    """A run of generator and critic."""
    files = [Source(public_file(folder, case), "hinet") for case in ("hinet", "hinet_critic")]
    told = write_run(hinet_config(folder), files, folder / "run")
    assert told.endswith("hinet_critic.safetensors (Hi-Net) as phase synthesis")
    return folder / "run"


@pytest.fixture(scope="module")
def phase(run):
    (found,) = load([str(run)])
    return found


@pytest.mark.slow
def test_its_phase_makes_what_pytorch_makes(phase):
    given = image("hinet", sizes.IMAGES["hinet"])
    channels = np.zeros((*given.shape[:3], 4), np.float32)
    for number, name in enumerate(("t1", "t2")):
        channels[..., phase.preparation.channels.index(name)] = 0.5 * (given[..., number] + 1)
    predict = jax.jit(phase.system.predict).lower(phase.weights(), {"image": channels})
    made = predict.compile(compiler_options={"xla_backend_optimization_level": 0})(phase.weights(), {"image": channels})
    expected = 0.5 * (stored("hinet")[1] + 1)
    assert np.abs(made["synthesized"] - expected[..., :1]).max() < 1e-6
    assert np.abs(made["reconstructed"] - expected[..., 1:]).max() < 1e-6


def test_cases_are_prepared_as_the_recipe_says(phase, run):
    assert phase.preparation.spacing_range_mm == ()
    assert phase.facts.ranges["flair"] == (0.0, 1.0)
    assert (phase.facts.train, phase.facts.scheme) == ((), "brats")
    origin = read_json(run / "converted.json")
    assert [one["table"] for one in origin["files"].values()] == ["hinet", "hinet"]
    assert origin["drawn"] == []


def test_weights_go_out_as_they_came_in(phase, folder):
    paths = write_weights(phase, "hinet_apart", folder / "out")
    assert [path.name for path in paths] == ["generator.safetensors", "discriminator.safetensors"]
    for path, case in zip(paths, ("hinet", "hinet_critic"), strict=True):
        given, found = tensors(case), read_safetensors(path).arrays
        assert found.keys() == given.keys()
        # By the public code all images are made by `out`; the other two are never used there.
        plain = [name for name in given if not name.startswith(("out1", "out2")) and "num_batches" not in name]
        assert all(np.array_equal(found[name], given[name]) for name in plain)
    refused("names of hinet cannot tell all .* --to hinet_apart", write_weights, phase, "hinet", folder / "out")
    refused("names of vit cannot tell all .* --to jaxfuse", write_weights, phase, "vit", folder / "out")


@pytest.mark.slow
def test_our_own_names_make_the_same_run(phase, folder):
    (path,) = write_weights(phase, OWN, folder / "own")
    assert path.name == OWN_FILE
    write_run(hinet_config(folder), [Source(path)], folder / "again")
    (again,) = load([str(folder / "again")])
    here, there = own_arrays(phase.weights()), own_arrays(again.weights())
    assert all(np.array_equal(here[name], there[name]) for name in here)
    write_arrays(folder / "some.npz", {name: np.asarray(leaf) for name, leaf in here.items()})
    assert read_weights_file(folder / "some.npz").keys() == here.keys()
    refused("ends in .safetensors or .npz", write_arrays, folder / "some.pth", {})


def test_nothing_is_written_where_a_run_is(run, folder):
    refused("holds weights that jaxfuse.convert has read.*config.PHASE.start", check_workdir, run, ())
    (folder / "full").mkdir()
    (folder / "full" / "a.txt").write_text("")
    files = [Source(public_file(folder, "hinet"), "hinet")]
    refused("full holds a.txt", write_run, hinet_config(folder), files, folder / "full")
    twice = [*files, Source(public_file(folder, "hinet"), "hinet")]
    refused("two of the files have .*generator", write_run, hinet_config(folder), twice, folder / "new")
    assert not (folder / "new").exists()


@pytest.mark.slow
def test_networks_that_no_file_has_are_drawn(folder):
    files = [Source(public_file(folder, "hinet_critic"), "hinet")]
    assert write_run(hinet_config(folder), files, folder / "critic").endswith("drawn, as no file has them: generator")


def test_what_a_machine_settles_is_settled(folder):
    config = settled_for_all(hinet_config(folder, "paper"))
    assert (config.network.form.dtype, config.synthesis.args.form.remat) == ("float32", "off")
    assert replaced(config, {"data.normalize": "histmatch"}).data.normalize == "histmatch"
    assert config.data.normalize == "minmax"


@pytest.mark.slow
def test_a_phase_is_named_where_there_are_several(folder):
    config = fuse4seg_config(folder)
    assert target_of(config).phase.name == "cooperative"
    assert target_of(config, "pretraining").phase.name == "pretraining"
    refused("no phase 'x'; it has pretraining, cooperative", target_of, config, "x")
    config.result = ("pretraining", "cooperative")
    refused("makes its result of pretraining, cooperative; name one", target_of, config)


def test_a_network_is_found_by_its_path():
    own = {"params/net/a": 1, "stats/net/a2/b": 2, "params/network/a": 3}
    assert network_paths(own, "net", "it") == {"a": "params/net/a", "a2/b": "stats/net/a2/b"}
    refused("weights of it lie at nets, and this recipe has net, network", network_paths, own, "nets", "it")
