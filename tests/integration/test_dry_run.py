"""`potstill run --dry-run` where only the package is installed, without any stage's extra."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {"llama-cpp-python": "llama_cpp", "scikit-learn": "sklearn", "protobuf": "google"}
PROGRAM = """
import sys
from importlib import metadata
from importlib.machinery import PathFinder

ABSENT, version = set(sys.argv[1].split()), metadata.version

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_absent = name.partition(".")[0] in ABSENT
        return None if is_absent else super().find_spec(name, path, target)

def known(name):
    if name.replace("-", "_") in ABSENT or name == "llama-cpp-python":
        raise metadata.PackageNotFoundError(name)
    return version(name)

sys.meta_path = [Others if one is PathFinder else one for one in sys.meta_path]
metadata.version = known
sys.argv = ["potstill", *sys.argv[2:]]
from potstill.cli import main
main()
"""


def names(requirements: list[str]) -> set[str]:
    given = {one.partition(">")[0].partition("[")[0] for one in requirements}
    return {MODULES.get(name, name.replace("-", "_")) for name in given}


@pytest.mark.parametrize("preset", ["gpu", "gpu-8"])
def test_a_preset_for_gpus_is_estimated_with_nothing_but_the_package(preset, tmp_path, monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set().union(*map(names, project["optional-dependencies"].values()))
    absent = extras - names(project["dependencies"]) - {"potstill", "typing_extensions"}
    # What pydantic and the hub's client need themselves.
    absent -= {"pydantic_core", "fsspec", "httpx2"}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    command = [sys.executable, "-c", PROGRAM, " ".join(absent)]
    done = subprocess.run(
        [*command, "run", str(tmp_path / "run"), f"--preset={preset}", "--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"torch", "openai", "rensa", "llama_cpp", "transformers"} <= absent
    rows = [list(map(str.strip, line.split("│"))) for line in done.stdout.splitlines()]
    cells = {row[0]: row for row in rows if len(row) > 1}
    for stage in ("generate", "train"):
        _, _, minutes, _, _, on_each_card = cells[stage]
        assert float(minutes) > 1
        assert on_each_card.endswith(" GB")
