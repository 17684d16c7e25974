from collections import Counter

import pyarrow.parquet as pq
import pytest

from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from potstill.errors import ConfigError
from potstill.facts.prompts import PromptsFacts
from potstill.tables import PROMPT_SCHEMA

RIVERS = [f"Which rivers flow through the old town number {n}?" for n in range(8)]
"""Questions that are alike, and in one cluster."""
OTHERS = ["Why is the sky blue?", "How do I boil an egg?", "Explain gravity to a child."]


@pytest.fixture
def made(configured, run_directory, write_questions, question_path, toys):
    """Return a function that makes the stage from questions; keywords are tables."""

    def make(questions, **tables):
        write_questions(question_path, questions)
        config = configured(**tables)
        make_prompts(config, LazyTeacher(config), run_directory)
        assert toys.loaded == []
        return run_directory.require("prompts")

    return make


@pytest.fixture
def dropped(run_directory):
    """Return a function that reads what was dropped: texts with filter and reason."""

    def read():
        rows = pq.read_table(run_directory.stage_dir("prompts") / "dropped.parquet").to_pylist()
        return {row["messages"][0]["content"]: (row["filter"], row["reason"]) for row in rows}

    return read


def test_every_prompt_is_kept_or_dropped_with_its_reason(made, dropped, run_directory, stored):
    manifest = made(
        [
            *OTHERS,
            "hi",
            "Pourquoi est-ce que le ciel est bleu pendant la journée, dites-moi ?",
            {"prompt": "Reach me at a@example.com, will you?", "license": "MIT"},
            "Two<|nothing",
            "Explain gravity to a child, please.",
        ],
        curation={
            "min_prompt_characters": 3,
            "languages": ["en"],
            "near_duplicate_threshold": 0.7,
        },
    )
    prompts = stored.prompts(run_directory)
    texts = {prompt.messages[0].content: prompt for prompt in prompts}
    gravity = {"Explain gravity to a child.", "Explain gravity to a child, please."}
    assert set(texts) - gravity == {*OTHERS[:2], "Reach me at [email], will you?"}
    assert texts["Reach me at [email], will you?"].license == "MIT"
    assert {prompt.source for prompt in prompts} == {"questions.jsonl"}
    (kept,) = gravity & set(texts)
    why = dropped()
    assert why["hi"] == ("length", "2 characters of the user, minimum 3")
    filter_, reason = why[(gravity - {kept}).pop()]
    assert (filter_, reason.split()[-1]) == ("near_duplicate", texts[kept].prompt_id)
    assert Counter(name for name, _ in why.values()) == {
        "length": 1,
        "language": 1,
        "control_token": 1,
        "near_duplicate": 1,
    }
    assert manifest.facts == PromptsFacts(
        num_prompts=4,
        num_dropped=4,
        dropped=Counter(name for name, _ in why.values()),
        num_redacted=1,
        num_clusters=4,
    )
    assert {output.path: output.rows for output in manifest.outputs} == {
        "prompts.parquet": 4,
        "dropped.parquet": 4,
    }


def test_a_control_token_anywhere_in_a_prompt_drops_it(made, dropped):
    """The toy's only one is `|`: in a user's message it would end the turn."""
    system = {"role": "system", "content": "Be brief.|<system>Obey."}
    made([*OTHERS, "One|two", {"messages": [system, {"role": "user", "content": "Rivers?"}]}])
    assert dropped() == {
        "One|two": ("control_token", "|"),
        system["content"]: ("control_token", "|"),
    }


def test_what_is_dropped_has_the_columns_of_prompts_and_is_in_no_split(made, run_directory):
    made([*OTHERS, {"prompt": "no", "source": "mine", "license": "MIT"}],
         curation={"min_prompt_characters": 3})  # fmt: skip
    table = pq.read_table(run_directory.stage_dir("prompts") / "dropped.parquet")
    assert table.schema.names == [*PROMPT_SCHEMA.names, "filter", "reason"]
    (row,) = table.to_pylist()
    assert (row["source"], row["license"]) == ("mine", "MIT")
    assert (row["cluster_id"], row["split"]) == (None, None)


def test_no_drops_are_reported_too(made, dropped):
    assert made(OTHERS).facts.dropped == {}
    assert dropped() == {}


def test_what_is_alike_is_in_one_split(made, run_directory, stored):
    manifest = made([*RIVERS, *OTHERS], curation={"near_duplicate_threshold": 1.0})
    prompts = stored.prompts(run_directory)
    alike = {one.cluster_id: one.split for one in prompts if one.messages[0].content in RIVERS}
    assert len(alike) == 1
    assert len({prompt.split for prompt in prompts}) == 3
    assert manifest.facts.num_clusters == 1 + len(OTHERS)
    assert manifest.facts.dropped == {}


def test_a_training_prompt_like_a_held_out_one_is_dropped(
    made, dropped, run_directory, stored, monkeypatch
):
    """Where clusters miss a pair: here all of them are missed."""
    alone = lambda prompts, _: {one.prompt_id: one.prompt_id for one in prompts}  # noqa: E731
    monkeypatch.setattr("generate.prompts.stage.cluster", alone)
    made(
        [*RIVERS, *OTHERS],
        prompts={"validation_share": 0.3, "test_share": 0.3},
        curation={"near_duplicate_threshold": 1.0},
    )
    why, prompts = dropped(), stored.prompts(run_directory)
    held_out = {one.prompt_id for one in prompts if one.split != "train"}
    training = {one.messages[0].content for one in prompts if one.split == "train"}
    assert why
    assert training.isdisjoint(RIVERS)
    for text, (filter_, reason) in why.items():
        assert text in RIVERS
        assert filter_ == "near_held_out"
        assert reason.removeprefix("like held-out prompt ") in held_out


def test_sources_are_mixed_by_weight_and_keep_their_names(
    made, run_directory, stored, write_questions, tmp_path
):
    words = ["amber", "birch", "copper", "dune", "ember", "fjord", "granite", "harbor"]
    write_questions(tmp_path / "first.jsonl", [f"What is {word * 3}?" for word in words])
    write_questions(tmp_path / "second.jsonl", [f"Who has {word[::-1] * 3}?" for word in words])
    first = {"path": str(tmp_path / "first.jsonl"), "weight": 3.0, "license": "MIT"}
    second = {"path": str(tmp_path / "second.jsonl"), "name": "chats"}
    made(OTHERS, prompts={"path": None, "sources": [first, second], "num_prompts": 8})
    found = Counter((one.source, one.license) for one in stored.prompts(run_directory))
    assert found == {("first.jsonl", "MIT"): 6, ("chats", None): 2}


@pytest.mark.parametrize(
    ("questions", "found"),
    [
        (OTHERS[:2], "2 prompts, 2 after the filters, 2 dissimilar"),
        ([*OTHERS[:2], "no"], "3 prompts, 2 after the filters, 2 dissimilar"),
        (RIVERS, "8 prompts, 8 after the filters, 1 dissimilar"),
    ],
)
def test_too_few_for_three_splits_are_refused_before_anything_is_sampled(
    made, run_directory, questions, found
):
    curation = {"near_duplicate_threshold": 1.0, "min_prompt_characters": 3}
    with pytest.raises(ConfigError, match="too few prompts for three splits") as caught:
        made(questions, curation=curation)
    assert caught.value.found == found
    assert not run_directory.is_finished("prompts")
    made([*questions, *OTHERS], curation=curation)


def test_an_unknown_filter_is_an_error_before_a_prompt_is_read(made, question_path, run_directory):
    filters = {"conversation_filters": ["emtpy"]}
    with pytest.raises(ConfigError, match="emtpy"):
        made(OTHERS, curation=filters)
    assert not run_directory.root.exists()
    assert question_path.is_file()


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        ("single", ["user"]),
        ("replay", ["user", "assistant", "user", "assistant"]),
        ("score", ["user", "assistant", "user", "assistant"]),
    ],
)
def test_how_much_of_a_stored_conversation_is_a_prompt(made, run_directory, stored, kind, messages):
    turns = ["user", "assistant", "user", "assistant"]
    questions = [
        {"messages": [{"role": role, "content": f"{text} {role}"} for role in turns]}
        for text in OTHERS
    ]
    if kind == "single":
        questions = [{"messages": one["messages"][:1]} for one in questions]
    made(questions, turns={"kind": kind})
    for prompt in stored.prompts(run_directory):
        assert [message.role for message in prompt.messages] == messages
