import json
import logging

import pytest

from potstill.errors import ConfigError
from potstill.facts.task import TaskFacts
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.task.config import TaskConfig
from potstill.task.metrics.config import JsonConfig, LabelConfig
from potstill.task.shots import shot_chooser
from potstill.task.stage import load_task, read_task, write_task

TOOL = {"type": "function", "function": {"name": "freeze_card", "parameters": {}}}


@pytest.fixture
def run_directory(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    return directory


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(prompt, answer=None):
    return {"prompt": prompt} | ({"answer": answer} if answer else {})


@pytest.fixture
def config(tmp_path):
    return TaskConfig(
        instructions="Name the team.",
        student_instructions="",
        examples=jsonl(
            tmp_path / "examples.jsonl",
            asked("I lost my card", "security"),
            asked("my top up failed", "top-ups"),
            asked("hello"),
        ),
        references=jsonl(tmp_path / "references.jsonl", asked("card stolen", "security")),
        num_shots=1,
        metrics=(LabelConfig(),),
    )


def test_a_run_keeps_its_task_and_needs_the_files_no_longer(config, run_directory, caplog):
    task = write_task(config, run_directory)
    assert read_task(run_directory) == task
    assert run_directory.facts(TaskFacts) == TaskFacts(
        num_examples=3, num_known=2, num_references=1, num_tools=0, metrics=("label",)
    )
    config.examples.unlink()
    with caplog.at_level(logging.WARNING):
        assert write_task(config, run_directory) == task
    assert "keeping the task that was read before" in caplog.text


def test_a_changed_task_replaces_the_former_one(config, run_directory):
    write_task(config, run_directory)
    changed = config.model_copy(update={"instructions": "Name one team."})
    assert write_task(changed, run_directory) == read_task(run_directory)
    assert read_task(run_directory).instructions == "Name one team."


def test_a_run_without_a_task_has_none(run_directory):
    assert write_task(TaskConfig(), run_directory) is None
    assert not run_directory.stage_dir("task").exists()


def test_teacher_and_student_get_their_own_prompts(config):
    task = load_task(config)
    user = (Message(role="user", content="card gone"),)
    shots = shot_chooser(task)(user)
    system, last = task.teacher_messages(user, shots)
    assert system.content == "Name the team.\n\nExamples:\nI lost my card -> security"
    assert task.student_messages(user) == user == (last,)


def test_examples_stand_where_the_instructions_want_them(config):
    text = "Name the team.\n\n{examples}\n\nAnswer in JSON."
    task = load_task(config.model_copy(update={"instructions": text}))
    user = (Message(role="user", content="card gone"),)
    with_shots = task.teacher_messages(user, task.examples[:1])[0].content
    assert with_shots == (
        "Name the team.\n\nExamples:\nI lost my card -> security\n\nAnswer in JSON."
    )
    assert task.teacher_messages(user)[0].content == "Name the team.\n\n\n\nAnswer in JSON."


def test_instructions_come_before_a_system_message_of_the_prompts_own(config):
    task = load_task(config.model_copy(update={"student_instructions": "Be brief."}))
    own = (Message(role="system", content="Today is Monday."), Message(role="user", content="hi"))
    assert task.student_messages(own)[0].content == "Be brief.\n\nToday is Monday."
    assert len(task.student_messages(own)) == 2


@pytest.mark.parametrize(
    ("text", "expected"), [("help with my top up", "top-ups"), ("card is lost", "security")]
)
def test_the_nearest_examples_are_chosen_by_their_words(config, text, expected):
    task = load_task(config.model_copy(update={"shots": "nearest"}))
    (shot,) = shot_chooser(task)((Message(role="user", content=text),))
    assert shot.known.text == expected


def test_calls_of_tools_are_known_answers(tmp_path):
    call = {"name": "freeze_card", "arguments": {"last4": "1234"}}
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    task = load_task(
        TaskConfig(
            tools=tmp_path / "tools.json",
            student_sees_tools=False,
            examples=jsonl(tmp_path / "examples.jsonl", asked("freeze it", call)),
            num_shots=1,
        )
    )
    assert json.loads(task.tools) == [TOOL]
    assert task.student_tools is None
    (system, _) = task.teacher_messages(task.examples[0].messages, task.examples)
    assert f"freeze it -> {json.dumps(call)}" in system.content


def test_what_does_not_fit_together_is_refused(config, tmp_path):
    def refused(**changes):
        with pytest.raises(ConfigError) as caught:
            load_task(config.model_copy(update=changes))
        return str(caught.value)

    assert "fewer examples with known answers" in refused(num_shots=3)
    among = jsonl(tmp_path / "more.jsonl", asked("hello", "other"))
    assert "examples are among the references" in refused(references=among)
    unknown = jsonl(tmp_path / "unknown.jsonl", asked("who are you"))
    assert "1 of 1 without" in refused(references=unknown)
    load_task(config.model_copy(update={"references": unknown, "metrics": (JsonConfig(),)}))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "the schema of answers cannot be read" in refused(answer_schema=broken)
    broken.write_text('{"type": "thing"}')
    assert "is not a JSON schema" in refused(answer_schema=broken)
    broken.write_text('[{"name": "freeze_card"}]')
    assert "a tool is not one of OpenAI's API" in refused(tools=broken)
