"""Whole runs of the stage on tiny random models: other settings, kills, damage."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill.errors import PotstillError
from potstill.facts.student import QuantizationAware
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from quantize.config import QuantizeConfig
from quantize.file_maker import FileMaker
from quantize.stage import run

CONFIG = QuantizeConfig(
    types=("F16", "Q4_K_M"), teacher_types=("Q8_0",), verification_tokens=40, num_threads=1
)
STUDENT_ONLY = {"teacher_types": ()}


def test_types_and_recommendation_follow_the_configuration(tiny_quantize_run):
    changes = STUDENT_ONLY | {"types": ("Q6_K", "Q8_0"), "recommended": "Q8_0"}
    manifest = run(CONFIG.model_copy(update=changes), tiny_quantize_run)
    assert [file.name for file in manifest.facts.files] == ["student-Q6_K", "student-Q8_0"]
    assert manifest.facts.recommended == "student-Q8_0"
    assert [file.imatrix for file in manifest.facts.files] == [False, False]
    for unwanted in ("*F16*", "*.imatrix.gguf"):
        assert not list(tiny_quantize_run.stage_dir("gguf").rglob(unwanted))


def test_verified_files_are_kept_and_damaged_ones_made_again(tiny_quantize_run, monkeypatch):
    made: list[str] = []
    interrupted: list[str] = []
    make_file = FileMaker.make

    def count(maker, name, path):
        if path.name == "student-Q6_K.gguf" and not interrupted:
            interrupted.append(path.name)
            raise KeyboardInterrupt
        facts = make_file(maker, name, path)
        made.append(path.name)
        return facts

    monkeypatch.setattr(FileMaker, "make", count)
    config = CONFIG.model_copy(update=STUDENT_ONLY | {"types": ("F16", "Q8_0", "Q6_K")})
    with pytest.raises(KeyboardInterrupt):
        run(config, tiny_quantize_run)
    assert made == ["student-F16.gguf", "student-Q8_0.gguf"]
    damaged = tiny_quantize_run.partial_dir("gguf") / "student-Q8_0.gguf"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    run(config, tiny_quantize_run)
    assert made[2:] == ["student-Q8_0.gguf", "student-Q6_K.gguf"]


def test_a_killed_run_is_resumed_and_its_files_verify(tiny_quantize_run):
    config = CONFIG.model_copy(update=STUDENT_ONLY)
    script = (
        "from pathlib import Path; from potstill.rundir import RunDirectory;"
        "from quantize.config import QuantizeConfig; from quantize.stage import run;"
        f"run(QuantizeConfig.model_validate({config.to_json()!r}),"
        f" RunDirectory(Path({str(tiny_quantize_run.root)!r})))"
    )
    first = tiny_quantize_run.partial_dir("gguf") / "student-F16.gguf"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert first.exists()
    assert not tiny_quantize_run.is_finished("gguf")
    run(config, tiny_quantize_run)
    verify_manifest(tiny_quantize_run.stage_dir("gguf"))
    names = {path.name for path in tiny_quantize_run.stage_dir("gguf").iterdir()}
    assert not any(name.endswith(".tmp") for name in names)


@pytest.mark.usefixtures("one_thread", "few_candidates")
def test_a_size_gets_a_mix_with_its_facts(tiny_quantize_run):
    changes = STUDENT_ONLY | {"types": ("Q4_0",), "target_megabytes": (0.28,)}
    manifest = run(CONFIG.model_copy(update=changes), tiny_quantize_run)
    stock, mix = manifest.facts.files
    assert (mix.name, mix.type) == ("student-0.28MB", "0.28MB")
    assert mix.bytes <= 280_000
    assert mix.mix.target_bytes == 280_000
    assert set(mix.mix.types) >= {"token_embd", "attn_q", "ffn_down"}
    assert 0 < mix.kl_to_checkpoint_nats < stock.kl_to_checkpoint_nats + 1.0
    assert (tiny_quantize_run.stage_dir("gguf") / "student.imatrix.gguf").is_file()


@pytest.mark.usefixtures("one_thread")
def test_a_student_trained_for_a_type_gets_it_without_an_importance_matrix(
    make_checkpoint, make_run
):
    student = make_checkpoint("student", num_hidden_layers=1)
    aware = QuantizationAware(type="Q4_0", kl_nats_plain=0.2, kl_nats_aware=0.1)
    tiny_run = make_run(student, student, quantization_aware=aware)
    config = CONFIG.model_copy(update=STUDENT_ONLY | {"types": ("Q5_1",)})
    files = {file.type: file for file in run(config, tiny_run).facts.files}
    assert {name: file.imatrix for name, file in files.items()} == {"Q5_1": True, "Q4_0": False}


@pytest.mark.usefixtures("one_thread")
def test_a_damaged_importance_matrix_is_computed_again(tiny_quantize_run, monkeypatch):
    config = CONFIG.model_copy(update=STUDENT_ONLY | {"types": ("Q4_0", "Q5_0")})
    make_file = FileMaker.make

    def interrupted(maker, name, path):
        if name == "Q5_0":
            raise KeyboardInterrupt
        return make_file(maker, name, path)

    monkeypatch.setattr(FileMaker, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tiny_quantize_run)
    monkeypatch.setattr(FileMaker, "make", make_file)
    path = tiny_quantize_run.partial_dir("gguf") / "student.imatrix.gguf"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes(100))
    run(config, tiny_quantize_run)
    assert (tiny_quantize_run.stage_dir("gguf") / path.name).read_bytes() == whole


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("spare_bytes", [128 << 10, 384 << 10], ids=["F16", "verification"])
def test_a_full_disk_is_one_clear_error(tiny_quantize_run, tiny_disk, spare_bytes):
    root = tiny_quantize_run.root
    used = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    target = tiny_disk(used + spare_bytes) / "run"
    shutil.copytree(root, target)
    with pytest.raises(PotstillError) as caught:
        run(CONFIG.model_copy(update=STUDENT_ONLY), RunDirectory(target))
    assert "\n  hint: free disk space" in str(caught.value)
    assert not RunDirectory(target).is_finished("gguf")
