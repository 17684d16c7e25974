import json
from pathlib import Path

import pytest

from potstill.errors import ArtifactError
from train.config import TrainConfig
from train.job import (
    Job,
    Outcome,
    PhaseFiles,
    phases_of,
    read_job,
    write_job,
    write_json,
)
from train.students.plan import StudentPlan


def job(scratch_dir):
    return Job(
        config=TrainConfig(max_steps=3),
        plan=StudentPlan(checkpoint_dir=Path("/teacher"), removed_layers=(1, 2)),
        teacher_dir=Path("/teacher"),
        tokenizer_dir=Path("/teacher"),
        conversations_dir=Path("/run/conversations"),
        pad_token_id=0,
        tokens_are_draws=True,
        metrics_path=scratch_dir / "metrics.jsonl",
        generations_path=scratch_dir / "generations.jsonl",
        tensorboard_dir=scratch_dir,
    )


def test_a_job_is_read_as_it_was_written(tmp_path):
    write_job(job(tmp_path), tmp_path)
    assert read_job(tmp_path) == job(tmp_path)


def test_a_damaged_job_is_refused(tmp_path):
    write_job(job(tmp_path), tmp_path)
    path = tmp_path / "job.json"
    content = json.loads(path.read_text())
    content["config"]["max_steps"] = 0
    path.write_text(json.dumps(content))
    for damage in (path.read_text(), "{"):
        path.write_text(damage)
        with pytest.raises(ArtifactError, match="intermediate files cannot be read"):
            read_job(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_job(tmp_path / "absent")


def test_a_phase_is_done_when_its_outcome_is_there(tmp_path):
    files = PhaseFiles(tmp_path, "offline")
    assert files.outcome() is None
    with pytest.raises(ArtifactError):
        files.weights_path()
    outcome = Outcome(steps=9, kept_step=6, weights_name="best.safetensors", tokens=100)
    write_json(outcome, files.outcome_path)
    assert files.outcome() == outcome
    assert files.weights_path() == files.best_path


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("offline",)),
        ({"on_policy": {"max_steps": 1}}, ("offline", "on_policy")),
        ({"quantization_aware": {"type": "Q8_0"}}, ("offline", "quantization_aware")),
        (
            {"on_policy": {"max_steps": 1}, "quantization_aware": {"type": "Q8_0"}},
            ("offline", "on_policy", "quantization_aware"),
        ),
    ],
)
def test_phases_are_those_asked_for(settings, expected):
    assert phases_of(TrainConfig.model_validate(settings)) == expected
