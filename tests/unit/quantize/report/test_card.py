from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from potstill.licenses import UNKNOWN
from quantize.report.card import PLOT_NAME, write_card
from tests.fixtures.facts import evaluation, fidelity, student_facts, teacher_identity


@pytest.fixture
def card(tmp_path, files, make_conversation, write_conversations):
    """Return a function that writes the card of files beside stored conversations."""

    def write(trained=None, **teacher) -> str:
        write_conversations(
            tmp_path,
            [
                make_conversation(source="a.jsonl", license="MIT"),
                make_conversation(source="b.jsonl", license=None, split="validation"),
                make_conversation(source="magpie", license="MIT", split="test"),
            ],
        )
        about = {"model": "tiny", "path": str(tmp_path), "num_parameters": 1_000_000}
        student = student_facts(
            teacher=teacher_identity(**about | teacher),
            evaluation=evaluation(trained=trained or fidelity()),
        )
        return write_card(files, "student-Q4_K_M", "the smallest", student, tmp_path, 1024)

    return write


def test_prompts_of_every_split_are_named_with_their_licenses(card):
    assert f"from: a.jsonl, b.jsonl, magpie; their license: MIT, {UNKNOWN}" in card()


def test_the_recommended_file_stands_out(card):
    text = card()
    assert (
        "| **student-Q4_K_M.gguf** | 89,000,000 | 6.17 | 1,234 | 45.7 | 321 | 234 | yes |" in text
    )
    assert "| student-Q8_0.gguf | 145,000,000 | 6.17 | 1,234 | 45.7 | 321 | 234 | no |" in text


def test_every_figure_is_in_the_card(card):
    row = (
        "| **student-Q4_K_M.gguf** | 0.071000 ± 0.007100 | 0.2 | 0.035500 | 0.3550 | 0.7100 "
        "| 1.4200 | 90.00% | -0.100% | 5.000% | 24.500 | 1.0123 |"
    )
    assert row in card()


def test_the_picture_beside_it_is_shown(card):
    assert f"({PLOT_NAME})" in card()


@pytest.mark.parametrize(
    ("model", "base"),
    [("tiny", None), ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct")],
)
def test_the_front_matter_is_what_hugging_face_reads(model, base, card):
    data = ModelCard(card(model=model), ignore_metadata_errors=False).data
    assert data.base_model == base
    assert data.license == "unknown"
    assert data.library_name == "gguf"
    assert data.pipeline_tag == "text-generation"
    assert data.quantized_by == "potstill"
    assert {"gguf", "knowledge-distillation"} <= set(data.tags)


def test_the_distance_from_the_teacher_is_in_the_card(card):
    assert "KL 0.5000 nats per token, top-1 agreement 75.0%" in card()
    own = fidelity(None, nats_per_token=1.25)
    assert "its own tokenizer; 1.2500 nats per token of its own" in card(own)
    of_text = card(own, text_only=True, model="some/teacher")
    assert "because the teacher gave text alone; 1.2500 nats" in of_text
    assert "at sequence level (kd.weight = 0)" in of_text
    assert "the terms of its API, which allow training on its answers" in of_text
    assert ModelCard(of_text, ignore_metadata_errors=False).data.base_model is None


def test_a_served_teacher_of_unknown_size_gets_none(card):
    assert "- Teacher: tiny, 1,000,000 parameters\n" in card()
    assert "- Teacher: tiny\n" in card(num_parameters=0)
