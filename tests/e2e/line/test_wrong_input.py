"""Wrong input, damage and full disks: one clear error, a hint, and nothing that looks finished."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from potstill.rundir import RunDirectory
from tests.fixtures.disks import tiny_disk
from tests.fixtures.served import Server, run_of_gguf

from .conftest import potstill

__all__ = ["tiny_disk"]


def refused(result, exit_code, *texts):
    assert result.returncode == exit_code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1, result.stderr
    for text in texts:
        assert text in result.stderr


def test_missing_file_of_prompts(tmp_path):
    path = tmp_path / "absent.jsonl"
    result = potstill("generate", tmp_path / "run", f"--set=generate.prompts.path={path}")
    refused(result, 2, "cannot be read", str(path), "hint:")


def test_broken_row(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"\n')
    result = potstill("run", tmp_path / "run", f"--set=generate.prompts.path={path}")
    refused(result, 1, f"{path}, line 2", "not JSON", "hint:")
    assert not (tmp_path / "run" / "prompts").exists()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--set=train.learning_rat=1", "did you mean 'learning_rate'?"),
        ("--set=tain.seed=1", "unknown table [tain]"),
        ("--set=train.seed", "a.b=c"),
        ("--set=train.kd.weight=2", "train.kd.weight"),
        ("--preset=general2", "did you mean 'general'?"),
        ("--config=absent.toml", "absent.toml"),
    ],
)
def test_wrong_configuration(tmp_path, option, text):
    refused(potstill("run", tmp_path / "run", option), 2, text)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_does_not_exist(tmp_path):
    result = potstill(
        "generate", tmp_path / "run", "--set=generate.teacher.model=./absent", HF_HUB_OFFLINE="1"
    )
    refused(result, 1, "./absent", "hint:")


@pytest.fixture
def copied_run(line, tmp_path) -> RunDirectory:
    """The finished run again; its files are links until `damage` replaces one."""
    target = tmp_path / "copy"
    shutil.copytree(line.run_directory.root, target, copy_function=os.link)
    return RunDirectory(target)


def damage(path):
    """Flip one bit in the middle of a file, in a copy of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("stage", "name", "command", "exit_code"),
    [
        ("prompts", "prompts.parquet", "generate", 1),
        ("samples", "part-00000.parquet", "generate", 1),
        ("conversations", "train-00000.parquet", "train", 1),
        ("student", "model.safetensors", "quantize", 1),
        ("gguf", "student-Q4_K_M.gguf", "compare", 70),
        ("gguf", "student-Q4_K_M.gguf", "serve", 1),
    ],
)
def test_one_flipped_bit(copied_run, stage, name, command, exit_code):
    path = copied_run.stage_dir(stage) / name
    damage(path)
    result = potstill(command, copied_run.root)
    refused(result, exit_code, "changed or damaged", str(path), "hint:")


def test_a_student_with_another_tokenizer(copied_run, tiny_teacher_dir, tmp_path):
    other = shutil.copytree(tiny_teacher_dir, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["added_tokens"] = content["added_tokens"][1:]
    (other / "tokenizer.json").write_text(json.dumps(content))
    student = f"--set=train.student.checkpoint={other}"
    result = potstill("train", copied_run.root, student, "--force")
    refused(result, 1, "another tokenizer", str(other), "hint:")
    assert not copied_run.is_finished("student")
    assert copied_run.replaced_dir("student").is_dir(), "the former student is kept"


def test_another_configuration_needs_force(copied_run):
    result = potstill("train", copied_run.root, "--set=train.learning_rate=0.1")
    refused(result, 1, "student.learning_rate = 0.1", "--force")
    assert copied_run.is_finished("student")


def test_a_full_disk_while_the_teacher_answers(tiny_disk, tiny_gguf, teacher_dir, tmp_path):
    """The teacher answers through a server: which kind it is makes no difference to the disk."""
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"What is {n} + 1?"}) + "\n" for n in range(16)))
    server = Server(run_of_gguf(tmp_path / "served", tiny_gguf), tmp_path / "log", key=None)
    run_dir = tiny_disk(1 << 16) / "run"
    settings = {
        "prompts.path": path,
        "teacher.model": teacher_dir,
        "teacher.endpoint.base_url": server.url,
        "teacher.endpoint.model": "student",
        "sampling.top_logprobs": 20,
    }
    options = [f"--set=generate.{name}={value}" for name, value in settings.items()]
    result = potstill("generate", run_dir, "--preset=small", *options)
    server.stop()
    refused(result, 1, "No space left on device", "hint:")
    assert RunDirectory(run_dir).is_finished("prompts")
    assert not RunDirectory(run_dir).is_finished("samples")
