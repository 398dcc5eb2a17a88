"""Files looked at one by one, ahead of their turn."""

import numpy as np

from jaxfuse.data.brain import NONE, TOLD, Background, BackgroundRule
from jaxfuse.data.cases import Image
from jaxfuse.data.looks import fingerprint, look, look_ahead, look_at_image
from jaxfuse.data.sources.case_folders import Finding
from jaxfuse.io.nifti import read_volume
from tests.made_cases import head, save_volume

T1 = head((12, 12, 12), 0)["t1"]


def print_of(path, array, **options) -> str:
    return fingerprint(read_volume(save_volume(path / "a.nii.gz", array, **options)))


def test_a_fingerprint_stands_for_values_whatever_they_are_stored_in(tmp_path):
    own = print_of(tmp_path, T1)
    assert own == print_of(tmp_path, T1.astype(np.float32)) == print_of(tmp_path, T1, axes="LPI")
    assert own == print_of(tmp_path, np.where(T1 == 0, -0.0, T1).astype(np.float32))
    assert len({own, print_of(tmp_path, T1[::-1]), print_of(tmp_path, T1 + 1), print_of(tmp_path, T1[:-1])}) == 4
    assert print_of(tmp_path, np.zeros((3, 3, 3), np.int16)) == ""


def test_cases_come_in_their_order_with_all_their_files(tmp_path):
    findings = []
    for number in range(5):
        images = {m: Image(save_volume(tmp_path / f"{number}_{m}.nii.gz", T1 + number)) for m in ("t1", "t2")}
        findings.append(Finding(str(number), tmp_path, "", images, {}, images["t1"].path if number % 2 else None))
    looks = list(look_ahead(findings, TOLD))
    assert [one.found.id for one in looks] == list("01234")
    assert [one.label is not None for one in looks] == [False, True] * 2 + [False]
    for number, one in enumerate(looks):
        for seen in one.images.values():
            assert seen.volume is not None
            assert seen.volume.array.max() == T1.max() + number


def test_a_background_is_found_unless_there_is_said_to_be_none(tmp_path):
    image = Image(save_volume(tmp_path / "a.nii.gz", T1))
    found = look_at_image(image, "t1", TOLD).background
    assert isinstance(found, Background)
    assert (found.value, found.noisy) == (0, False)
    assert look_at_image(image, "t1", BackgroundRule(NONE)).background is None
    assert look(image).background is None


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no volume")
    seen = look_at_image(Image(tmp_path / "a.nii.gz"), "t1", TOLD)
    assert (seen.volume, seen.fingerprint, seen.background) == (None, "", None)
    ((severity, text),) = seen.problems
    assert (severity, "a.nii.gz" in text) == ("fatal", True)
