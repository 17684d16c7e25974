"""The flow of a learning curve, with rooms that do nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from potstill.curve import in_words, make_curve
from potstill.errors import ArtifactError
from potstill.manifest import verify_manifest
from potstill.pipeline import Choice
from potstill.rundir import RunDirectory
from tests.fixtures.facts import conversations_facts, gguf_facts, student_facts

VALUES = {0.25: [1.0] * 5 + [0.0] * 5, 0.5: [1.0] * 7 + [0.0] * 3, 1.0: [1.0] * 8 + [0.0] * 2}


@pytest.fixture
def run_directory(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    facts = {
        "conversations": conversations_facts(),
        "student": student_facts(),
        "gguf": gguf_facts(),
    }
    for stage, one in facts.items():
        session = directory.open_stage(stage, {"max_steps": 80} if stage == "student" else {})
        session.finish(facts=one, stats={"train_conversations": 400.0})
    return directory


@pytest.fixture
def choice(tmp_path):
    path = tmp_path / "references.jsonl"
    rows = [{"prompt": f"Question {n}", "answer": "yes"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f'references={json.dumps(str(path))}, metrics=[{{kind="exact"}}]'
    return Choice(overrides=(f"task={{{task}}}",))


@pytest.fixture
def calls(monkeypatch):
    """Let the rooms return what is known, and record what they are asked."""
    asked = []

    def call(stage, _module, function, *arguments):
        asked.append((stage.name, function, arguments))
        if function == "train_share":
            return round(400 * arguments[2])
        if function == "convert":
            return SimpleNamespace(file=f"{arguments[-1]}-Q8_0.gguf")
        if function == "measure":
            return [VALUES[float(path.stem.split("-")[1])] for path in arguments[3]]
        return Path(arguments[1]).write_bytes(b"a picture")

    monkeypatch.setattr("potstill.pipeline.Stage.call", call)
    return asked


def test_points_and_projections_are_facts(run_directory, choice, calls):
    manifest = make_curve(choice, run_directory)
    facts = manifest.facts
    assert [point.num_conversations for point in facts.points] == [100, 200, 400]
    assert [point.figure.value for point in facts.points] == [0.5, 0.7, 0.8]
    assert [point.num_conversations for point in facts.projections] == [800, 1600]
    assert facts.points[-1].figure.value < facts.projections[0].figure.value < 0.95
    assert (facts.metric, facts.num_references) == ("exact", 10)
    assert in_words(facts)[2].startswith("400 conversations (1 of all) reach exact 0.800 (")
    assert in_words(facts)[3].startswith("800 conversations (2 of all) would reach exact 0.")
    verify_manifest(run_directory.stage_dir("curve"))
    trained = [arguments for _, function, arguments in calls if function == "train_share"]
    assert [table.max_steps for table, *_ in trained] == [80, 80]
    assert [share for _, _, share, _ in trained] == [0.25, 0.5]
    converted = [arguments[2] for _, function, arguments in calls if function == "convert"]
    assert converted[-1] == run_directory.stage_dir("student")
    calls.clear()
    assert make_curve(choice, run_directory) == manifest
    assert calls == []


def test_the_students_files_come_first(run_directory, choice, calls):
    run_directory.set_aside("gguf")
    with pytest.raises(ArtifactError, match="not a finished stage"):
        make_curve(choice, run_directory)
    assert calls == []
