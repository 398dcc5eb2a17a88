"""Data sets whose cases lack modalities: what is read, cached and told of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from jaxfuse.data.cache import prepare
from jaxfuse.data.cases import without_blank
from jaxfuse.data.dataset import open_dataset
from jaxfuse.data.prepared import showing, with_absent
from jaxfuse.data.settings import read_data
from jaxfuse.data.sources.brats import SOURCE
from jaxfuse.data.subjects import subjects_of
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


def test_only_volumes_and_their_slices_may_be_incomplete_and_the_policy_is_known():
    options = brats_data(modalities=("t1", "flair"), shape=(32, 32, 24), cases=3, spacing_mm=6.0)
    options.incomplete = "ignore"
    refused("data.incomplete is 'ignore'; choose refuse or zero", read_data, "data", options)
    options.incomplete, options.source = "zero", "pairs2d"
    options.normalize = "brain"
    refused("data.incomplete is 'zero' and data.source is 'pairs2d'; only volumes and", read_data, "data", options)


def test_slices_lack_what_their_volumes_lack(root):
    data = settings(root, root=str(root / "cases"), val_fraction=0.0, source="slices", incomplete="zero")
    found = open_dataset(data, quiet)
    lacking = [one for one in found.train if one.of_case == "Brats18_2_1"]
    whole = [one for one in found.train if one.of_case == "Brats18_1_1"]
    assert found.facts.subsets == ("t1", "t1+flair")
    assert lacking
    for one, other in zip(lacking, whole, strict=True):
        assert (one.facts.lacks, other.facts.lacks) == (("flair",), ())
        np.testing.assert_array_equal(one.image[..., 0], other.image[..., 0])
        assert not one.image[..., 1].any()
    (volume, *_) = (one for one in subjects_of(found.train) if one.id == "Brats18_2_1")
    assert volume.facts.lacks == ("flair",)


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """Two cases, the second with a FLAIR of 7 everywhere."""
    folder = tmp_path_factory.mktemp("blank")
    for number in range(2):
        arrays = head(SHAPE, 1) | {"seg": nested_cubes(SHAPE)}
        if number:
            arrays["flair"] = np.full(SHAPE, 7, np.int16)
        write_case(folder / "cases", f"Brats18_{number}_1", arrays)
    return folder


@pytest.mark.parametrize("source", ["brats", "slices"])
def test_an_image_of_one_value_counts_as_absent_where_that_is_asked_for(blank, source):
    given = {"root": str(blank / "cases"), "val_fraction": 0.0, "source": source, "incomplete": "zero"}
    refused("Brats18_1_1: modality flair is 7 everywhere", open_dataset, settings(blank, **given), quiet)
    found = open_dataset(settings(blank, **given, all_background="absent"), quiet)
    assert found.facts.subsets == ("t1", "t1+flair")
    assert {one.of_case for one in found.train if one.facts.lacks == ("flair",)} == {"Brats18_1_1"}
    assert not any(np.any(one.image[..., 1]) for one in found.train if one.facts.lacks)


def test_blank_images_of_cases_that_are_held_out_are_not_looked_for(blank, tmp_path):
    cases, split = shutil.copytree(blank / "cases", tmp_path / "cases"), tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["Brats18_1_1"], "val": [], "test": ["Brats18_0_1"]}))
    (cases / "Brats18_0_1" / "Brats18_0_1_t1.nii.gz").write_bytes(b"not to be opened")
    given = {"root": str(cases), "split": str(split), "incomplete": "zero", "all_background": "absent"}
    found = open_dataset(settings(tmp_path, **given), quiet)
    assert (found.facts.train, found.facts.subsets) == (("Brats18_1_1",), ("t1",))


def test_files_without_blank_images_and_a_case_of_which_nothing_is_there(blank):
    _, one = SOURCE.find(blank / "cases", ("t1", "flair"), labels_required=False)
    assert set(without_blank(one).images) == {"t1"}
    only = replace(one, images={"flair": one.images["flair"]})
    told = "case Brats18_1_1 has images of one value everywhere alone .flair.; leave the case out"
    refused(told, without_blank, only)


def test_what_counts_as_absent_makes_sense():
    options = brats_data(modalities=("t1", "flair"), shape=(32, 32, 24), cases=3, spacing_mm=6.0)
    options.all_background = "no"
    refused("data.all_background is 'no'; choose present or absent", read_data, "data", options)
    options.all_background = "absent"
    refused("data.all_background is 'absent' and data.incomplete 'refuse', so that", read_data, "data", options)
