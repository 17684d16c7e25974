import re
from collections import Counter

import pytest
import yaml

from generate.dataset.card import render_card
from generate.sampling.summary import Summary
from tests.fixtures.facts import conversations_facts


@pytest.fixture
def facts():
    return conversations_facts(
        top_logprobs=128,
        min_probability=0.001,
        generation_temperature=0.7,
        generation_top_p=0.9,
        turns="simulate",
        languages={"en": 1200, "no": 30},
        dropped_prompts={"length": 2, "near_duplicate": 4000},
        dropped_conversations={"looping": 7, "length": 1},
    )


@pytest.fixture
def summary():
    return Summary(
        rows_by_part={"train-00000.parquet": 1230, "test-00000.parquet": 4},
        num_conversations_by_split={"train": 1230, "validation": 0, "test": 4},
        sources=Counter({("mine.jsonl", "CC-BY-4.0"): 1000, ("magpie", None): 234}),
        answer_lengths=Counter({10: 100}),
        num_tokens=1500,
        tail_mass=250.0,
        entropy_bits=2000.0,
        num_entries=20_000,
        num_bytes=45_000,
    )


def front(card: str) -> dict:
    begin, front, _ = card.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(front)


def table(card: str, heading: str) -> list[list[str]]:
    """Return the rows of the table below a heading."""
    lines = card.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_hugging_face_finds_the_splits_that_have_files(facts, summary):
    assert front(render_card(facts, summary)) == {
        "license": "other",
        "language": ["en", "no"],
        "task_categories": ["text-generation"],
        "tags": ["distillation", "chat", "logprobs", "synthetic"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "train-*.parquet"},
                    {"split": "test", "path": "test-*.parquet"},
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    ("licenses", "said"),
    [
        (["Apache-2.0"], "apache-2.0"),
        ([None], "unknown"),
        (["MIT", None], "other"),
        (["mine: \"see\" # below"], 'mine: "see" # below'),
    ],
)  # fmt: skip
def test_the_license_is_one_if_all_prompts_have_the_same(facts, summary, licenses, said):
    summary.sources = Counter({("a", license): 1 for license in licenses})
    assert front(render_card(facts, summary))["license"] == said


def test_without_a_language_none_is_named(facts, summary):
    card = render_card(facts.model_copy(update={"languages": {}}), summary)
    assert "language" not in front(card)
    assert "Detected languages of the prompts:\nunknown." in card


def test_counts_stand_in_tables(facts, summary):
    card = render_card(facts, summary)
    assert "1,234 conversations, 1,000 tokens" in card
    assert "45.0 bytes per token" in card
    assert table(card, "Origin") == [
        ["magpie", "unknown", "234"],
        ["mine.jsonl", "CC-BY-4.0", "1,000"],
    ]
    assert table(card, "Content") == [["train", "1,230"], ["validation", "0"], ["test", "4"]]
    assert table(card, "Dropped") == [
        ["length", "2", "1"],
        ["near_duplicate", "4,000", "0"],
        ["looping", "0", "7"],
    ]
    assert "en 1,200, no 30" in card


def test_nothing_left_out_is_a_row(facts, summary):
    card = render_card(
        facts.model_copy(update={"dropped_prompts": {}, "dropped_conversations": {}}), summary
    )
    assert table(card, "Dropped") == [["nothing", "0", "0"]]


def test_a_source_cannot_break_a_table(facts, summary):
    summary.sources = Counter({("a | b\n| evil | evil | 7 |", None): 3})
    (row,) = table(render_card(facts, summary), "Origin")
    assert row[1:] == ["unknown", "3"]


def test_the_signal_is_described(facts, summary):
    card = render_card(facts, summary)
    text = " ".join(card.partition("## The signal")[2].split())
    assert "at most the 128 most probable tokens" in text
    assert "a probability of at least 0.001 (20.0 on average)" in text
    assert "leave out 25.0% of the probability; the entropy is at least 2.0 bits" in text
    assert "1/255" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Sampled at temperature 0.7 and top-p 0.9, turns: simulate\n"),
        ({"num_sampled_per_prompt": 3, "num_kept_per_prompt": 3}, "turns: simulate\n"),
        ({"num_sampled_per_prompt": 8}, "; 1 kept of 8 sampled for each prompt\n"),
        ({"turns": "score"}, "Stored answers, scored by the teacher\n"),
        ({"known_answers": True}, "; known answers, where there are some, instead"),
        ({"structured": True}, "; bound by a schema, which the log-probabilities leave out\n"),
        (
            {
                "prompt_distilled": True,
                "teacher_prompt_tokens": 900.5,
                "student_prompt_tokens": 31.0,
            },
            "Prompts are the student's (31.0 tokens on average)",
        ),
    ],
)
def test_how_answers_came_about(facts, summary, changes, said):
    assert said in render_card(facts.model_copy(update=changes), summary)


def test_a_teacher_of_text_and_left_out_thinking_are_stated(facts, summary):
    assert "its license may limit their use" in render_card(facts, summary)
    teacher = facts.teacher.model_copy(update={"text_only": True})
    changed = facts.model_copy(update={"teacher": teacher, "thinking": "answer"})
    card = render_card(changed, summary)
    assert "without the thinking after which the teacher answered" in card
    assert "behind an API that gave text alone" in card
    assert "terms of its API allow training on them" in card
    assert "logprobs" not in front(card)["tags"]
