"""Checkpoints on disk: trees come back bit by bit, and what is not what was written is told."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.engine.run_folder import stored
from jaxfuse.engine.run_folder.stored import (
    Damaged,
    Misfit,
    fault_of,
    read_document,
    read_tree,
    remove_partial,
    write_stored,
)
from tests.runs import bits

TREE = {
    "a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(7, np.int32)},
    "half": np.array([1.5, -2.0], jnp.bfloat16),
    "flags": np.array([True, False]),
    "key": jax.random.key(3),
}


@pytest.mark.parametrize("name", ["last", "exp [1] *?", "läuft gut"])
def test_trees_and_documents_come_back_from_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name / "3"
    write_stored(folder, {"tree": TREE, "other": {"x": np.zeros(2)}}, {"note.json": {"best": 0.5}})
    assert fault_of(folder, ("tree", "other", "note.json")) == ""
    assert bits(read_tree(folder, "tree", TREE)) == bits(jax.tree.map(jnp.asarray, TREE))
    assert read_document(folder, "note.json") == {"best": 0.5}
    assert [path.name for path in folder.parent.iterdir()] == ["3"]


def test_a_checkpoint_is_there_as_a_whole_or_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "3"
    write_stored(folder, {"tree": TREE}, {})

    def full(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: No space left. [source locations='x']")

    with monkeypatch.context() as patch:
        patch.setattr(stored.ocp.Checkpointer, "save", full)
        with pytest.raises(OSError, match="No space left") as error:
            write_stored(folder, {"tree": {}}, {})
    assert (error.value.errno, error.value.strerror) == (errno.EIO, "RESOURCE_EXHAUSTED: No space left")
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert fault_of(folder, ("tree",)) == ""
    write_stored(folder, {"new": {"x": np.ones(2, np.float32)}}, {})
    assert read_tree(folder, "new", {"x": np.zeros(2, np.float32)})["x"].tolist() == [1, 1]
    with pytest.raises(Damaged, match="does not name tree"):
        read_tree(folder, "tree", TREE)
    assert fault_of(tmp_path / "none", ("a",)) == "digests.json cannot be read: No such file or directory"


def test_a_tree_of_another_form_is_told_by_the_leaf_that_differs(tmp_path):
    write_stored(tmp_path / "3", {"tree": {"w": np.zeros((2, 3), np.float32)}}, {})
    for like, told in (
        ({"w": np.zeros((2, 4), np.float32)}, "w is float32 (2, 3) there and float32 (2, 4) here"),
        ({"w": np.zeros((2, 3), np.int32)}, "w is float32 (2, 3) there and int32 (2, 3) here"),
        ({"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}, "b is not there"),
        ({}, "w is there, and no part of it"),
    ):
        with pytest.raises(Misfit) as error:
            read_tree(tmp_path / "3", "tree", like)
        assert str(error.value) == told


def test_what_a_killed_process_began_is_removed(tmp_path):
    (tmp_path / ".partial-4-1-aa" / "a").mkdir(parents=True)
    (tmp_path / "4").mkdir()
    remove_partial(tmp_path)
    remove_partial(tmp_path / "none")
    assert [path.name for path in tmp_path.iterdir()] == ["4"]
