import sys

import pytest

from generate.curation.config import CurationConfig
from generate.curation.registry import make_filters
from potstill.errors import ConfigError

KNOWN = {"length": lambda config: config.min_prompt_characters, "language": lambda _config: 2}

MODULE = """
class Shouting:
    def __init__(self, config):
        self.name = "shouting"
        self.longest = config.max_prompt_characters

    def judge(self, text):
        return "it shouts" if text.isupper() else None

class Namesake(Shouting):
    def __init__(self, config):
        self.name = "length"

not_callable = 3
def without_judge(config):
    return object()
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "house_filters.py").write_text(MODULE)
    (tmp_path / "broken_filters.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("house_filters", None)


def make(*names: str) -> dict[str, object]:
    config = CurationConfig(prompt_filters=names, max_prompt_characters=7)
    return make_filters("prompt_filters", config, KNOWN, lambda own: own)


def test_filters_keep_the_order_of_the_configuration():
    assert list(make("language", "length").items()) == [("language", 2), ("length", 1)]


@pytest.mark.usefixtures("own_module")
def test_a_filter_of_ones_own_is_made_from_the_table():
    filters = make("house_filters:Shouting", "length")

    assert list(filters) == ["shouting", "length"]
    assert filters["shouting"].longest == 7
    assert filters["shouting"].judge("WHY") == "it shouts"


def test_unknown_names_are_refused_with_those_that_are_known():
    with pytest.raises(ConfigError) as refusal:
        make("length", "lenght")

    assert refusal.value.found == "lenght"
    assert refusal.value.where == "generate.curation.prompt_filters"
    assert refusal.value.expected.startswith("language, length")


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("no_such_module:f",), "no_such_module"),
        (("broken_filters:f",), "no_such_module_at_all"),
        (("house_filters:missing",), "missing"),
        (("house_filters:without_judge",), "object object"),
        (("house_filters:not_callable",), "3"),
        ((":f",), "Empty module name"),
        (("length", "length"), "length"),
        (("house_filters:Namesake",), "length"),
        (("house_filters:Shouting", "house_filters:Shouting"), "shouting"),
    ],
)
def test_what_is_no_filter_is_refused(names, found):
    with pytest.raises(ConfigError) as refusal:
        make(*names)

    assert found in str(refusal.value.found)
