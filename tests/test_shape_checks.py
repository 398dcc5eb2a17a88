"""The checker of annotations: shapes are checked while tests run, the rest is left to pyright."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxfuse.arrays import Array, Float, Params
from jaxfuse.io import metric_rows
from jaxfuse.nn import maximum
from jaxfuse.nn.index_pool import max_pool
from tests.shape_checks import shapes_checked

Map = Float[Array, "b h w c"]
Maps = Mapping[str, Map]


def added(a: Float[Array, "b n"], b: Float[Array, "b n"]) -> Float[Array, "b n"]:
    return a + b if a.shape == b.shape else a[:, :1]


def of_all(maps: "Maps | None", others: "Sequence[Map]" = ()) -> None: ...


def plain(x: int, names: Sequence[str], given: Any, net: Params) -> str:
    return f"{x}"


def test_shapes_have_to_agree():
    checked, two, three = shapes_checked(added), jnp.ones((1, 2)), jnp.ones((1, 3))
    assert checked(two, two).shape == (1, 2)
    with pytest.raises(TypeCheckError):
        checked(two, three)
    with pytest.raises(TypeCheckError):
        checked(two, np.ones((1, 2)))


def test_a_shape_is_seen_through_aliases_and_containers():
    checked = shapes_checked(of_all)
    checked({"a": jnp.ones((1, 2, 2, 1))})
    with pytest.raises(TypeCheckError):
        checked({"a": jnp.ones((2, 2, 1))})


def test_a_name_that_is_not_there_yet_may_have_a_shape():
    def later(x: Any) -> None: ...

    later.__annotations__["x"] = "NotYetThere"
    assert shapes_checked(later) is not later


def test_what_has_no_shape_stays_as_it_is():
    assert shapes_checked(plain) is plain
    assert not hasattr(metric_rows.read_metrics, "__wrapped__")


def test_functions_of_the_package_are_checked():
    with pytest.raises(TypeCheckError):
        maximum.largest(np.ones(3), 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeCheckError):
        max_pool(jnp.ones((2, 2, 1)))


def test_what_is_compiled_with_checks_is_kept_where_no_other_process_reads_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    spec = importlib.util.find_spec("jaxfuse.nn.maximum")
    assert isinstance(spec, ModuleSpec)
    assert spec.loader.get_code("jaxfuse.nn.maximum") is not None  # pyright: ignore[reportAttributeAccessIssue]
    (kept,) = tmp_path.rglob("*.pyc")
    assert "jaxtyping" in kept.name
