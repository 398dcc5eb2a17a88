"""Matrix products in place of a convolution and its gradients: against XLA's own, at odd sides and strides."""

import re

import jax
import numpy as np
import pytest

from jaxfuse.nn import conv_forms
from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.conv_rule import native, transposed_in_image, transposed_in_kernel
from tests.tiny_systems import close

# With which numbers of axes taken each can be computed: strides need all of them.
WINDOWS = [
    (Window((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1)), (0, 1, 2, 3)),
    (Window((5, 4, 6), (3, 2, 3), (1, 1, 1), (0, 1, 0)), (0, 1, 2, 3)),
    (Window((2, 2, 2), (3, 3, 3), (1, 1, 1), (1, 1, 1)), (0, 1, 2, 3)),
    (Window((7, 6), (3, 3), (1, 1), (1, 1)), (0, 1, 2)),
    (Window((7, 5, 6), (4, 3, 3), (2, 1, 3), (1, 0, 1)), (3,)),
]


def _drawn(window, channels=3, features=2, batch=2):
    rng = np.random.default_rng(0)
    shapes = (batch, *window.sides, channels), (*window.size, channels, features), (batch, *window.out, features)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def _all_three(window, taken, **shared):
    """The convolution and its two gradients as far as this number of axes permits."""

    def run(x, kernel, y):
        made = [conv_forms.convolve(x, kernel, window, taken, **shared)]
        made += [conv_forms.kernel_gradient(x, y, window, taken, **shared)]
        strided = max(window.strides) > 1
        return made if strided else [*made, conv_forms.input_gradient(y, kernel, window, taken, **shared)]

    return run


def _expected(window):
    def run(x, kernel, y):
        made = [native(x, kernel, window), transposed_in_kernel(native, x, y, window)]
        return made if max(window.strides) > 1 else [*made, transposed_in_image(native, y, kernel, window)]

    return run


@pytest.mark.parametrize("slab_bytes", [conv_forms.SLAB_BYTES, 700])
@pytest.mark.parametrize(("window", "takens"), WINDOWS)
def test_all_forms_equal_the_native_one(monkeypatch, window, takens, slab_bytes):
    monkeypatch.setattr(conv_forms, "SLAB_BYTES", slab_bytes)
    arrays = _drawn(window)
    expected = jax.jit(_expected(window))(*arrays)
    found = jax.jit(lambda *a: [_all_three(window, taken)(*a) for taken in takens])(*arrays)
    for one in found:
        close(expected, one, 1e-5)


@pytest.mark.parametrize("taken", [1, 3])
def test_slabs_of_a_shared_batch_are_side_by_side(monkeypatch, taken):
    """No slice in them is along the examples, which lie on several devices."""
    monkeypatch.setattr(conv_forms, "SLAB_BYTES", 700)
    window, arrays = WINDOWS[0][0], _drawn(WINDOWS[0][0])
    run = _all_three(window, taken, shared=True)
    close(jax.jit(_expected(window))(*arrays), jax.jit(run)(*arrays), 1e-5)
    slices = re.findall(r"dynamic_slice\[slice_sizes=\((\d+),", str(jax.make_jaxpr(run)(*arrays)))
    assert set(slices) == {str(len(arrays[0]))}


@pytest.mark.parametrize("window", [window for window, _ in WINDOWS])
def test_scattered_is_the_gradient_of_the_image_for_any_strides(window):
    _, kernel, y = _drawn(window)
    found = jax.jit(lambda y, kernel: conv_forms.scattered(y, kernel, window))(y, kernel)
    close(jax.jit(lambda y, kernel: transposed_in_image(native, y, kernel, window))(y, kernel), found, 1e-5)


def test_slabs_are_loops_over_what_fits_the_cache(monkeypatch):
    window = WINDOWS[0][0]
    arrays = _drawn(window)

    def loops(slab_bytes):
        monkeypatch.setattr(conv_forms, "SLAB_BYTES", slab_bytes)
        return str(jax.make_jaxpr(_all_three(window, 1))(*arrays)).count("while[") + str(
            jax.make_jaxpr(_all_three(window, 1))(*arrays)
        ).count("scan[")

    assert (loops(conv_forms.SLAB_BYTES), loops(700)) == (0, 3)


def test_window_tells_the_sides_of_the_result_and_of_the_way_back():
    window = Window((7, 5), (3, 4), (1, 1), (1, 0))
    assert window.out == (7, 2)
    assert window.backward.out == window.sides
    assert Window((7, 6), (3, 3), (2, 2), (1, 1)).out == (4, 3)
