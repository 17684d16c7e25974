import json
import re
import sys

import pytest
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import ArtifactError
from potstill.facts.base import OPTIONAL_STAGES, STAGE_NAMES
from potstill.facts.samples import SignalStats
from potstill.rundir import RunDirectory
from potstill.status import stage_rows, status_table
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task
from potstill.watch import page_of
from tests.fixtures.facts import (
    baseline_facts,
    comparison_facts,
    conversations_facts,
    curve_facts,
    evaluation,
    fidelity,
    file_row,
    gguf_facts,
    gguf_file,
    prompts_facts,
    samples_facts,
    student_facts,
    task_facts,
    teacher_identity,
    update_facts,
)

FACTS = {
    "update": update_facts(),
    "task": task_facts(),
    "prompts": prompts_facts(num_prompts=1000, num_dropped=7),
    "samples": samples_facts(
        teacher=teacher_identity(model="smollm2-135m-instruct"),
        num_conversations={"train": 882, "validation": 41, "test": 81},
        num_failed=3,
    ),
    "conversations": conversations_facts(
        num_conversations={"train": 880, "validation": 40, "test": 80}, num_dropped=4
    ),
    "student": student_facts(
        num_layers=24,
        num_parameters=113_274_432,
        evaluation=evaluation(
            untrained=fidelity(1.1041, top1_agreement=0.489),
            trained=fidelity(0.3119, top1_agreement=0.7014),
        ),
    ),
    "baseline": baseline_facts(),
    "curve": curve_facts(),
    "gguf": gguf_facts(
        gguf_file("student-F16"), gguf_file("student-Q8_0"), recommended="student-Q8_0"
    ),
    "comparison": comparison_facts(
        outcome="INVALID_JUDGE",
        rows=(file_row("student-F16"), file_row("student-Q8_0", 0.3191)),
    ),
}
EXPECTED = {
    "update": "version 2, from version 1; 12 rated, 30 escalated",
    "task": "50 examples (40 with known answers), 600 references, 0 tools; measured: label",
    "prompts": "1,000 prompts, 7 left out",
    "samples": "smollm2-135m-instruct: 1,004 conversations, 3 failed; "
    "224,512 completion tokens, 48 bytes each",
    "conversations": "880 train, 40 validation, 80 test; "
    "224,512 completion tokens, 4 conversations left out",
    "student": "24 layers, 113.3M parameters; KL 1.104 → 0.312 nats, top-1 agreement 48.9% → 70.1%",
    "baseline": "50 known answers, 8 epochs, known-answers-Q8_0",
    "curve": "label by conversations: 100: 0.600, 200: 0.700, 400: 0.775; 800 would reach 0.830 "
    "(0.800 to 0.860)",
    "gguf": "student-F16, student-Q8_0; served: student-Q8_0",
    "comparison": "INVALID JUDGE; student-Q8_0: KL 0.319 nats, 0.45x the size and 2.08x the tokens "
    "per second of teacher-F16",
}


def finish(run_directory, stage, facts=None):
    session = run_directory.open_stage(stage, {})
    (session.dir / "file.bin").write_bytes(bytes(2_340_000))
    stats = dict.fromkeys(SignalStats.model_fields, 0.0)
    stats |= {"seconds": 90.0, "completion_tokens": 224_512, "bytes_per_token": 48.3}
    return session.finish(facts=facts or FACTS[stage], stats=stats)


def shown(run_directory) -> dict[str, list[str]]:
    """The table's rows as text, by stage."""
    arguments = ["status", str(run_directory.root)]
    found = CliRunner(env={"COLUMNS": "400"}).invoke(app, arguments, catch_exceptions=False)
    lines = found.stdout.splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[1:]]
    return {"title": [lines[0].strip()]} | {row[0]: row for row in rows if row[0] in STAGE_NAMES}


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_finished_stage_is_told_with_its_cost_and_facts(run_directory, stage):
    finish(run_directory, stage)
    row = shown(run_directory)[stage]
    assert row == [stage, "finished", "1.5 min", "2.3 MB", EXPECTED[stage]]


@pytest.mark.parametrize("stage", ["samples", "conversations"])
def test_a_stage_without_its_figures_is_damaged(run_directory, stage):
    run_directory.open_stage(stage, {}).finish(facts=FACTS[stage])
    with pytest.raises(ArtifactError, match="lacks figures") as caught:
        stage_rows(run_directory)
    assert caught.value.where == f"{stage}/manifest.json"


def test_a_student_with_other_tokens_is_told_without_what_cannot_be_compared(run_directory):
    before, after = (fidelity(None, nats_per_token=nats) for nats in (2.5, 1.5))
    measured = evaluation(untrained=before, trained=after)
    finish(run_directory, "student", student_facts(evaluation=measured))
    finish(run_directory, "comparison", comparison_facts(rows=(file_row("student-Q8_0", None),)))
    table = shown(run_directory)
    assert table["student"][-1].endswith("2.500 → 1.500 nats per token of its own tokenizer")
    assert table["comparison"][-1].startswith(
        "PASS; student-Q8_0: 0.45x the size and 2.08x the tokens per second"
    )


def test_two_endpoints_are_told_without_figures_of_files(run_directory):
    finish(run_directory, "comparison", comparison_facts(reference="large", recommended="small"))
    assert shown(run_directory)["comparison"][-1] == "PASS: small in place of large"


def test_all_stages_are_rows_in_their_order_begun_and_missing_ones_too(run_directory):
    finish(run_directory, "prompts")
    run_directory.open_stage("samples", {})
    rows = shown(run_directory)
    stages = [name for name in STAGE_NAMES if name not in OPTIONAL_STAGES]
    assert list(rows) == ["title", *stages]
    assert rows["title"] == [str(run_directory.root)]
    states = [rows[stage][1] for stage in stages]
    assert states == ["finished", "begun", *["missing"] * 4]


def test_a_stage_that_is_made_again_is_begun(run_directory):
    finish(run_directory, "prompts")
    run_directory.set_aside("prompts")
    run_directory.open_stage("prompts", {})
    assert shown(run_directory)["prompts"][1] == "begun"


def test_a_damaged_manifest_is_an_error(run_directory):
    finish(run_directory, "prompts")
    (run_directory.stage_dir("prompts") / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="the manifest is damaged"):
        status_table(run_directory)


def test_a_directory_named_like_markup_is_shown_as_it_is(tmp_path):
    run_directory = RunDirectory(tmp_path / "[bold]run")
    finish(run_directory, "prompts")
    assert shown(run_directory)["title"] == [str(run_directory.root)]


def test_a_teacher_named_like_markup_is_shown_as_it_is(run_directory):
    facts = samples_facts(teacher=teacher_identity(model="/models/[/v2]"))
    finish(run_directory, "samples", facts)
    told = shown(run_directory)["samples"][-1]
    assert told.startswith("/models/[/v2]: 3 conversations; 224,512")


def test_names_in_a_strangers_run_control_no_terminal(run_directory):
    hostile = "\x1b]0;title\x07[/b]\x9b31m\u202e"
    finish(run_directory, "samples", samples_facts(teacher=teacher_identity(model=hostile)))
    (line,) = [row[-1] for name, row in shown(run_directory).items() if name == "samples"]
    assert line.startswith("\ufffd]0;title")
    assert "[/b]" in line
    assert not set("\x1b\x07\x9b\u202e") & set(line)


def test_what_only_shows_a_run_runs_no_code_of_its_author(run_directory, tmp_path):
    marker, code = tmp_path / "called", tmp_path / "theirs.py"
    code.write_text(f"open({str(marker)!r}, 'w')\n\ndef score(*_):\n    return 1\n")
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "One?", "answer": "art"}\n')
    metric = {"kind": "function", "function": f"{code}:score"}
    task = TaskConfig.model_validate({"examples": examples, "metrics": [metric]})
    write_task(task, run_directory)
    marker.unlink()
    sys.modules.pop(f"potstill_user_functions.{code.resolve().as_posix()}")
    run_directory.config_path.write_text(
        f"[task]\nexamples = {json.dumps(str(examples))}\n"
        f'[[task.metrics]]\nkind = "function"\nfunction = {json.dumps(f"{code}:score")}\n'
        f"[serve.vllm]\npython = {json.dumps(str(code))}\n"
    )
    assert shown(run_directory)["task"][-1].endswith("measured: score")
    assert "measured: score" in page_of(run_directory)
    for verb in ("versions", "lineage"):
        CliRunner().invoke(app, [verb, str(run_directory.root)])
    assert not marker.exists()
