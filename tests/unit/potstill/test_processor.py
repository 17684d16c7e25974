import pytest

from potstill import processor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile amx_int8\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_matrix_tiles_are_found_where_linux_names_them(tmp_path, monkeypatch, text, expected):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(processor, "CPUINFO_PATH", path)
    processor.features.cache_clear()
    assert processor.has_amx() is expected
    processor.features.cache_clear()


def test_a_system_that_names_no_processors_of_a_process_gives_all(monkeypatch):
    """As macOS does."""
    monkeypatch.delattr(processor.os, "sched_getaffinity")
    monkeypatch.setattr(processor.os, "cpu_count", lambda: 10)
    assert processor.usable_cpus() == frozenset(range(10))
    assert processor.usable_threads() == processor.usable_threads(0) == 10
    assert processor.usable_threads(3) == 3
