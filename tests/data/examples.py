"""Single examples of cases: at a given place, or drawn."""

import numpy as np

from jaxfuse.data.pipeline import PatchSampler
from jaxfuse.data.sampling import Draw, brain


def example_at(case, start, window, *, margin=0):
    """The arrays of one example: the window of a case that begins at `start`, with its label where it has one."""
    patch = tuple(side + 2 * margin for side in window)
    sampler = PatchSampler((case,), patch, brain, 0.0, unpaired=False, labels=case.labeled, margin=margin)
    return _first(sampler.batch([Draw(0, tuple(start))]))


def sampled(case, patch, center, rng, *, margin=0):
    """The arrays of one example that is drawn from a case."""
    sampler = PatchSampler((case,), patch, center, 0.0, unpaired=False, labels=case.labeled, margin=margin)
    return _first(sampler.batch([sampler.draw(0, rng)]))


def _first(batch: dict[str, np.ndarray]):
    return {name: leaf[0] for name, leaf in batch.items()}
