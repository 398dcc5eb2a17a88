"""Images of half precision: rounded once, when they are written, and float32 in every window."""

import numpy as np
import pytest

from jaxfuse.data.assembly import Assembly, Buffers
from jaxfuse.data.cache import prepare
from jaxfuse.data.intensities import NORMALIZATIONS
from jaxfuse.data.sampling import Draw
from jaxfuse.data.shelf import BFLOAT16, FLOAT16, FLOAT32, PRECISIONS, Shelf, as_read, as_written, check_precision
from jaxfuse.data.slices import prepare_slices
from jaxfuse.data.subjects import subjects_of
from tests.data.tiny_case import SCHEME, files_on_disk
from tests.refusals import refused

HALVES = (FLOAT16, BFLOAT16)
BOTH = ("t1", "flair")


@pytest.mark.parametrize(("precision", "below_8", "below_1"), [(FLOAT16, 0.002, 0.00025), (BFLOAT16, 0.016, 0.002)])
def test_rounding_changes_no_more_than_is_said(precision, below_8, below_1):
    for most, said in ((8.0, below_8), (1.0, below_1)):
        image = np.linspace(-most if most == 8 else 0, most, 200_001, dtype=np.float32)[1:-1, None]
        error = np.abs(as_read(as_written(image, precision)).astype(np.float32) - image).max()
        assert 0.9 * said < error <= said
    assert as_written(image, FLOAT32) is image


@pytest.mark.parametrize("precision", HALVES)
def test_a_cache_of_half_precision_has_the_rounded_images_in_half_the_bytes(tmp_path, precision):
    files = files_on_disk(tmp_path)
    wide, half = (
        prepare([files], BOTH, SCHEME, cache=Shelf(tmp_path / "cache", name))[0] for name in (FLOAT32, precision)
    )
    rounded = wide.image.astype(PRECISIONS[precision])
    assert wide.key != half.key
    assert half.kept_image.dtype == rounded.dtype
    assert half.kept_image.nbytes == wide.kept_image.nbytes // 2
    assert half.image.dtype == np.float32
    np.testing.assert_array_equal(half.image, rounded.astype(np.float32))
    for name in ("label", "tumor", "brain", "beyond"):
        np.testing.assert_array_equal(getattr(half, name), getattr(wide, name))
    assert half.facts == wide.facts
    draws = [Draw(0, (0, 0, 2)), Draw(0, (-1, 0, 5), (0, 2)), Draw(0, (2, -1, 0), (1,))]
    (one, other) = (Assembly([case], (3, 2, 4), 0, 0, True, Buffers()).batch(draws)["image"] for case in (wide, half))
    assert other.dtype == np.float32
    np.testing.assert_array_equal(other, one.astype(rounded.dtype).astype(np.float32))


@pytest.mark.parametrize("precision", HALVES)
def test_slices_and_their_volumes_are_rounded_alike(tmp_path, precision):
    options = {"normalize": NORMALIZATIONS["percentiles"]}
    files = [files_on_disk(tmp_path)]
    wide, half = (
        prepare_slices(files, BOTH, SCHEME, cache=Shelf(tmp_path / "cache", name), **options)["c"]
        for name in (FLOAT32, precision)
    )
    for one, other in zip(wide, half, strict=True):
        np.testing.assert_array_equal(other.image, one.image.astype(PRECISIONS[precision]).astype(np.float32))
    (one,), (other,) = subjects_of(wide), subjects_of(half)
    np.testing.assert_array_equal(other.image, one.image.astype(PRECISIONS[precision]).astype(np.float32))


def test_an_unknown_precision_is_refused():
    refused(
        "data.cache_dtype is 'half'; choose one of float32, float16, bfloat16",
        check_precision,
        "data.cache_dtype",
        "half",
    )
