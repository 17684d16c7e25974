import re
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest

from potstill import doctor
from potstill.cards import Cards
from potstill.errors import TeacherError
from potstill.processor import memory_bytes


@pytest.fixture
def cpuinfo(monkeypatch):
    """Return a function that sets the processor's features."""
    return lambda *names: monkeypatch.setattr(doctor, "features", lambda: frozenset(names))


def test_a_processor_without_bfloat16_gets_advice(cpuinfo):
    cpuinfo("avx2", "avx512f")
    assert "AVX2, AVX-512: bfloat16 is computed" in doctor._processor().line()
    cpuinfo("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    assert doctor._processor().line().startswith("ok  processor: ")


def test_versions_are_compared_with_the_nearest_lock(tmp_path):
    assert "no lock" in doctor._versions(tmp_path).found
    known = metadata.version("pydantic")
    (tmp_path / "cpu.txt").write_text(f"# made by hand\npydantic=={known}\n")
    (tmp_path / "gpu.txt").write_text(
        "pydantic==0.1\nno-such-package==1.0 ; python_version > '3'\n"
    )
    assert doctor._versions(tmp_path).line() == (
        "ok  versions: those of requirements/cpu.txt, which are tested"
    )
    (tmp_path / "cpu.txt").unlink()
    found = doctor._versions(tmp_path)
    assert f"pydantic {known} (tested: 0.1), no-such-package missing" in found.found
    assert found.advice


def test_a_preset_that_does_not_fit_says_so(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 1.0)
    line = doctor._preset("small", None).line()
    assert "choose a smaller preset" in line
    memory = re.search(r"([\d.]+) GB of memory \((.+?)\)", line)
    by_stage = {name: float(size) for name, size in map(str.split, memory[2].split(", "))}
    assert list(by_stage) == ["generate", "train", "quantize", "compare"]
    assert max(by_stage.values()) == float(memory[1])


def test_a_preset_whose_model_is_missing_is_not_estimated(monkeypatch):
    def fail(*_):
        raise TeacherError("the model is not here", found="its/name", hint="fetch it")

    monkeypatch.setattr(doctor, "estimate", fail)
    line = doctor._preset("small", None).line()
    assert line.startswith("->  preset small: not estimated, the model is not here: fetch it")


@pytest.mark.parametrize(
    ("name", "here", "advice"),
    [
        ("gpu-8", None, "for a machine with 8 x H100; here are no such GPUs"),
        ("gpu-8", Cards("H100", 2), "generate is configured for 8 cards, found 2"),
        ("gpu-8", Cards("RTX 4090", 8), "generate does not fit: "),
        ("gpu-2x8", Cards("H100", 8), "generate is configured for 16 cards, found 8"),
        ("gpu", Cards("L4", 1), "generate does not fit: "),
        ("gpu-8", Cards("H100", 8), None),
        ("gpu", Cards("A100 80GB", 1), None),
        ("gpu-24gb", Cards("L4", 1), None),
        ("small", Cards("L4", 1), None),
    ],
)
def test_a_preset_for_gpus_is_held_against_those_of_this_machine(name, here, advice, monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 1e12)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e13))
    line = doctor._preset(name, here).line()
    assert "GB on each of " in line
    if advice is None:
        assert line.startswith(f"ok  preset {name}: fits, about ")
        assert "(generate " in line
    else:
        assert line.startswith(f"->  preset {name}: about ")
        assert advice in line


def test_a_broken_driver_is_no_crash(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(subprocess, "run", fail)
    assert doctor._cards().advice == "repair the driver"


def test_memory_and_disk_are_of_this_machine(tmp_path):
    assert 0 < doctor.free_memory() <= memory_bytes()
    assert str(tmp_path / "not" / "yet") in doctor._disk("here", tmp_path / "not" / "yet").found
