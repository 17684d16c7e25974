"""The locks for NVIDIA GPUs, resolved again on this machine, which installs none of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.nightly
def test_the_locks_for_gpus_still_resolve(tmp_path):
    names = ["cuda12.txt", "cuda13.txt"]
    for name in names:
        shutil.copy(ROOT / "requirements" / name, tmp_path)
    subprocess.run([ROOT / "scripts/lock", tmp_path], check=True)
    for name in names:
        committed = (ROOT / "requirements" / name).read_text()
        assert (tmp_path / name).read_text() == committed, "run scripts/lock"
