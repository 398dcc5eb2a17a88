"""python -m experiments.throughput.infer [--sides 56 56 56] [--rounds 4] [--size cpu] [--dtype float32] [--out FILE]

Times the label map of a whole volume by CMFF, and by its PyTorch peer of equal weights under MONAI's
`sliding_window_inference`, by turns in one process. Both begin with the volume in main memory and end with the label
map there, and see the same windows of the size of training, one at a time, a quarter of a side shared. Windows stand
at the same places where sides are a window plus multiples of three quarters of it; then the share of voxels that both
label alike is told. PyTorch runs in both layouts of memory, in inference mode, and takes the most probable class before
it copies. With `--sides`, longer volumes; `--size paper` has windows of 128^3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.throughput.lines import add_out, write
from experiments.throughput.step import LAYOUTS, Contestant
from experiments.throughput.systems import CASES, SIZES, Case
from jaxfuse.engine.programs import Programs
from jaxfuse.inference.canvas import Canvases, lay, windows_of
from jaxfuse.inference.tiling import Asked
from jaxfuse.patches import tile_volume

OVERLAP = 0.25
# Volume -> class of each voxel, in main memory.
Labels = Callable[[np.ndarray], np.ndarray]


def ours(case: Case, dtype: str) -> tuple[Any, Labels]:
    """Returns drawn weights, and the function that labels a volume by one compiled program."""
    system = case.ours(case.optimizers(), dtype)
    state = jax.jit(system.init)(jax.random.key(0), case.example())
    programs, canvases, compiled = Programs(system), Canvases(), {}

    def labels(volume: np.ndarray) -> np.ndarray:
        tiling = tile_volume(volume.shape[:3], case.patch, overlap=OVERLAP)
        laid, windows = lay(tiling, canvases), windows_of(tiling, 1)
        canvases.keep(laid.sides)
        if windows not in compiled:
            compiled[windows] = programs.over_canvas(windows, Asked(labels=(system.primary,)))
        made = compiled[windows](state, laid.image(volume), laid.places(windows, OVERLAP))
        return laid.cut(np.asarray(made[system.primary]))

    return state, labels


def theirs(case: Case, params: Any, layout: str, dtype: str, device: str, threads: int) -> Labels:
    """Returns the function that labels a volume by MONAI's windows and the peer with these parameters."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    from experiments.throughput.names import copy_weights
    from experiments.throughput.peers.learning import laid_out

    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    peer = case.peer(case.rules)
    copy_weights(params["net"], peer.players["net"])
    peer.to(device, layout).players["net"].eval()

    def fused(windows: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return peer.predict(laid_out(windows, layout))["S_F"]

    def labels(volume: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            image = torch.from_numpy(volume).to(device).movedim(-1, 0)[None]
            probs: Any = sliding_window_inference(image, case.patch, 1, fused, overlap=OVERLAP)
            return probs.argmax(1)[0].to(torch.uint8).cpu().numpy()

    return labels


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Labels one volume by turns, and returns a line for each contestant."""
    case = CASES["cmff"](options.size)
    volume = np.random.default_rng(0).random((*options.sides, case.modalities), np.float32)
    state, own = ours(case, options.dtype)
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    found = {("jaxfuse", "one program"): own}
    for layout in options.layouts:
        made = theirs(case, state.params, layout, options.dtype, device, options.threads)
        found["torch, monai", f"eager {layout}"] = made
    expected, contestants = own(volume), []
    for (side, form), labels in found.items():
        facts = {"side": side, "form": form, "labeled_alike": float(np.mean(labels(volume) == expected))}
        contestants.append(Contestant(facts, _repeat(labels, volume)))
    for _ in range(options.rounds):
        for contestant in contestants:
            contestant.time(1)
    windows = len(tile_volume(options.sides, case.patch, overlap=OVERLAP))
    common = {"system": "cmff", "size": options.size, "sides": options.sides, "windows": windows}
    return [{**common, "dtype": options.dtype, **contestant.line()} for contestant in contestants]


def _repeat(labels: Labels, volume: np.ndarray) -> Callable[[int], None]:
    def run(times: int) -> None:
        for _ in range(times):
            labels(volume)

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--sides", type=int, nargs=3, default=(56, 56, 56), help="voxels of the volume")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=LAYOUTS, help="of PyTorch; none: ours alone")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on a CPU; 0 leaves them to it")
    add_out(parser)
    options = parser.parse_args()
    write(measure(options), options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
