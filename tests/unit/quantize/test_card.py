from __future__ import annotations

import pytest

from quantize.card import UNKNOWN, teacher_licence, write_card


@pytest.fixture
def card(tmp_path, make_conversation, write_conversations):
    """Return a function that writes the card of two files beside stored conversations."""

    def write(evaluation=None, **teacher) -> str:
        write_conversations(
            tmp_path,
            [
                make_conversation(source="a.jsonl", licence="MIT"),
                make_conversation(source="b.jsonl", licence=None, split="validation"),
                make_conversation(source="magpie", licence="MIT", split="test"),
            ],
        )
        file = {
            "bytes": 89_000_000,
            "bits_per_weight": 6.17,
            "kl_to_checkpoint_nats": 0.071,
            "kl_bound_nats": 0.2,
            "top1_agreement_with_checkpoint": 0.9,
        }
        files = [file | {"name": name, "file": f"{name}.gguf"} for name in ("big", "small")]
        about = {"model": "tiny", "path": str(tmp_path), "num_parameters": 1_000_000}
        student = {
            "teacher": about | teacher,
            "num_parameters": 500_000,
            "num_layers": 2,
            "method": "full",
            "evaluation": {"trained": evaluation or {"kl_nats": 0.5, "top1_agreement": 0.75}},
        }
        return write_card(files, "small", student, tmp_path, 1024)

    return write


def test_prompts_of_every_split_are_named_with_their_licences(card):
    assert f"from: a.jsonl, b.jsonl, magpie; their licence: MIT, {UNKNOWN}" in card()


def test_the_recommended_file_stands_out(card):
    assert "| **small.gguf** | 89,000,000 |" in card()
    assert "| big.gguf | 89,000,000 |" in card()


def test_closeness_is_said_where_it_can_be_measured(card):
    assert "KL 0.5000 nats per token, top-1 agreement 75.0%" in card()
    own = {"kl_nats": None, "top1_agreement": None, "nats_per_token": 1.25}
    assert "a tokenizer of its own; 1.2500 nats per token of its own" in card(own)


def test_a_served_teacher_of_unknown_size_gets_none(card):
    assert "- Teacher: tiny, 1,000,000 parameters\n" in card()
    assert "- Teacher: tiny\n" in card(num_parameters=0)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\nA model.", "apache-2.0"),
        ("---\nlicense:\n---\n", UNKNOWN),
        ("license: mit", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_the_teachers_licence_is_read_from_its_front_matter(tmp_path, text, licence):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert teacher_licence(tmp_path) == licence
