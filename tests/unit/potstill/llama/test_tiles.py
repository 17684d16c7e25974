import pytest

from potstill.llama import tiles
from potstill.llama.tiles import multiplies_on_tiles, tiles_work
from potstill.processor import has_amx
from tests.fixtures.tiny_gguf import write_tiny_gguf

SERVICES = """
import os, signal


def crashes():
    return lambda _: os.kill(os.getpid(), signal.SIGSEGV)


def errs():
    return lambda _: b"false"


def multiplies():
    return lambda _: b"true"
"""


@pytest.fixture(autouse=True)
def _not_asked_before():
    tiles_work.cache_clear()
    yield
    tiles_work.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("service", "expected"), [("crashes", False), ("errs", False), ("multiplies", True)]
)
def test_a_build_whose_product_is_wrong_or_crashes_uses_no_tiles(
    tmp_path, monkeypatch, service, expected
):
    (tmp_path / "tile_services.py").write_text(SERVICES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tiles, "has_tiles", lambda: True)
    monkeypatch.setattr(tiles, "SERVICE", f"tile_services:{service}")
    assert tiles_work() is expected


def test_a_processor_without_tiles_is_not_tried(monkeypatch):
    monkeypatch.setattr(tiles, "has_tiles", lambda: False)
    monkeypatch.setattr(tiles, "Worker", None)
    assert not tiles_work()


@pytest.mark.slow
@pytest.mark.skipif(not has_amx(), reason="the processor has no AMX")
def test_llama_cpp_as_set_up_compiles_it_multiplies_on_tiles():
    assert tiles_work()


@pytest.mark.parametrize(("width", "expected"), [(32, False), (64, True)])
def test_rows_of_a_single_block_are_not_multiplied_on_tiles(tmp_path, monkeypatch, width, expected):
    monkeypatch.setattr(tiles, "tiles_work", lambda: True)
    write_tiny_gguf(tmp_path / "tiny.gguf", width=width)
    assert multiplies_on_tiles(tmp_path / "tiny.gguf") is expected


def test_a_damaged_file_uses_no_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles, "tiles_work", lambda: True)
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF")
    assert not multiplies_on_tiles(tmp_path / "damaged.gguf")
