"""What the next version is made of: recorded failures, the served student, its data and tests."""

import json
import shutil
import tomllib

import pytest

from potstill.errors import ArtifactError, ConfigError, ManifestMismatchError
from potstill.facts.update import UpdateFacts
from potstill.pipeline import Choice, resolve
from potstill.rundir import RunDirectory
from potstill.schema import Message, Prompt
from potstill.tables import PROMPT_SCHEMA, prompt_to_row, write_rows
from potstill.task.config import TaskConfig
from potstill.task.stage import read_task, write_task
from potstill.update import CONFIG_NAME, PROMPTS_NAME, Wanted, begin
from potstill.versions import add_version, serve_version
from tests.fixtures.facts import prompts_facts
from tests.fixtures.judged_run import write_judged_run


def recorded(path, *texts, created=1_000):
    with path.open("a") as stream:
        for text in texts:
            request = {"model": "student", "messages": [{"role": "user", "content": text}]}
            choice = {"message": {"role": "assistant", "content": "So"}, "finish_reason": "length"}
            response = {"model": "student", "choices": [choice]}
            row = {"created": created, "request": request, "response": response}
            stream.write(json.dumps(row) + "\n")


def finish_prompts(run, num_tested):
    def prompt(number, split):
        messages = (Message(role="user", content=f"Held {number}?"),)
        name = f"p{number}"
        return Prompt(prompt_id=name, cluster_id=name, split=split, messages=messages, source="x")

    run.set_aside("prompts")
    session = run.open_stage("prompts", {})
    prompts = [prompt(number, "test" if number < num_tested else "train") for number in range(9)]
    write_rows(session.dir / "prompts.parquet", PROMPT_SCHEMA, map(prompt_to_row, prompts))
    session.finish(facts=prompts_facts())


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record.jsonl"
    recorded(path, *(f"Question {number}?" for number in range(5)))
    return path


@pytest.fixture
def run(tmp_path, make_conversation, write_conversations):
    """A run with settings that a student of another start cannot have."""
    run = write_judged_run(tmp_path / "mine", make_conversation, write_conversations)
    finish_prompts(run, num_tested=0)
    (run.root / "config.toml").write_text(
        """
        [generate]
        copy_to = "s3://bucket/mine"
        [generate.prompts]
        path = "first.jsonl"
        test_share = 0.2
        [generate.turns]
        kind = "score"
        [train]
        learning_rate = 1e-4
        [train.student]
        layers = [0, 1]
        intermediate_size = 256
        [compare.verdict]
        margin = 0.1
        """
    )
    return run


@pytest.fixture
def choice(record):
    return Choice(overrides=(f"serve.record_path={record}",))


def questions(run):
    path = run.stage_dir("update") / PROMPTS_NAME
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["source"], row["request"]["messages"][-1]["content"]) for row in rows}


def test_the_next_run_learns_the_failures_from_the_served_student(run, choice, tmp_path):
    found = begin(choice, run, Wanted())
    assert found.root == tmp_path / "mine-v2"
    facts = found.facts(UpdateFacts)
    assert (facts.number, facts.parent, facts.parent_number) == (2, "../mine", 1)
    assert facts.num_prompts == {"cut off": 5}
    assert questions(found) == {("update/cut off", f"Question {n}?") for n in range(5)}
    own = Choice(path=found.stage_dir("update") / CONFIG_NAME)
    tables = {name: table.model_dump() for name, table in resolve(own).items()}
    prompts, train, root = tables["generate"]["prompts"], tables["train"], run.root.absolute()
    (source,) = prompts["sources"]
    assert source["path"] == str(found.stage_dir("update") / PROMPTS_NAME)
    assert (prompts["path"], prompts["num_prompts"], prompts["test_share"]) == (None, 5, 0.2)
    assert (tables["generate"]["turns"]["kind"], tables["generate"]["copy_to"]) == ("single", None)
    assert tables["generate"]["reuse"] == str(root)
    assert train["student"]["checkpoint"] == str(root / "student")
    assert train["student"]["intermediate_size"] is None
    assert (train["replay"], train["learning_rate"]) == ((root,), 1e-4)
    assert tables["compare"]["former_run"] == root
    assert tables["compare"]["verdict"]["margin"] == 0.1
    assert not (run.root / "versions.json").exists(), "nothing of the first run has changed"


def test_settings_may_be_changed_for_the_next_run(run, choice):
    changed = Choice(overrides=(*choice.overrides, "train.learning_rate=2e-5"))
    found = begin(changed, run, Wanted(to=run.root.with_name("other")))
    content = tomllib.loads((found.stage_dir("update") / CONFIG_NAME).read_text())
    assert content["train"]["learning_rate"] == 2e-5
    assert found.root.name == "other"


def test_an_update_is_resumed_with_the_prompts_that_it_began_with(run, choice, record):
    first = begin(choice, run, Wanted())
    recorded(record, "Later?")
    again = begin(choice, run, Wanted())
    assert again.root == first.root
    assert len(questions(again)) == 5


def test_what_a_kill_leaves_of_the_collection_is_collected_again(run, choice):
    next_run = RunDirectory(run.root.with_name("mine-v2"))
    session = next_run.open_stage("update", {"parent": "x" * 64})
    (session.dir / PROMPTS_NAME).write_text('{"half')
    with pytest.raises(ManifestMismatchError, match="another configuration"):
        begin(choice, run, Wanted())
    session.dir.rename(next_run.root.with_name("gone"))
    begin(choice, run, Wanted())
    kept = next_run.stage_dir("update")
    kept.rename(next_run.partial_dir("update"))
    (next_run.partial_dir("update") / "manifest.json").unlink()
    assert len(questions(begin(choice, run, Wanted()))) == 5


def test_the_test_prompts_of_a_run_without_references_are_asked_again(run, choice):
    finish_prompts(run, num_tested=3)
    found = begin(choice, run, Wanted())
    assert found.facts(UpdateFacts).num_prompts == {"cut off": 5, "held out": 3}
    assert ("update/held out", "Held 2?") in questions(found)


def test_a_task_goes_along_without_the_files_that_it_was_made_from(run, choice, tmp_path):
    references = tmp_path / "references.jsonl"
    references.write_text('{"prompt": "What is 2?", "answer": "even"}\n')
    metrics = ({"kind": "label"},)
    config = TaskConfig(instructions="Odd or even?", references=references, metrics=metrics)
    write_task(config, run)
    references.unlink()
    found = begin(choice, run, Wanted())
    assert read_task(found) == read_task(run)
    assert "held out" not in found.facts(UpdateFacts).num_prompts


def test_a_further_version_learns_what_failed_since_the_last_was_served(run, choice, record):
    second = begin(choice, run, Wanted())
    for stage in ("conversations", "student", "gguf"):
        shutil.copytree(run.stage_dir(stage), second.stage_dir(stage))
    add_version(run, second)
    serve_version(run, 2, "it passed")
    with pytest.raises(ConfigError, match="no failure of the student is recorded"):
        begin(choice, run, Wanted())
    recorded(record, "New?", created=4e9)
    third = begin(choice, run, Wanted())
    assert third.root.name == "mine-v3"
    assert questions(third) == {("update/cut off", "New?")}
    facts = third.facts(UpdateFacts)
    assert (facts.number, facts.parent, facts.parent_number) == (3, "../mine-v2", 2)


def test_only_the_run_that_is_served_is_updated(run, choice):
    found = begin(choice, run, Wanted())
    with pytest.raises(ConfigError, match="a version of another one"):
        begin(choice, found, Wanted())


def test_a_directory_with_another_run_is_left_alone(run, choice, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text("")
    with pytest.raises(ArtifactError, match="holds another run"):
        begin(choice, run, Wanted(to=other))
    assert [path.name for path in other.iterdir()] != ["update"]


def test_without_failures_there_is_no_next_run(run):
    with pytest.raises(ConfigError, match="no failure"):
        begin(Choice(), run, Wanted())
    assert not RunDirectory(run.root.with_name("mine-v2")).is_finished("update")
