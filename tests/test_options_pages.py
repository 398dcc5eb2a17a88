"""The reference of options: every option of every call of every recipe is in it, with type, default and meaning."""

import pytest

from tests.options_pages import BY_RECIPE, OWN, SHARED, by_recipe_page, own_options, rows_of, settings, shared_page
from tests.recipe_phases import RECIPES, arguments

LISTED = {name for names, _ in rows_of(SHARED.read_text(encoding="utf-8")) for name in names}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_every_call_is_in_the_reference(recipe):
    own = {name for name in own_options(recipe) if OWN.match(name)}
    found = {one.option for text in arguments(recipe) for one in settings(recipe, text)}
    assert sorted(found - own - LISTED) == []


def test_the_pages_are_those_of_the_recipes():
    page = SHARED.read_text(encoding="utf-8")
    assert page == shared_page(page), "run python -m tests.options_pages"
    assert BY_RECIPE.read_text(encoding="utf-8") == by_recipe_page(), "run python -m tests.options_pages"


def test_every_option_has_a_type_a_default_and_a_meaning():
    for page in (SHARED, BY_RECIPE):
        rows = [line.split(" | ") for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
        assert len(rows) > 100
        assert [row for row in rows if not all(cell.strip(" |") for cell in row) or len(row) < 4] == []


def test_a_phase_with_data_of_its_own_has_the_options_of_data():
    config = RECIPES["cmff"].get_config()
    assert {f"data.{name}" for name in config.transition.data if name != "phantom"} <= LISTED
