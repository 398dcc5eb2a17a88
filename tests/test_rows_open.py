"""Every phase of every call of every recipe opens data of its own sizes, and draws what its first step would see.

No network is initialized. Presets for phantoms open phantoms of their sizes, fewer of them; `paper` opens made cases of
the true sizes of the papers' data sets.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxfuse.config import Experiment
from jaxfuse.data.dataset import Dataset
from jaxfuse.data.sources.volumes import source_of
from jaxfuse.engine.build import example_batch
from jaxfuse.engine.phase_run import PhaseRun
from jaxfuse.engine.run import train
from jaxfuse.engine.validation import fixed_batches
from tests.recipe_phases import RECIPES, arguments
from tests.runs import run_of
from tests.true_sizes import CASES, WRITE

# Its default data are those of its tiny preset but for their number and sides; its calls are many.
_LIKE_TINY = ("fusion", "")
_PRESETS = [
    pytest.param(recipe, preset, marks=[pytest.mark.slow] * ((recipe, preset) == _LIKE_TINY))
    for recipe in RECIPES
    for preset in RECIPES[recipe].PRESETS
]


@pytest.fixture(scope="module")
def true_root(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of made cases of a source, which are written when they are first asked for."""
    folder = tmp_path_factory.mktemp("true")

    def root_of(source: str) -> Path:
        name = source if source in ("voc", "pairs2d") else source_of(source).name
        if not (folder / name).exists():
            WRITE[name](folder / name)
        return folder / name

    return root_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _sections(config):
    """The data of a call, and those of its phases that have others."""
    yield config.data
    every = (config[name].get("data") for name in config.schedule)
    yield from (data for data in every if data and data.source)


def _called(recipe: str, text: str, cache: Path, true_root: Callable[[str], Path]):
    """The config of a call, on made data."""
    config = RECIPES[recipe].get_config(text)
    for data in _sections(config):
        # Of these there are no made ones.
        if config.preset == "paper" or data.source == "voc" or "ir" in data.modalities:
            data.root = str(true_root(data.source))
        data.phantom.cases = CASES + 1
        data.cache = str(cache)
    config.loader.threads = config.loader.prefetch = 1
    return config


def _draw(phase: PhaseRun) -> None:
    """Draws the batch of the first step, and those of a validation, and compares them with what the step expects."""
    expected = example_batch(phase.phase, phase.data.facts.modalities, margin=phase.system.geometry.margin)
    if not phase.phase.labeled:
        expected = {"image": expected["image"]}
    watched = fixed_batches(phase.phase, phase.watched[:2], seed=phase.seed, margin=phase.system.geometry.margin)
    first = next(phase.stream(0))
    assert np.any(first["image"])
    for batch in (first, *watched):
        # A validation looks at fewer examples at once.
        found = jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), batch)
        assert found == jax.tree.map(lambda leaf: (leaf.shape[1:], leaf.dtype), expected)
    assert len(jax.tree.leaves(first)[0]) == phase.phase.batch


def _depends_on(phase: PhaseRun, experiment: Experiment) -> tuple[object, ...]:
    """All that a phase's batches depend on; rows whose networks alone differ draw alike."""
    form, system = phase.phase, phase.system
    drawing = form.sampling, form.patch, form.batch, form.pad, form.unpaired, form.augment, form.labeled
    system_asks = system.geometry.margin, system.holds_out, system.accepts_unlabeled
    return experiment.data_of(form), *drawing, *system_asks


@pytest.mark.parametrize(("recipe", "preset"), _PRESETS)
def test_every_call_opens_its_data_and_draws_a_batch(recipe, preset, cache, true_root, tmp_path):
    opened: dict[object, Dataset] = {}
    drawn = set()
    for text in arguments(recipe):
        if RECIPES[recipe].get_config(text).preset != preset:
            continue
        run = replace(run_of(_called(recipe, text, cache, true_root), tmp_path, new=False), _datasets=opened)
        for name in run.experiment.schedule:
            phase = run.phase(name)
            assert phase.assessment is not None
            if (key := _depends_on(phase, run.experiment)) not in drawn:
                drawn.add(key)
                _draw(phase)


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in RECIPES["hyperfusion"].ROWS if row.endswith("_2d")])
def test_rows_on_slices_of_stroke_train_to_a_report(row, cache, tmp_path):
    config = RECIPES["hyperfusion"].get_config(f"tiny,row={row},data=stroke")
    config.data.cache = str(cache)
    report = train(config, tmp_path / "run")
    assert report.stat().st_size
    summary = json.loads((tmp_path / "run/results/segmentation/summary.json").read_text())
    assert summary["cases"] == 1
