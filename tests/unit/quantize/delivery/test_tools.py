import shlex

import pytest
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import ConfigError
from potstill.lineage import lineage_of_run, read_lineage
from potstill.task.metrics.config import LabelConfig
from potstill.task.stage import TASK_NAME
from potstill.task.task import Task
from quantize.delivery.push import prepare, push
from quantize.delivery.tools import TOOLS, export
from tests.fixtures.facts import task_facts


def names(directory):
    return sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("tool", "expected", "command"),
    [
        ("ollama", ["Modelfile", "student-F16.gguf"], "ollama create mine -f"),
        ("lm-studio", ["potstill/mine/student-F16.gguf"], "lms load potstill/mine"),
        ("llamafile", [".args", "student-F16.gguf"], "./mine.llamafile"),
        ("vllm", ["lineage.json"], "--served-model-name mine"),
        ("mlx", ["lineage.json"], "mlx_lm.server --model"),
        ("open-webui", ["open-webui.env"], "open-webui serve"),
    ],
)
def test_each_tool_gets_its_directory_and_two_commands(
    judged_run, tmp_path, tool, expected, command
):
    run = judged_run()
    lines = export(run, tool, tmp_path / "a b", "student-F16")
    assert names(tmp_path / "a b") == expected
    assert len(lines) == 2
    assert command in " ".join(lines)
    assert all(shlex.split(line) for line in lines)
    for path in (tmp_path / "a b").rglob("*.gguf"):
        assert read_lineage(path) == lineage_of_run(run)


def test_every_tool_is_tested_and_named_in_the_help():
    help_text = CliRunner().invoke(app, ["export", "--help"]).stdout
    assert set(TOOLS) == {"ollama", "lm-studio", "llamafile", "vllm", "mlx", "open-webui"}
    assert all(tool in help_text for tool in TOOLS)


@pytest.mark.parametrize("way", ["export", "push"])
def test_a_modelfile_names_the_file_and_the_tasks_instructions(judged_run, tmp_path, way):
    run = judged_run()
    session = run.open_stage("task", {})
    task = Task(
        instructions="Long.",
        student_instructions='Say "yes"\nor no.',
        metrics=(LabelConfig(labels=("yes", "no")),),
    )
    (session.dir / TASK_NAME).write_text(task.model_dump_json())
    session.finish(facts=task_facts())
    if way == "export":
        export(run, "ollama", tmp_path / "a", "student-F16")
    else:
        push(prepare(run, str(tmp_path / "a")), private=True)
    text = (tmp_path / "a" / "Modelfile").read_text()
    file = {"export": "student-F16", "push": "student-Q8_0"}[way]
    assert text.startswith(f"FROM ./{file}.gguf\n")
    system = f'SYSTEM """{task.student_instructions}"""\n'
    assert text.endswith(f"PARAMETER temperature 0\n{system}")
    assert text.count("PARAMETER temperature") == 1


@pytest.mark.parametrize(
    ("tool", "file", "what"),
    [
        ("gpt4all", None, "does not export for this tool"),
        ("ollama", "student-Q2_K", "no such file"),
        ("ollama", "teacher-F16", "no such file"),
    ],
)
def test_what_cannot_be_exported_is_refused(judged_run, tmp_path, tool, file, what):
    with pytest.raises(ConfigError, match=what):
        export(judged_run(), tool, tmp_path / "a", file)
    assert not (tmp_path / "a").exists()


def test_a_directory_with_files_is_left_alone(judged_run, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        export(judged_run(), "ollama", tmp_path / "a", None)
