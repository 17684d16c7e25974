"""What a user gets from the whole line: artifacts that verify, a report, a served student."""

import json
import re
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest
from openai import OpenAI

from potstill.manifest import verify_manifest
from potstill.tables import (
    PROMPT_SCHEMA,
    conversation_paths,
    read_conversations,
    read_rows,
)

from .conftest import HALF_DONE, POTSTILL, potstill


def facts(line, stage):
    return verify_manifest(line.run_directory.stage_dir(stage)).facts


def test_killed_in_every_stage_the_line_ends_in_artifacts_that_verify(line):
    for stage in HALF_DONE:
        manifest = verify_manifest(line.run_directory.stage_dir(stage))
        assert manifest.outputs
    left = sorted(path.name for path in line.run_directory.root.iterdir())
    kept = [".lock", ".lock-teacher", "comparisons.jsonl", "config.toml", "estimate.json"]
    assert left == sorted([*kept, "metrics.jsonl", *HALF_DONE])


def test_every_prompt_is_answered_once(line):
    root = line.run_directory
    path = root.stage_dir("prompts") / "prompts.parquet"
    prompts = [row["prompt_id"] for row in read_rows(path, PROMPT_SCHEMA)]
    num_dropped = facts(line, "prompts").num_dropped
    assert len(prompts) + num_dropped == 48
    samples = [
        one
        for path in sorted(root.stage_dir("samples").glob("part-*.parquet"))
        for one in read_conversations(path)
    ]
    assert [one.prompt.prompt_id for one in samples] == prompts
    for one in samples:
        (turn,) = one.turns
        assert len(one.signal.counts_T) == turn.num_tokens <= 64
        assert 1 <= one.signal.counts_T.min() <= one.signal.counts_T.max() <= 32
        assert one.signal.top_logprobs_N.max() <= 0.0


def test_what_filters_leave_is_a_data_set_with_a_card(line):
    directory = line.run_directory.stage_dir("conversations")
    kept = {
        split: [
            one for path in conversation_paths(directory, split) for one in read_conversations(path)
        ]
        for split in ("train", "validation", "test")
    }
    counts = {split: len(rows) for split, rows in kept.items()}
    assert facts(line, "conversations").num_conversations == counts
    dropped = pq.read_table(directory / "dropped.parquet")
    sampled = facts(line, "samples").num_conversations
    assert sum(counts.values()) + len(dropped) == sum(sampled.values())
    assert all(one.prompt.split == split for split, rows in kept.items() for one in rows)
    assert "configs:" in (directory / "README.md").read_text()
    assert "<svg" in (directory / "summary.html").read_text()


def test_training_brings_the_student_nearer_to_the_teacher(line):
    """A little nearer: it has 48 prompts, and what is sampled differs by machine."""
    evaluation = facts(line, "student").evaluation
    before, after = evaluation.untrained, evaluation.trained
    assert after.kl_nats < before.kl_nats
    assert after.top1_agreement > before.top1_agreement - before.top1_standard_error


def test_the_teachers_own_file_is_next_to_the_sampled_teacher(line):
    """Log-probabilities of vLLM, torch and llama.cpp are of the same tokens."""
    rows = {row.name: row for row in facts(line, "comparison").rows}
    assert rows["teacher-F16"].kl_nats < 0.01
    assert rows["teacher-F16"].top1_agreement > 0.95
    trained = rows["student, trained"].kl_nats
    assert rows["student-F16"].kl_nats == pytest.approx(trained, abs=0.02)


def test_files_are_as_close_as_their_bits_allow(line):
    made = facts(line, "gguf")
    files = {file.name: file for file in made.files}
    assert list(files) == [
        *(f"student-{name}" for name in ("F16", "Q8_0", "Q4_K_M")),
        "teacher-F16",
    ]
    *students, teacher = files.values()
    losses = [file.kl_to_checkpoint_nats for file in students]
    assert 0 <= losses[0] < losses[1] < losses[2]
    assert teacher.num_parameters == 134_515_008
    assert {file.num_parameters for file in students} == {facts(line, "student").num_parameters}
    for file in (teacher, students[0]):
        assert file.top1_agreement_with_checkpoint > 0.98
    stock = files["student-Q4_K_M"]
    assert stock.bits_per_weight == pytest.approx(6.24, abs=0.1)
    assert stock.fallbacks == {"Q5_0": 143, "Q8_0": 13}, "rows of 576"
    assert [file.imatrix for file in files.values()] == [None, False, True, None]
    assert made.recommended == "student-Q4_K_M"
    modelfile = (line.run_directory.stage_dir("gguf") / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "named SmolLM" in modelfile


def test_the_report_is_printed_and_written(line):
    for name in ("teacher-F16", "student-F16", "student-Q8_0", "student-Q4_K_M"):
        assert name in line.stdout
    page = (line.run_directory.stage_dir("comparison") / "report.html").read_text()
    assert page.count('<article class="prompt"') == 3


def test_a_finished_run_is_skipped(line):
    before = {
        path: path.stat().st_mtime_ns
        for stage in HALF_DONE
        for path in line.run_directory.stage_dir(stage).iterdir()
    }
    again = potstill("run", line.run_directory.root)
    assert again.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_status_and_plan_tell_of_the_stages(line):
    shown = potstill("status", line.run_directory.root, COLUMNS="200")
    assert shown.returncode == 0
    for stage in HALF_DONE:
        assert re.search(rf"{stage}\s.*finished", shown.stdout)
    planned = potstill("run", line.run_directory.root, "--dry-run")
    assert planned.stdout.count("finished") == 4


@pytest.fixture(scope="module")
def client(line):
    command = [POTSTILL, "serve", line.run_directory.root, "--set", "serve.port=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for shown in process.stderr:
        if found := re.search(r"serving student, teacher at (\S+)", shown):
            break
    yield OpenAI(base_url=found[1], api_key="none", max_retries=0)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_student_and_teacher_answer_the_openai_client(client):
    assert [model.id for model in client.models.list()] == ["student", "teacher"]
    for model in ("student", "teacher"):
        question = {
            "model": model,
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        whole = client.chat.completions.create(**question)
        assert whole.choices[0].message.content.strip()
        assert 0 < whole.usage.completion_tokens <= 24
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**question, stream=True)
        ]
        assert len(pieces) > 2
        assert "".join(pieces) == whole.choices[0].message.content
    assert "Paris" in whole.choices[0].message.content


def test_metrics_are_json_lines_of_every_stage(line):
    lines = line.run_directory.metrics_path.read_text().splitlines()
    records = [json.loads(text) for text in lines]
    assert {record["stage"] for record in records} == set(HALF_DONE) - {"prompts"}
    assert all(record["time"] <= time.time() for record in records)
    files = {record["file"] for record in records if record["stage"] == "gguf"}
    assert files == {file.file for file in facts(line, "gguf").files}
