"""What scripts/setup does on other machines, by the script itself with their programs imitated."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
echo "${CMAKE_ARGS:-} $*" >> "$LOG"
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""
SYSTEM_DIRS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
PROGRAMS = {
    "uname": 'if [[ ${1:-} == -m ]]; then echo "$MACHINE"; else echo "$SYSTEM"; fi',
    "xcode-select": 'exit "${XCODE:-0}"',
    "nproc": "exit 127",
    "sysctl": "echo 8",
    "nvidia-smi": 'echo "| Driver Version: 580.65  CUDA Version: 13.0 |"; [[ $SYSTEM == Linux ]]',
}


@pytest.fixture
def set_up(tmp_path):
    """Return a function that runs the script; it returns its result and what Python was asked."""
    for name in ("scripts/setup", "requirements"):
        source, target = ROOT / name, tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "log"
    log.touch()

    def run(*more, **environment):
        texts = PROGRAMS | dict.fromkeys(more, "exit 0")
        texts = {name: f"#!/usr/bin/env bash\n{text}\n" for name, text in texts.items()}
        for name, text in {**texts, "python3": PYTHON}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        path = os.pathsep.join((str(programs), *SYSTEM_DIRS))
        known = {**os.environ, "PATH": path, "LOG": str(log), "PYTHON": ""}
        known |= {"MACHINE": "arm64", "SYSTEM": "Darwin"}
        known.pop("CMAKE_ARGS", None)
        done = subprocess.run(
            [tmp_path / "checkout" / "scripts" / "setup"],
            env=known | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, log.read_text().splitlines()

    return run


def test_llama_cpp_is_built_for_metal_and_vllm_left_out(set_up):
    done, asked = set_up()
    assert done.returncode == 0, done.stderr
    built = next(line for line in asked if " wheel " in line)
    assert built.startswith("-DGGML_METAL=on ")
    assert built.endswith(" -r requirements/hashed/llama-cpp.txt")
    installed = [line for line in asked if " install " in line]
    wheel, *others = [line.split()[-1] for line in installed]
    assert "llama_cpp_python" in wheel
    assert others == ["requirements/hashed/macos.txt", "."]
    assert "vllm" not in (ROOT / "requirements/macos.txt").read_text().split("\n", 1)[1]


def test_flags_of_the_users_own_are_kept(set_up):
    _, asked = set_up(CMAKE_ARGS="-DGGML_METAL=off")
    assert next(line for line in asked if " wheel " in line).startswith("-DGGML_METAL=off ")


@pytest.mark.parametrize(
    ("environment", "hint"),
    [({"MACHINE": "x86_64"}, "Apple silicon"), ({"XCODE": "2"}, "xcode-select --install")],
)
def test_a_mac_that_cannot_build_is_refused_before_anything_is_installed(set_up, environment, hint):
    done, asked = set_up(**environment)
    assert done.returncode == 1
    assert hint in done.stderr
    assert not [line for line in asked if "pip" in line]


@pytest.mark.parametrize(("compilers", "flags"), [(["nvcc"], "-DGGML_CUDA=on"), ([], "")])
def test_llama_cpp_is_built_for_an_nvidia_gpu_where_its_compiler_is(set_up, compilers, flags):
    if not compilers and shutil.which("nvcc", path=os.pathsep.join(SYSTEM_DIRS)):
        pytest.skip("this machine has nvcc")
    done, asked = set_up(*compilers, SYSTEM="Linux")
    assert done.returncode == 0, done.stderr
    built = next(line for line in asked if " wheel " in line)
    assert built.split("-m pip")[0].strip() == flags
    assert any(line.endswith(" -r requirements/hashed/cuda13.txt") for line in asked)
