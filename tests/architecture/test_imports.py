"""The contracts of imports can break, and nothing heavy is loaded before it is needed.

That the contracts hold is what `make check` shows with lint-imports.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
HEAVY = {"torch", "transformers", "vllm", "trl", "peft", "llama_cpp", "fastapi", "datasets"}
CORE_MODULES = sorted(path.stem for path in (ROOT / "potstill").glob("[a-z]*.py"))


def test_the_contracts_can_break(tmp_path):
    intruders = {
        "train": "generate",
        "potstill": "torch",
        "potstill.verdict": "serve",
        "potstill.commands": "potstill.llama.model",
        "compare": "vllm",
        "generate.teachers": "generate.sampling",
        "quantize.conversion": "quantize.verification",
    }
    for package in ("potstill", "generate", "train", "quantize", "serve", "compare"):
        for source in (ROOT / package).rglob("*.py"):
            target = tmp_path / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for package, imported in intruders.items():
        path = tmp_path / package.replace(".", "/") / "intruder.py"
        path.write_text(f"import {imported}\n")
    result = subprocess.run(
        [LINT_IMPORTS, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stdout
    for package, imported in intruders.items():
        assert f"{package}.intruder -> {imported} (l.1)" in result.stdout


def test_nothing_heavy_is_loaded(tmp_path):
    """By the core, by a configuration, by what finds a stage finished, by help, in this order."""
    modules = [f"potstill.{name}" for name in CORE_MODULES if name != "__main__"]
    source = f"""
import sys
from pathlib import Path
import {", ".join(modules)}, train.stage
from potstill.pipeline import Choice, resolve
from potstill.rundir import RunDirectory
assert "serve" in resolve(Choice(preset="general"), RunDirectory(Path({str(tmp_path)!r})))
sys.argv = ["potstill", "--help"]
try:
    potstill.cli.main()
except SystemExit:
    print(*sorted(sys.modules))
"""
    shown = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in shown.stdout.splitlines()[-1].split()}
    assert {"potstill", "serve", "compare"} <= loaded
    assert not loaded & HEAVY
