import pytest

from compare.config import CompareConfig
from compare.task_values import measure
from potstill.rundir import RunDirectory
from potstill.schema import Message
from potstill.task.answers import Item
from potstill.task.metrics.config import RegexConfig
from potstill.task.task import Task


@pytest.fixture
def task():
    """A task whose answers are right where they name the model of all data."""
    items = [Item(messages=(Message(role="user", content=f"question {n}"),)) for n in range(3)]
    return Task(
        student_instructions="Be brief.",
        references=tuple(items),
        metrics=(RegexConfig(pattern="^share-1-Q8_0 heard question"),),
    )


def test_every_file_answers_every_reference_once(stand_in, task, tiny_gguf, tmp_path, monkeypatch):
    running, requests = stand_in
    whole = tmp_path / "share-1-Q8_0.gguf"
    whole.symlink_to(tiny_gguf)
    half = tmp_path / "share-0.5-Q8_0.gguf"
    half.write_bytes(b"another file")
    commands = []

    def run(command, *_):
        commands.append(command)
        return running()

    monkeypatch.setattr("compare.answers.endpoint.running_endpoint", run)
    config = CompareConfig(max_tokens=7)
    for _ in range(2):
        found = measure(config, task, RunDirectory(tmp_path), [whole, half], tmp_path / "scratch")
        assert found == [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    assert len(commands) == 1, "answers are kept"
    assert any("share-0.5-Q8_0" in part for part in commands[0])
    sent = requests()
    assert len(sent) == 6
    assert {(body["temperature"], body["max_tokens"]) for body in sent} == {(0.0, 7)}
    assert {body["messages"][0]["content"] for body in sent} == {"Be brief."}
