import json

import pytest
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.student import StudentFacts
from potstill.lineage import LINEAGE_KEY, Lineage, Teacher, lineage_of_run, read_lineage
from potstill.manifest import manifest_sha256
from tests.fixtures.facts import update_facts
from tests.fixtures.judged_run import write_judged_run, write_plain_gguf


@pytest.fixture
def run(tmp_path, make_conversation, write_conversations):
    return write_judged_run(tmp_path / "mine", make_conversation, write_conversations)


def shown(*arguments):
    found = CliRunner().invoke(app, ["lineage", *map(str, arguments)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def test_a_run_is_followed_back_to_its_prompts(run):
    text = shown(run.root)
    assert "verdict: PASS for student-" in text
    assert "teacher: acme/teacher; license: apache-2.0" in text
    assert "prompts: mine.jsonl, 2 conversations; license: CC-BY-4.0" in text
    assert "prompts: magpie, 1 conversations; license: not stated" in text
    assert text.index("stage student") < text.index("stage conversations")
    assert text.index("stage conversations") < text.index("stage prompts")


def test_a_file_far_from_its_run_has_the_same_but_the_verdict(run, tmp_path):
    far = tmp_path / "far.gguf"
    (run.stage_dir("gguf") / "student-Q8_0.gguf").rename(far)
    found = json.loads(shown(far, "--json"))
    expected = lineage_of_run(run, judged=False)
    assert found == json.loads(expected.model_dump_json())
    assert found["verdict"] is None
    assert found["stages"][1]["manifest_sha256"] == manifest_sha256(run.stage_dir("samples"))
    assert found["teachers"][0]["fingerprint"] == run.facts(ConversationsFacts).teacher.fingerprint


def test_a_next_version_has_also_learned_what_the_ones_before_had(
    run, make_conversation, write_conversations
):
    second = write_judged_run(
        run.root.with_name("mine-v2"), make_conversation, write_conversations, license=None
    )
    second.open_stage("update", {}).finish(facts=update_facts(parent="../mine"))
    text = shown(second.root)
    assert "prompts: mine.jsonl, 4 conversations; license: CC-BY-4.0" in text
    assert "stage update: " in text


def test_a_verdict_on_former_files_is_not_that_of_the_run(run):
    run.set_aside("gguf")
    session = run.open_stage("gguf", {"other": 1}, inputs=("student", "conversations"))
    session.finish()
    assert lineage_of_run(run).verdict is None


@pytest.mark.parametrize(
    ("stage", "inputs", "user"),
    [("conversations", ("samples",), "student"), ("student", ("conversations",), "gguf")],
)
def test_a_stage_that_was_made_again_is_not_the_parent_of_what_was_made_before(
    run, stage, inputs, user
):
    """As after a review, when the student has not been trained again yet."""
    facts = run.facts(ConversationsFacts if stage == "conversations" else StudentFacts)
    run.set_aside(stage)
    run.open_stage(stage, {"other": 1}, inputs=inputs).finish(facts=facts)
    with pytest.raises(ManifestMismatchError, match=f"the {user} stage was made before") as caught:
        lineage_of_run(run)
    assert "potstill run" in caught.value.hint


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        ({}, "has no lineage"),
        ({LINEAGE_KEY: "{}"}, "cannot be read"),
        ({LINEAGE_KEY: "[" * 9999}, "cannot be read"),
        ({LINEAGE_KEY: '"' + "a" * (1 << 20) + '"'}, "cannot be read"),
    ],
)
def test_a_file_without_a_lineage_that_can_be_read_is_refused(tmp_path, texts, what):
    write_plain_gguf(tmp_path / "a.gguf", texts)
    with pytest.raises(ArtifactError, match=what):
        read_lineage(tmp_path / "a.gguf")


def test_a_strangers_file_controls_no_terminal(tmp_path):
    hostile = "\x1b]0;title\x07[/b]\x9b31m\u202e"
    found = Lineage(
        run=hostile,
        method=hostile,
        teachers=(Teacher(model=hostile, fingerprint=hostile, license=hostile),),
        sources=(),
        stages=(),
    )
    write_plain_gguf(tmp_path / "a.gguf", found.texts())
    text = shown(tmp_path / "a.gguf")
    assert text.count("]0;title") == 5
    assert not set("\x1b\x07\x9b\u202e") & set(text)
    document = shown(tmp_path / "a.gguf", "--json")
    assert document.isascii()
    assert not set("\x1b\x07") & set(document)
    assert json.loads(document)["run"] == hostile
