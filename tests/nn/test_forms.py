"""Forms that do not exist are refused with the option, its value and what it may be."""

from types import SimpleNamespace

from jaxfuse.nn.forms import check_choices, check_least
from tests.refusals import refused


def test_values_are_checked_option_by_option():
    form = SimpleNamespace(kind="early", kernel=3, width=0)
    check_choices(form, {"kind": ("early", "late"), "kernel": (1, 3)})
    check_least(form, {"kernel": 3, "width": 0})
    refused("^kind is 'early'; choose one of late, 1$", check_choices, form, {"kernel": (1, 3), "kind": ("late", 1)})
    refused("^width is 0; give at least 1$", check_least, form, {"kernel": 1, "width": 1})
