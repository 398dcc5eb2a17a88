"""Convolutions by oneDNN within compiled programs, beside XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfuse.nn.conv_forms import Window
from jaxfuse.nn.conv_rule import native, transposed_in_image, transposed_in_kernel
from jaxfuse.nn.onednn import convolutions
from tests.tiny_systems import close

WINDOWS = [
    Window((6, 5, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    Window((7, 6, 5), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
    Window((9, 8), (3, 4), (1, 2), (0, 1)),
]


def test_it_is_not_available_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(convolutions, "installed", lambda: None)
    assert not convolutions.available.__wrapped__()


def test_it_is_not_available_where_its_file_cannot_be_loaded(monkeypatch, tmp_path):
    file = tmp_path / "libdnnl.so.3"
    file.write_text("no library")
    monkeypatch.setattr(convolutions, "installed", lambda: file)
    assert not convolutions.available.__wrapped__()


@pytest.mark.skipif(not convolutions.available(), reason='needs pip install "jaxfuse[onednn]"')
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [(3, 2), (16, 32)])
def test_a_convolution_and_its_gradients_are_those_of_xla(window, channels):
    rng = np.random.default_rng(0)
    shapes = (2, *window.sides, channels[0]), (*window.size, *channels), (2, *window.out, channels[1])
    x, kernel, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    place = {"strides": window.strides, "padding": window.padding, "groups": (1,)}
    found = jax.jit(
        lambda: (
            convolutions.result(x, kernel, shapes[2], **place),
            convolutions.image(y, kernel, shapes[0], **place),
            convolutions.kernel(x, y, shapes[1], **place),
        )
    )()
    gradients = transposed_in_image(native, y, kernel, window), transposed_in_kernel(native, x, y, window)
    close((native(x, kernel, window), *gradients), found, 1e-5)
