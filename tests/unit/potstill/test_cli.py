"""The command line as a user meets it: processes, exit codes, stdout and stderr."""

import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from potstill.cli import VERBS
from potstill.config import preset_names
from potstill.rundir import RunDirectory
from tests.fixtures.facts import prompts_facts

ROOT = Path(__file__).parents[3]

WITH_A_FAKE_ROOM = """
import sys
from types import ModuleType

def run(table, run_directory):
{body}

module = ModuleType("train.stage")
module.run = run
sys.modules["train.stage"] = module

from potstill.cli import main
main()
"""


def potstill(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "potstill", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def fake_train(body: str, *arguments: object) -> list[str]:
    """Return a command that is potstill with another train stage."""
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    source = WITH_A_FAKE_ROOM.format(body=indented)
    return [sys.executable, "-c", source, *map(str, arguments)]


def train(body: str, *arguments: object) -> subprocess.CompletedProcess:
    command = fake_train(body, "train", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def begun_dir(tmp_path) -> Path:
    """Directory of a run that has nothing but a configuration."""
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "config.toml").touch()
    return directory


def test_an_error_that_quotes_others_does_not_control_the_terminal(begun_dir):
    answer = train("raise ValueError('\\x1b]0;title\\x07 \\u202e')", begun_dir)
    assert answer.returncode == 1
    assert not {"\x1b", "\x07", "\u202e"} & set(answer.stderr)
    assert "title" in answer.stderr


def test_help_names_every_command_on_stdout():
    answer = potstill("--help")
    assert answer.returncode == 0
    assert answer.stderr == ""
    for name in VERBS:
        assert f" {name} " in answer.stdout


def test_help_of_a_stage_names_its_options_and_the_presets():
    answer = potstill("train", "--help")
    assert answer.returncode == 0
    words = " ".join(answer.stdout.replace("│", " ").split())
    for option in ("--preset", "--config", "--set", "--force", "--verbose"):
        assert option in words
    assert f"One of {', '.join(preset_names())}." in words
    assert "Train a student on the conversations." in words


def test_help_breaks_lines_at_the_width_of_the_terminal_only():
    shown = potstill("experiment", "--help").stdout
    assert " The verdict is valid however often this command runs;" in shown


def test_version_is_data_on_stdout():
    answer = potstill("--version")
    assert (answer.returncode, answer.stdout) == (0, metadata.version("potstill") + "\n")


@pytest.mark.parametrize("command", ["run", "train"])
def test_an_unknown_preset_is_wrong_usage_with_a_suggestion(tmp_path, command):
    answer = potstill(command, tmp_path / "run", "--preset", "general2")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: unknown preset 'general2'\n")
    assert "did you mean 'general'?" in answer.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_wrong_usage_with_a_suggestion(tmp_path):
    answer = potstill("train", tmp_path / "run", "--set", "train.kd.wieght=0.5")
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: unknown key train.kd.wieght\n")
    assert "did you mean 'weight'?" in answer.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "train"])
def test_preset_and_file_together_are_wrong_usage(tmp_path, command):
    answer = potstill(command, tmp_path / "run", "--preset", "general", "--config", "mine.toml")
    assert answer.returncode == 2
    assert "--preset or --config, not both" in answer.stderr


def test_force_and_a_shard_together_are_wrong_usage(tmp_path):
    answer = potstill("generate", tmp_path / "run", "--force", "--shard", "1/2")
    assert answer.returncode == 2
    assert "--force or --shard, not both" in " ".join(answer.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_sizes_of_files_are_settings_of_the_quantize_stage(begun_dir):
    body = "print(list(table.mixes))"
    command = fake_train(body, "quantize", begun_dir)
    command[2] = command[2].replace("train.stage", "quantize.stage")
    sizes = ["--target-megabytes", "60", "--target-megabytes", "80.5"]
    answer = subprocess.run(
        [*command, *sizes], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "['60MB', '80.5MB']\n"
    assert "target_megabytes = [" in (begun_dir / "config.toml").read_text()


def test_a_shard_that_cannot_be_read_is_wrong_usage(tmp_path):
    answer = potstill("generate", tmp_path / "run", "--shard", "3/2")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: invalid shard\n  where: --shard 3/2\n")
    assert not list((tmp_path / "run").glob("prompts*"))


@pytest.mark.parametrize("arguments", [["distil"], ["train"], ["train", "run", "--fast"]])
def test_unknown_commands_options_and_missing_arguments_are_wrong_usage(arguments):
    answer = potstill(*arguments)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "Usage:" in answer.stderr


@pytest.mark.parametrize("make", [False, True])
def test_status_of_an_empty_directory_is_an_error(tmp_path, make):
    if make:
        (tmp_path / "run").mkdir()
    answer = potstill("status", tmp_path / "run")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: there is no run in this directory\n")
    assert str(tmp_path / "run") in answer.stderr
    assert "hint: potstill run makes one" in answer.stderr


@pytest.mark.parametrize(
    "verb", ["train", "quantize", "compare", "plan", "baseline", "curve", "label", "update"]
)
def test_a_mistyped_run_is_an_error_and_nothing_is_made(tmp_path, verb):
    answer = potstill(verb, tmp_path / "run")
    assert (answer.returncode, answer.stdout) == (70 if verb in ("compare", "update") else 1, "")
    assert answer.stderr.startswith("error: there is no run in this directory\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["serve", "versions"])
def test_a_run_that_does_not_exist_is_named(tmp_path, verb):
    answer = potstill(verb, tmp_path / "run")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith(
        f"error: there is no such run\n  where: {tmp_path / 'run'}\n  hint: relative paths"
    )


def test_a_file_to_serve_that_is_no_gguf_file_is_named(tmp_path):
    (tmp_path / "examples.jsonl").write_text('{"prompt": "Hi"}\n')
    answer = potstill("serve", tmp_path / "examples.jsonl")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "error: the model cannot be loaded\n" in answer.stderr
    assert "expected: an intact GGUF file\n" in answer.stderr


def test_status_is_data_on_stdout(tmp_path):
    session = RunDirectory(tmp_path / "run").open_stage("prompts", {})
    session.finish(facts=prompts_facts(num_prompts=4711))
    answer = potstill("status", tmp_path / "run")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "4,711" in answer.stdout


def test_an_error_of_ours_is_told_without_a_traceback(begun_dir):
    answer = train(
        "from potstill.errors import TrainingError\n"
        "raise TrainingError('no memory left', where='step 3', hint='lower train.batch_size')",
        begun_dir,
    )
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr == (
        "error: no memory left\n  where: step 3\n  hint: lower train.batch_size\n"
    )


def test_an_unexpected_error_is_told_without_a_traceback_but_with_a_hint(begun_dir):
    answer = train("return {}['no such key']", begun_dir)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert answer.stderr.startswith("error: KeyError: 'no such key'\n")
    assert "hint: this is a defect of potstill; --verbose shows where" in answer.stderr


@pytest.mark.parametrize(
    ("body", "error", "hint"),
    [
        (
            "import torch\nraise torch.OutOfMemoryError('CUDA is full')",
            "OutOfMemoryError: CUDA is full",
            "the GPU's memory is short",
        ),
        (
            "raise OSError(28, 'No space left on device')",
            "OSError: [Errno 28] No space left on device",
            "free disk space",
        ),
    ],
    ids=["gpu", "disk"],
)
def test_what_is_full_is_no_defect(begun_dir, body, error, hint):
    answer = train(body, begun_dir)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"error: {error}\n")
    assert f"hint: {hint}" in answer.stderr
    assert "defect" not in answer.stderr


def test_verbose_shows_where_an_unexpected_error_happened(begun_dir):
    answer = train("return {}['no such key']", begun_dir, "--verbose")
    assert answer.returncode == 1
    assert "Traceback" in answer.stderr
    assert "in run_stage" in answer.stderr


def test_an_interrupted_stage_exits_with_130_and_lets_the_run_go(begun_dir):
    body = "import time\nprint('ready', flush=True)\ntime.sleep(300)"
    process = subprocess.Popen(
        fake_train(body, "train", begun_dir),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    with RunDirectory(begun_dir).locked():
        pass


@pytest.mark.slow
def test_a_stage_that_fails_fails_the_run_with_its_code_and_is_told_once(tmp_path):
    answer = potstill("run", tmp_path / "run", "--set", "generate.teacher.model=/no/such/teacher")
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.count("error: the checkpoint cannot be found") == 1
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "run" / "student.partial").exists()


def test_the_console_script_is_this_command_line():
    (script,) = metadata.entry_points(group="console_scripts", name="potstill")
    assert script.value == "potstill.cli:main"
