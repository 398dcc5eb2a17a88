"""Trackers that are none, are not installed, or take no more numbers."""

import pytest

from jaxfuse.engine.run_folder.metric_writer import MetricWriter, read_metrics
from jaxfuse.engine.tracking import tracker
from jaxfuse.engine.tracking.tracker import Guarded, check_trackers
from jaxfuse.errors import OutputError
from tests.faults.catalogue import given
from tests.refusals import refused


@given("`train --track`: a program that is no tracker", "refused, with those there are")
def test_an_unknown_tracker():
    refused("--track names 'comet'; give some of mlflow, wandb", check_trackers, ["comet"])


@given("`train --track`: a tracker whose package is not installed", "refused before anything is written: its extra")
def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda name: None)
    refused(r"--track wandb needs the package wandb, .* pip install 'jaxfuse\[wandb\]'", check_trackers, ["wandb"])


class _Gone:
    def write(self, step, phase, split, values):
        raise ConnectionError("no\nserver")

    def close(self):
        pass


@given("`train --track`: a server that is gone", "the run ends in one sentence, its row on disk; it goes on without it")
def test_a_server_that_is_gone(tmp_path):
    writer = MetricWriter(tmp_path, [Guarded("mlflow", lambda folder, config: _Gone(), tmp_path / "tracking", {})])
    with pytest.raises(OutputError, match=r"mlflow takes no more numbers \(no server\); mend that, or call again"):
        writer.write(3, "fusion", "train", {"loss": 0.5})
    writer.close()
    assert len(read_metrics(tmp_path)) == 1
