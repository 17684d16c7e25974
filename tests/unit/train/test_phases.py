import importlib
import subprocess
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


@pytest.mark.slow
def test_the_trainers_of_trl_are_imported_without_vllm():
    script = (
        "import sys; from train.phases import absent\n"
        "with absent('vllm'): import train.on_policy.trainers\n"
        "sys.exit('vllm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
