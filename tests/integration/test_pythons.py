"""Versions of Python that the tests do not run on: potstill is installed there, and imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv" / "bin" / "uv"
WHEELS = ROOT / ".venv" / "wheels"
"""Where scripts/setup keeps the llama.cpp that it has compiled, which is for any Python."""
IMPORT_ALL = """
import importlib, pkgutil, sys, warnings
names = sys.argv[1:]
own = rf"({'|'.join(names)})(\\.|$)"
warnings.filterwarnings("error", category=SyntaxWarning)
warnings.filterwarnings("error", category=DeprecationWarning, module=own)
found = 0
for name in names:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        # A program, and what needs PyTorch.
        if module.name not in ("potstill.__main__", "potstill.llama.dequantize"):
            importlib.import_module(module.name)
            found += 1
print(found)
"""


def interpreter(version: str) -> str:
    """Return a Python of a version, on the path or of pyenv's; skip the test without one."""
    known = [shutil.which(f"python{version}")]
    known += sorted(map(str, (Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python")))
    for path in filter(None, known):
        asked = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", asked], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return path
    pytest.skip(f"python{version} is missing, on the path and among pyenv's")


@pytest.mark.nightly
@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_a_server_and_a_comparison_are_installed_and_imported(version, tmp_path):
    """The other stages need PyTorch, whose builds take gigabytes: docs/how-to/platforms.md."""
    python = tmp_path / "venv" / "bin" / "python"
    environment = {**os.environ, "PYTHONPATH": ""}

    def run(*command):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(UV, "venv", "--python", interpreter(version), tmp_path / "venv")
    tested = ["-c", ROOT / "requirements/cpu.txt", "--find-links", WHEELS]
    run(UV, "pip", "install", "--python", python, f"{ROOT}[compare]", *tested)
    packages = ("potstill", "serve", "compare")
    assert int(run(python, "-c", IMPORT_ALL, *packages)) > 200
    assert "serve" in run(python, "-m", "potstill", "--help")
