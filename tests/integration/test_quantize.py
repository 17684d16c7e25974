"""The real teacher through the stage: its GGUF files are as close to it as their bits allow."""

from __future__ import annotations

import json
import shutil

import pytest

from potstill.chat import render_prompt, tokenize
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from potstill.schema import Message
from quantize.config import QuantizeConfig
from quantize.stage import run
from tests.fixtures.facts import student_facts, taken_from

QUESTIONS_AND_ANSWERS = {
    "Why is the sky blue?": "The sky appears blue because air scatters short wavelengths of light "
    "more strongly than long ones. This is called Rayleigh scattering.",
    "Write a line of Python that reverses a list.": "You can use slicing:\n\n```python\n"
    "reversed_items = items[::-1]\n```\n\nThis makes a new list, and does not change the old one.",
}


@pytest.fixture
def real_run(teacher_dir, tmp_path, make_conversation, finish_conversations):
    """Return a run whose student is the teacher itself."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    conversations = []
    for question, answer in QUESTIONS_AND_ANSWERS.items():
        given = (Message(role="user", content=question),)
        prompt_ids = render_prompt(tokenizer, given)
        answer_ids = [*tokenize(tokenizer, answer), tokenizer.eos_token_id]
        conversations += [
            make_conversation(
                prompt_ids + answer_ids,
                [(len(prompt_ids), len(answer_ids))],
                name=f"{split}: {question}",
                given=given,
                split=split,
            )
            for split in ("train", "test")
        ]
    run_directory = RunDirectory(tmp_path / "run")
    made = finish_conversations(run_directory, teacher_dir, conversations)
    session = run_directory.open_stage("student", {}, inputs=("conversations",))
    shutil.copytree(teacher_dir, session.dir, dirs_exist_ok=True)
    session.finish(facts=student_facts(**taken_from(made.facts)))
    return run_directory


def test_real_model_becomes_verified_gguf_files(real_run, capfd):
    config = QuantizeConfig(teacher_types=(), verification_tokens=64, num_threads=1)
    manifest = run(config, real_run)
    verify_manifest(real_run.stage_dir("gguf"))
    files = {file.name: file for file in manifest.facts.files}
    assert list(files) == ["student-F16", "student-Q8_0", "student-Q4_K_M"]
    losses = [file.kl_to_checkpoint_nats for file in files.values()]
    assert 0 <= losses[0] < losses[1] < losses[2]
    assert files["student-F16"].num_parameters == 134_515_008
    assert files["student-F16"].top1_agreement_with_checkpoint > 0.98
    stock = files["student-Q4_K_M"]
    assert stock.bits_per_weight == pytest.approx(6.17, abs=0.01)
    assert stock.fallbacks == {"Q5_0": 166, "Q8_0": 14}, "rows of 576"
    assert stock.imatrix
    assert manifest.facts.recommended == "student-Q4_K_M"
    modelfile = (real_run.stage_dir("gguf") / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "named SmolLM" in modelfile
    assert "llama_" not in capfd.readouterr().err
    metrics = [json.loads(line) for line in real_run.metrics_path.read_text().splitlines()]
    assert [line["file"] for line in metrics] == [file.file for file in files.values()]
