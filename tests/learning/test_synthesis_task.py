"""Tasks of synthesis: the channels that are read, their range, and pairs that name no task."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.learning.synthesis_task import from_signed, task_of, to_signed
from tests.refusals import refused

MODALITIES = ("t1", "t1ce", "t2", "flair")
ASKED = "it must name two or three sources and one other modality"


def test_sources_are_read_by_name_and_lie_between_minus_one_and_one():
    task = task_of(("t2+t1", "flair"), MODALITIES)
    image = jnp.stack([jnp.full((1, 1, 1), value) for value in (0.0, 0.25, 0.5, 1.0)], axis=-1)
    np.testing.assert_array_equal(task.sources_of({"image": image}).ravel(), [0.0, -1.0])
    np.testing.assert_array_equal(task.target_of({"image": image}).ravel(), [1.0])
    np.testing.assert_array_equal(from_signed(to_signed(image)), image)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("t1+t2+t1c", "flair"), "pairs names t1c, but the data has t1, t1ce, t2, flair"),
        (("t1+t2", "pd"), "pairs names pd, but the data has"),
        (("t1", "flair"), rf"pairs is \('t1', 'flair'\); {ASKED}"),
        *((pairs, ASKED) for pairs in (("t1+t2",), ("t1+t2", "t1ce+flair"), ("t1+t2", "t1"), ("t1+t1", "flair"))),
        (("t1+t2", "flair", "t1ce"), ASKED),
    ],
)
def test_tasks_that_do_not_exist_are_refused(pairs, message):
    refused(message, task_of, pairs, MODALITIES)
