"""Label schemes: those that are known by name, and those that data write themselves."""

import pytest

from jaxfuse.labels import IGNORED, SCHEMES, label_scheme, written_scheme
from tests.refusals import refused


def test_a_written_scheme_says_all_of_itself():
    made = written_scheme({"gray, left": [3], "background": [0, 9], "white": [1, 2]}, {"brain": [1, 2, 3]})
    assert made.name == "background=9,white=1+2,gray left=3;brain=1+2+3"
    assert (made.classes, made.encode) == (("background", "white", "gray left"), {0: 0, 9: 0, 1: 1, 2: 1, 3: 2})
    assert (made.decode, made.regions) == ((0, 1, 3), {"brain": (1, 2)})
    assert label_scheme(made.name) == made


def test_each_class_is_scored_where_no_region_is_named():
    assert label_scheme("b=2, a = 1").regions == {"a": (1,), "b": (2,)}


@pytest.mark.parametrize(
    ("classes", "regions", "name"),
    [
        ({"background": [0], "edema": [1], "non-enhancing tumor": [2], "enhancing tumo\u0075r": [3]}, {}, "decathlon"),
        ({"NCR": [1], "ED": [2], "ET": [4]}, {}, "brats"),
        ({"a": [1], "b": [2], "c": [3]}, {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "ET": [3]}, "decathlon"),
        ({"a": [1], "b": [2], "c": [3]}, {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}, "brats2023"),
    ],
)
def test_gliomas_are_recognized_by_their_names(classes, regions, name):
    assert written_scheme(classes, regions) == SCHEMES[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edema=1,core", "has 'core'; classes are written with their file values"),
        ("edema=1,edema=2", "each once"),
        ("edema=one", "has 'edema=one'"),
        ("background=0", "no class besides the background"),
        ("edema=1,core=1", "gives one value to two classes"),
        ("edema=0", "gives one value to two classes"),
        ("edema=256", "beyond 0 to 255"),
        ("edema=1,ignore=1", "gives one value to two classes"),
        ("edema=1,ignore=0", "gives one value to ignore and to the background"),
        ("edema=1,ignore=300", "beyond 0 to 255"),
        (",".join(f"c{value}={value}" for value in range(1, 256)), "has more than 254 classes"),
        ("edema=1;whole=1+2", "unites the value 2, which no class has"),
        ("edema", "label scheme 'edema' is not known; choose one of brats, .*or write one"),
    ],
)
def test_what_is_no_scheme_is_refused(text, message):
    refused(message, label_scheme, text)


def test_ignored_values_are_of_no_class():
    scheme = label_scheme("edema=1,core=2,ignore=3+9")
    assert (scheme.classes, scheme.decode) == (("background", "edema", "core"), (0, 1, 2))
    assert scheme.encode == {0: 0, 1: 1, 2: 2, 3: IGNORED, 9: IGNORED}
    assert (scheme.regions, scheme.unknown([3, 4])) == ({"edema": (1,), "core": (2,)}, [4])
    assert label_scheme(scheme.name) == scheme
    gliomas = label_scheme("NCR=1,ED=2,ET=4,ignore=7")
    assert (gliomas.classes, gliomas.regions) == (SCHEMES["brats"].classes, SCHEMES["brats"].regions)
    assert gliomas.encode == {**SCHEMES["brats"].encode, 7: IGNORED}
    assert label_scheme(gliomas.name) == gliomas
