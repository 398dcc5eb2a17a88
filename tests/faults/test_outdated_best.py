"""Best weights that a killed run left, and that are not those of the run that goes on."""

import json

import pytest

from jaxfuse.engine.devices.placement import one_device
from jaxfuse.engine.run_folder.checkpoints import Checkpoints, read_weights
from tests.engine.toy_loop import Bench, fresh
from tests.faults.catalogue import table

SETTINGS = {"validate_every": 7, "checkpoint_every": 10}


class Killed(Exception):
    pass


def killed_after(folder, step: int, scores: dict[int, float]) -> None:
    """Runs a training of 40 steps that dies when it asks for the batch after `step`."""

    def die(number: int) -> None:
        if number > step:
            raise Killed

    with pytest.raises(Killed):
        Bench(folder, 40, before=die, scores=scores, **SETTINGS).run()


@table(
    "killed,scores,steps,after,best",
    (
        "killed after the best weights of step 14, resumed from 10 with 13 steps in all; step 13 is better than 7",
        "`@best` is step 13",
        14, {7: 0.5, 14: 0.7}, 13, {13: 0.6}, 13,
    ),
    ("the same, and step 13 is worse than step 7", "`@best` is step 7", 14, {7: 0.5, 14: 0.7}, 13, {13: 0.4}, 7),
    (
        "the same, resumed with more steps", "`@best` is step 14 again",
        14, {7: 0.5, 14: 0.7}, 16, {14: 0.7, 16: 0.1}, 14,
    ),
    (
        "killed after step 28 was better than 7, 14 and 21, resumed from step 20 with 22 steps",
        "`@best` is step 14, which the checkpoint of step 20 names",
        28, {7: 0.1, 14: 0.2, 21: 0.3, 28: 0.4}, 22, {21: 0.15, 22: 0.0}, 14,
    ),
    ("killed before the first checkpoint", "all begins anew, `@best` too", 8, {7: 0.9}, 7, {7: 0.1}, 7),
)  # fmt: skip
def test_the_best_is_that_of_the_run_that_went_on(tmp_path, killed, scores, steps, after, best):
    killed_after(tmp_path, killed, scores)
    bench = Bench(tmp_path, steps, scores=after, **SETTINGS)
    bench.run()
    folder = tmp_path / "checkpoints"
    found = read_weights(folder, fresh(), one_device(), best=True)
    assert found.params["net"]["w"].tolist() == [best] * 3
    assert int(found.step) == best
    assert Checkpoints(folder).restore(fresh())[1]["best_step"] == best
    assert json.loads((folder / "last" / str(steps) / "progress.json").read_text())["best_step"] == best
