"""PyTorch makes what is stored of it, and takes what is written for it; names at the published sizes."""

from pathlib import Path

import numpy as np
import pytest

from configs import fuse4seg, hinet, hyperfusion
from jaxfuse.engine.conversion.arrays import network_paths, own_arrays
from jaxfuse.engine.conversion.run import target_of
from jaxfuse.io.safetensors import read_safetensors, write_safetensors
from jaxfuse.weights.lines import Ours
from jaxfuse.weights.matching import read_part, write_part
from jaxfuse.weights.tables import TABLES
from tests.weights import here, sizes
from tests.weights.make_outputs import stored
from tests.weights.rule import state_dict

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize("case", sizes.IMAGES)
def test_outputs_are_stored_as_pytorch_makes_them(case):
    from tests.weights.peers import output

    shapes, made = output(case)
    kept_shapes, kept = stored(case)
    assert kept_shapes == shapes
    assert np.abs(made - kept).max() <= 1e-5 * np.abs(kept).max()


@pytest.mark.parametrize("case", ["hinet_apart", "hyperdense_3", "cddfuse", "pix2pix", "cyclegan", "pix2pix_critic"])
def test_pytorch_takes_what_is_written_strictly(case, tmp_path):
    from tests.weights.peers import SMALL

    given, own = here.cases()[case], here.ours(here.cases()[case], sizes.IMAGES[case])
    tensors = write_part(given.part, read_part(given.part, state_dict(stored(case)[0]), own, "a file"), own.sources)
    write_safetensors(tmp_path / "a.safetensors", tensors)
    read = read_safetensors(tmp_path / "a.safetensors").arrays
    SMALL[case]().load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in read.items()})


PUBLISHED = {
    "hinet": (hinet, "paper", "generator", 3_872_259),
    "hyperdense": (hyperfusion, "paper,row=baseline", "net", 10_361_922),
    "pix2pix": (hinet, "paper,row=pix2pix", "G", 41_822_849),
    "cyclegan": (hinet, "paper,row=cyclegan", "G_A", 7_825_153),
    "cddfuse": (fuse4seg, "paper,row=wo_cross_attention", "fusion", None),
    "transunet": (fuse4seg, "paper", "segmentation", None),
    "film": (fuse4seg, "paper,row=film_nnunet", "fusion", None),
}


def published(table: str):
    """Names and sides of the network at the published sizes, made without memory."""
    from tests.weights.peers import shapes_of
    from tests.weights.public import cddfuse, film, hinet, hyperdense, translation, transunet

    filters = (25,) * 3 + (50,) * 3 + (75,) * 3
    vit = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}
    with torch.device("meta"):
        made = {
            "hinet": lambda: hinet.Generator(32),
            "hyperdense": lambda: hyperdense.HyperDense(2, 4, filters, (400, 200, 150)),
            "pix2pix": lambda: translation.UNet(64, 7),
            "cyclegan": lambda: translation.ResNet(64, 6),
            "cddfuse": lambda: cddfuse.Networks(64, 8, 4, 3),
            "transunet": lambda: transunet.TransUNet(
                64, (256, 512, 1024), (3, 4, 9), **vit, side=224, decoder_widths=(256, 128, 64, 16), classes=9
            ),
            "film": lambda: film.film(32, 8, 4, 3, 32, 256, 2),
        }[table]()
        learned = sum(one.numel() for one in made.parameters())
        return shapes_of(made), learned


@pytest.mark.parametrize("table", PUBLISHED)
def test_names_are_those_of_the_published_sizes(table, tmp_path: Path):
    recipe, text, name, count = PUBLISHED[table]
    shapes, learned = published(table)
    assert count in (None, learned)
    target = target_of(recipe.get_config(text))
    part = next(part for part in TABLES[table].parts if part.name == name)
    own = own_arrays(target.shapes())
    paths = network_paths(own, part.at, table)
    ours = Ours({path: own[at].shape for path, at in paths.items()}, target.sources)
    # Values are of no account here: one number stands for each tensor.
    public = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    read = read_part(part, public, ours, "a file")
    left = ours.shapes.keys() - read.keys()
    assert all("adapter" in path or path.startswith("head/") or path == "guidance/text" for path in left)
    assert part.partial or not left
