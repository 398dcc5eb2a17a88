"""The command of a bundle: python run.py --input DIR --output DIR"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxfuse.data.presence import REFUSE, ZERO
from jaxfuse.errors import Unfinished, UserError, machine_sentence
from jaxfuse.prediction.bundle import Bundle
from jaxfuse.prediction.bundle_cases import Asked, predict_folder
from jaxfuse.prediction.probability_maps import ENTROPY, PROBABILITIES

_DESCRIPTION = "Predicts cases by the exported run in this folder, on the grid of their files."


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Predicts by the bundle in a folder what the command line asks for.

    Returns:
        The code of exit: 0 where all cases are done, 1 where some are left out, 2 where nothing can be done.
    """
    asked = _options().parse_args(arguments)
    maps = tuple(name for name in (PROBABILITIES, ENTROPY) if getattr(asked, name))
    try:
        bundle = Bundle(folder, asked.any_spacing, asked.tile_batch)
        wanted = Asked(maps, asked.missing, asked.overwrite)
        predict_folder(bundle, Path(asked.input), Path(asked.output), wanted, lambda text: print(text, flush=True))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Unfinished as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if sentence := machine_sentence(error):
            print(sentence, file=sys.stderr)
            return 2
        raise
    return 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="run.py", description=_DESCRIPTION)
    options.add_argument("--input", required=True, help="folder of cases, as in the data of the training")
    options.add_argument("--output", required=True, help="folder for the files; made if need be")
    options.add_argument(f"--{PROBABILITIES}", action="store_true", help="write class probabilities as well, float32")
    options.add_argument(f"--{ENTROPY}", action="store_true", help="write the entropy of these, in nats")
    options.add_argument(
        "--missing", choices=(REFUSE, ZERO), default=REFUSE, help="cases that lack modalities: zero labels them"
    )
    options.add_argument("--tile_batch", type=int, default=0, help="tiles that are predicted at once; 0: as in the run")
    options.add_argument("--any_spacing", action="store_true", help="take voxel sides other than those of the training")
    options.add_argument("--overwrite", action="store_true", help="replace files that were not written by this")
    return options
