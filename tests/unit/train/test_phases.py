import importlib
import sys

import pytest

from train.phases import absent


def test_a_package_is_absent_in_the_block_and_found_after_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with absent("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
    assert importlib.import_module("colorsys") is sys.modules["colorsys"]


def test_a_package_that_is_imported_already_stays():
    with absent("json"):
        assert importlib.import_module("json") is sys.modules["json"]
