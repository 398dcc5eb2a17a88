"""Data sets whose cases lack modalities: what is read, cached and told of them."""

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.prepared import showing, with_absent
from jaxfuse.data.settings import read_data
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.recipes import brats_data
from tests.data.opening import quiet, settings
from tests.made_cases import head, nested_cubes, write_case
from tests.refusals import refused

SHAPE = (12, 14, 10)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three cases, of which one has no FLAIR; what it has is what another has."""
    folder = tmp_path_factory.mktemp("lacking")
    for number in range(3):
        arrays = head(SHAPE, min(number, 1)) | {"seg": nested_cubes(SHAPE)}
        write_case(folder / "cases", f"Brats18_{number}_1", arrays)
    (folder / "cases" / "Brats18_2_1" / "Brats18_2_1_flair.nii.gz").unlink()
    return folder


def _cases(root):
    data = settings(root, root=str(root / "cases"), val_fraction=0.0, incomplete="zero")
    found = open_dataset(data, quiet)
    return found, {case.id: case for case in found.train}


def test_a_case_without_flair_is_prepared_from_the_rest_and_flair_is_0(root):
    found, cases = _cases(root)
    whole, lacking = cases["Brats18_1_1"], cases["Brats18_2_1"]
    assert (whole.facts.presence, whole.facts.lacks) == ((), ())
    assert (lacking.facts.presence, lacking.facts.lacks) == ((True, False), ("flair",))
    assert found.facts.subsets == ("t1", "t1+flair")
    np.testing.assert_array_equal(lacking.image[..., 0], whole.image[..., 0])
    assert not lacking.image[..., 1].any()
    assert (lacking.facts.mean[1], lacking.facts.std[1]) == (0.0, 1.0)
    again, _ = _cases(root)
    assert again.facts.keys == found.facts.keys


def test_by_default_it_is_refused_and_so_is_a_case_that_has_nothing(root):
    data = settings(root, root=str(root / "cases"))
    refused("case Brats18_2_1 has no flair image", open_dataset, data, quiet)
    only = settings(root, root=str(root / "cases"), modalities=("flair",), incomplete="zero")
    refused("case Brats18_2_1 has no flair image", open_dataset, only, quiet)


def test_intensities_of_what_lacks_do_not_count(root):
    """The range of a modality is that of the cases that have it."""
    data = settings(root, root=str(root / "cases"), val_fraction=0.0, incomplete="zero", normalize="percentiles")
    found = open_dataset(data, quiet)
    complete = SOURCE.find(root / "cases", ("t1", "flair"), labels_required=False, incomplete=True)[:2]
    known = prepare(complete, ("t1", "flair"), None, normalize=data.normalization, cache=root / "other")
    ends = [[case.facts.scaling[1][0][0], case.facts.scaling[1][-1][0]] for case in known]
    assert found.facts.ranges["flair"] == pytest.approx(np.median(ends, axis=0))
    lacking = next(case for case in found.train if case.facts.lacks)
    assert lacking.facts.scaling[1] == ()


def test_a_complete_case_may_be_shown_without_some_of_its_modalities(root):
    _, cases = _cases(root)
    whole, lacking = cases["Brats18_1_1"], cases["Brats18_2_1"]
    shown = showing(whole, (True, False))
    np.testing.assert_array_equal(shown.image, lacking.image)
    assert (shown.facts.presence, showing(whole, (True, True)).facts.presence) == ((True, False), ())
    assert showing(lacking, (True, True)).facts.presence == (True, False)
    refused("case Brats18_2_1 has none of the modalities that are to be shown", showing, lacking, (False, True))


def test_channels_are_put_in_the_order_of_the_data(root):
    _, cases = _cases(root)
    whole = showing(cases["Brats18_1_1"], (True, True))
    assert with_absent(whole, whole.facts.modalities) is whole
    turned = with_absent(whole, ("flair", "t2", "t1"))
    assert turned.facts.presence == (True, False, True)
    np.testing.assert_array_equal(turned.image[..., [2, 0]], whole.image)
    assert turned.facts.mean == (whole.facts.mean[1], 0.0, whole.facts.mean[0])


def test_only_volumes_may_be_incomplete_and_the_policy_is_known():
    options = brats_data(modalities=("t1", "flair"), shape=(32, 32, 24), cases=3, spacing_mm=6.0)
    options.incomplete = "ignore"
    refused("data.incomplete is 'ignore'; choose refuse or zero", read_data, "data", options)
    options.incomplete, options.source = "zero", "slices"
    refused("data.incomplete is 'zero' and data.source is 'slices'; only volumes have it", read_data, "data", options)
