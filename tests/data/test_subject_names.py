"""Names of cases and the subjects that they tell."""

import pytest

from jaxfuse.data.subject_names import cases_by_subject, likely_subject, subject_of, subject_rule
from tests.refusals import refused


@pytest.mark.parametrize(
    ("case", "subject"),
    [
        ("BraTS-GLI-00001-001", "BraTS-GLI-00001"),
        ("BraTS-MEN-RT-0002-1", "BraTS-MEN-RT-0002"),
        ("BraTS-GoAT-00063", "BraTS-GoAT-00063"),
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("Brats18_2013_10_1", "Brats18_2013_10_1"),
        ("BraTS2021_20191231", "BraTS2021_20191231"),
        ("subject-10", "subject-10"),
        ("training_1", "training_1"),
        ("stroke_phantom_000", "stroke_phantom_000"),
        ("hospital_session_004", "hospital_session_004"),
        ("case_20191231", "case_20191231"),
        ("pat1_12345678", "pat1_12345678"),
    ],
)
def test_a_name_tells_its_subject(case, subject):
    assert subject_of(case) == subject


def test_a_pattern_is_looked_for_from_the_beginning():
    subject = subject_rule("site[0-9]_(p[0-9]+)")
    assert subject("site1_p07_b") == "p07"
    refused("case p07 has no subject by data.subject", subject, "p07")
    assert cases_by_subject(["a_1", "b_1", "a_2", "a_1"], subject_rule("(.)_")) == {"a": ("a_1", "a_2"), "b": ("b_1",)}


def test_other_data_need_not_fit_a_pattern():
    assert likely_subject("site1_p07", "site._(p.*)") == "p07"
    assert likely_subject("sub-1_ses-2", "site._(p.*)") == likely_subject("sub-1_ses-2", "") == "sub-1"
