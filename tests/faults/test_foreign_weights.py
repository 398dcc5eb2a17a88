"""Weights that others have trained: files that would run something, that are others, or that are damaged."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxfuse.engine.conversion.arrays import own_arrays
from jaxfuse.engine.conversion.run import target_of
from jaxfuse.engine.conversion.sources import Source, arrays_of
from jaxfuse.weights.pickled import read_pickled
from tests.engine.conversion.public_files import hinet_config, tensors
from tests.faults.catalogue import given, table
from tests.refusals import refused
from tests.weights.make_outputs import STORED

MAGIC = 0x1950A86A20F9469CFC6C


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function, *given):
        self.call = (function, given)

    def __reduce__(self):
        return self.call


def archive(path: Path, content: bytes) -> None:
    """Writes the form of PyTorch 1.6 and later."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/data.pkl", content)


def in_a_row(path: Path, content: bytes) -> None:
    """Writes the form before archives, with no storage."""
    parts = [pickle.dumps(one, 2) for one in (MAGIC, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*parts, content, pickle.dumps([], 2)]))


@table(
    "write",
    ("a `.pth` whose pickle would run a command, as an archive", "refused; nothing runs", archive),
    ("the same in the form before archives", "refused; nothing runs", in_a_row),
    ("the same as a bare pickle that is called `.pth`", "refused; nothing runs", Path.write_bytes),
)
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, write):
    trace, path = tmp_path / "it_ran", tmp_path / "weights.pth"
    calls = ((open, str(trace), "w"), (os.system, f"touch {trace}"), (exec, f"open({str(trace)!r}, 'w')"))
    for function, *arguments in calls:
        for protocol in (0, 2, 4):
            write(path, pickle.dumps({"state_dict": {"a": Calls(function, *arguments)}}, protocol))
            sentence = f"its pickle asks for .*{function.__name__}.* may be code; .* as safetensors"
            refused(sentence, read_pickled, path)
            assert not trace.exists()
    # That it would have run elsewhere is what the test is about.
    pickle.loads(pickle.dumps(Calls(open, str(trace), "w"))).close()
    assert trace.exists()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return own_arrays(target_of(hinet_config(tmp_path_factory.mktemp("own"))).shapes())


def without(public, *names):
    return {name: array for name, array in public.items() if name not in names}


@table(
    "change, sentence",
    (
        "a file of weights that lacks some of the network's",
        "refused: how many of how many are missing, and the first of them",
        lambda public: without(public, "out.0.weight", "out.0.bias"),
        "2 of its 236 tensors are missing, out.0.bias, out.0.weight;",
    ),
    (
        "weights of another network",
        "refused: what is missing, and what is none of it",
        lambda public: {"head.weight": np.zeros(3)},
        "236 of its 236 tensors are missing, .* and 233 more; 1 of the file's are none of it, head.weight;",
    ),
    (
        "weights of the same network in another size",
        "refused: which tensor has which sides, and which were expected",
        lambda public: {**public, "out.0.weight": np.zeros((1, 32, 3, 3))},
        r"out.0.weight has the sides \(1, 32, 3, 3\), which do not make .*image/conv/kernel of \(3, 3, 2, 1\)",
    ),
)
def test_another_file_is_told(tmp_path, own, change, sentence):
    np.savez(tmp_path / "a.npz", **change(tensors("hinet")))
    refused(sentence, arrays_of, Source(tmp_path / "a.npz", "hinet", "generator"), own, ("t1", "t2"))


@given("a `.pth` that was cut while it was fetched", "refused: it is not whole")
def test_a_cut_file_is_told(tmp_path):
    whole = (STORED / "archive.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: len(whole) // 2])
    refused("a.pth is no whole file that torch.save has written", read_pickled, tmp_path / "a.pth")
