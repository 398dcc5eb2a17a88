"""Every System's training step and prediction, compiled for an H200 that is not there.

A compiler that aborts, a convolution that reads a whole map as its kernel, and sums in bfloat16 show in the program.
"""

import pytest

from configs import cmff, fuse4seg, hinet, hyperfusion, infinet
from jaxfuse.config import parse
from jaxfuse.data.settings import declared_facts
from jaxfuse.engine.build import abstract_state, build_system, example_batch, without_optimizers
from jaxfuse.engine.cost.gpus import GPUS, compiled_for
from jaxfuse.engine.cost.kernels import CompiledKernels
from jaxfuse.engine.programs import Programs
from jaxfuse.engine.settled import Machine, settled
from jaxfuse.options import flat

H200 = GPUS["h200"]
# Rows whose Systems have networks or learning rules of their own, and a patch and batch large enough to show a sum of
# more than LONGEST numbers over a map of full size.
SYSTEMS = {
    "cmft": (cmff, "tiny", "transition", (32, 32, 32), 1),
    "cmff": (cmff, "tiny", "fusion", (32, 32, 32), 1),
    "cbam": (cmff, "tiny,row=w_CA", "fusion", (32, 32, 32), 1),
    "reconstruction": (cmff, "tiny,row=self", "reconstruction", (32, 32, 32), 1),
    "branch": (cmff, "tiny,row=S_A", "branch_a", (32, 32, 32), 1),
    "unet": (cmff, "tiny,row=voc", "voc", (32, 32), 8),
    "mmformer": (cmff, "tiny,row=mmformer", "segmentation", (32, 32, 32), 1),
    "uhved": (cmff, "tiny,row=uhved", "segmentation", (32, 32, 32), 1),
    "joint": (cmff, "tiny,row=joint", "joint", (32, 32, 32), 1),
    "hyperdense": (hyperfusion, "tiny,row=baseline", "segmentation", (27, 27, 27), 2),
    "hyperfusion": (hyperfusion, "tiny", "segmentation", (27, 27, 27), 2),
    "hyperfusion2d": (hyperfusion, "tiny,row=full_2d", "segmentation", (27, 27), 12),
    "infinet": (infinet, "tiny,row=axial", "axial", (32, 32), 8),
    "unet2d": (infinet, "tiny,row=unet_double", "coronal", (32, 32), 8),
    "hinet": (hinet, "tiny", "synthesis", (40, 40), 8),
    "hinet_any": (hinet, "tiny,row=any", "synthesis", (40, 40), 8),
    "pix2pix": (hinet, "tiny,row=pix2pix", "synthesis", (40, 40), 8),
    "cyclegan": (hinet, "tiny,row=cyclegan", "synthesis", (40, 40), 8),
    "mmsyns": (hinet, "tiny,row=mmsyns", "synthesis", (40, 40), 8),
    "pretraining": (fuse4seg, "tiny", "pretraining", (32, 32), 8),
    "cooperative": (fuse4seg, "tiny", "cooperative", (32, 32), 8),
    "pixel": (fuse4seg, "tiny,row=pixel", "cooperative", (32, 32), 8),
    "film": (fuse4seg, "tiny,row=film_nnunet", "cooperative", (32, 32), 8),
    "alone": (fuse4seg, "tiny,row=t1", "alone", (32, 32), 8),
}
LONGEST, WIDEST = 4096, 16


def _programs(name):
    """The training step and the prediction of a System in bfloat16, each with the shapes of its arguments."""
    module, argument, number, patch, batch = SYSTEMS[name]
    config = module.get_config(argument)
    for option in [option for option in flat(config) if option.endswith(".dtype")]:
        config.update_from_flattened_dict({option: "auto"})
    config[number].patch, config[number].batch = patch, batch
    experiment = parse(settled(config, Machine.of(H200)))
    phase = experiment.phases[number]
    modalities, classes = declared_facts(experiment.data_of(phase))
    system = build_system(phase, modalities, classes, 10)
    state, example = (
        abstract_state(system, phase, modalities),
        example_batch(phase, modalities, margin=system.geometry.margin),
    )
    programs, image = Programs(system), {"image": example["image"]}
    return (programs.step, state, example), (programs.predict, without_optimizers(state), image)


@pytest.mark.h200
@pytest.mark.slow
# The cache of the tests cannot read such a program back, and it is compiled again.
@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_step_and_prediction_compiles_to_kernels_of_their_size(name):
    for program, *shapes in _programs(name):
        found = CompiledKernels.of(compiled_for(H200, program, *shapes))
        assert found.largest_window <= WIDEST
        assert found.longest_narrow_sum() <= LONGEST
        assert "bf16[" in found.text
