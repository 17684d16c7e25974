"""What was written and configured before names became American is read, with a warning."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill import former_names
from potstill.config import apply_overrides, read_config_file
from potstill.facts.student import StudentFacts
from potstill.former_names import in_artifact, stored_path
from potstill.manifest import MANIFEST_NAME
from potstill.rundir import RunDirectory
from potstill.tables import PROMPT_SCHEMA, read_rows, write_rows
from tests.fixtures.facts import evaluation, fidelity, student_facts

FORMER = {american: british for british, american in former_names.KEYS.items()}
CONFIG = """
[[generate.prompts.sources]]
licence = "MIT"
operations = ["deepen", "concretise"]
[train]
kd = {tail = "renormalise"}
quantisation_aware = {type = "Q4_0"}
"""


@pytest.fixture(autouse=True)
def _warn_again():
    former_names._warn_of_artifacts.cache_clear()
    former_names._warn.cache_clear()


def test_a_configuration_is_read_with_one_warning_for_each_former_name(tmp_path, caplog):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    assert read_config_file(path) == {
        "generate": {
            "prompts": {"sources": [{"license": "MIT", "operations": ["deepen", "concretize"]}]}
        },
        "train": {"kd": {"tail": "renormalize"}, "quantization_aware": {"type": "Q4_0"}},
    }
    read_config_file(path)
    assert len(caplog.messages) == 4
    for former in ("licence", "'concretise'", "'renormalise'", "quantisation_aware"):
        assert any(former in message and str(path) in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.quantisation_aware.type=Q4_0", {"quantization_aware": {"a": 1, "type": "Q4_0"}}),
        (
            "train.kd.tail=renormalise",
            {"quantization_aware": {"a": 1}, "kd": {"tail": "renormalize"}},
        ),
    ],
)
def test_an_override_takes_a_former_name(override, expected, caplog):
    content = {"train": {"quantization_aware": {"a": 1}}}
    assert apply_overrides(content, [override]) == {"train": expected}
    assert "rename it" in caplog.text


def test_todays_names_pass_without_a_warning(caplog):
    content = {"train": {"quantization_aware": {"type": "Q4_0"}}, "tail": ["renormalize"]}
    assert in_artifact(content) == content
    assert former_names.in_configuration(content, "a file") == content
    assert not caplog.messages


def british(value):
    """Return a JSON value with the former names of its keys."""
    if isinstance(value, dict):
        return {FORMER.get(name, name): british(one) for name, one in value.items()}
    return [british(one) for one in value] if isinstance(value, list) else value


@pytest.fixture
def former_run(tmp_path) -> RunDirectory:
    """A run whose student was made by an earlier version."""
    run_directory = RunDirectory(tmp_path / "run")
    session = run_directory.open_stage("student", {"quantization_aware": None, "seed": 0})
    measured = evaluation(quantized_plain=fidelity(2.0), quantized_aware=fidelity(1.0))
    session.finish(facts=student_facts(evaluation=measured))
    path = run_directory.stage_dir("student") / MANIFEST_NAME
    text = json.dumps(british(json.loads(path.read_text())))
    assert '"quantised_plain"' in text
    assert text.count('"version": 1') == 1
    path.write_text(text.replace('"version": 1, ', ""))
    return run_directory


def test_a_finished_stage_is_read_and_not_made_again(former_run, caplog):
    measured = former_run.facts(StudentFacts).evaluation
    assert (measured.quantized_plain.kl_nats, measured.quantized_aware.kl_nats) == (2.0, 1.0)
    asked = {"quantization_aware": None, "seed": 0}
    assert former_run.open_stage("student", asked).finished is not None
    assert len(caplog.messages) == 1, "once in a process"
    assert "earlier potstill" in caplog.text


def test_partial_work_goes_on(tmp_path):
    run_directory = RunDirectory(tmp_path / "run")
    session = run_directory.open_stage("student", {"quantization_aware": None})
    (session.dir / "half.txt").touch()
    path = session.dir / "request.json"
    path.write_text(json.dumps(british(json.loads(path.read_text()))))
    again = run_directory.open_stage("student", {"quantization_aware": None})
    assert (again.dir / "half.txt").exists()


def test_a_key_that_changes_nothing_is_left_out():
    assert in_artifact({"curation": {}, "hidden_states": False}) == {"curation": {}}
    assert "hidden_states" in in_artifact({"hidden_states": True})


def test_a_table_with_a_former_column_is_read(tmp_path, caplog):
    path = tmp_path / "prompts.parquet"
    row = dict.fromkeys(PROMPT_SCHEMA.names) | {"prompt_id": "a", "license": "MIT"}
    write_rows(path, PROMPT_SCHEMA, [row])
    names = ["licence" if name == "license" else name for name in PROMPT_SCHEMA.names]
    pq.write_table(pa.table(pq.read_table(path)).rename_columns(names), path)
    assert list(read_rows(path, PROMPT_SCHEMA)) == [row]
    assert list(read_rows(path, PROMPT_SCHEMA, ["license"])) == [{"license": "MIT"}]
    assert len(caplog.messages) == 1


def test_a_file_is_found_under_its_former_name(tmp_path):
    path = tmp_path / "judgments.parquet"
    assert stored_path(path) == path
    (tmp_path / "judgements.parquet").touch()
    assert stored_path(path).name == "judgements.parquet"
    path.touch()
    assert stored_path(path) == path
