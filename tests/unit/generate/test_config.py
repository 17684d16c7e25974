from pathlib import Path

import pytest
from pydantic import ValidationError

from generate.config import GenerateConfig, PromptsConfig, TurnsConfig
from generate.teachers.config import TeacherConfig

ENDPOINT = {"base_url": "http://localhost:8000/v1", "model": "served", "tokenizer": "/t"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"path": "a", "sources": [{"path": "b"}]}, "path, or sources, not both"),
        ({"sources": [{"kind": "evolve"}, {"kind": "evolve"}]}, "prompts of other sources"),
        ({"num_prompts": 2}, "greater than or equal to 3"),
        ({"test_share": 0.5}, "less than 0.5"),
        ({"validation_share": 0.0}, "greater than 0"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(table, said):
    with pytest.raises(ValidationError, match=said):
        PromptsConfig.model_validate(table)


def test_sources_come_in_one_form():
    (one,) = PromptsConfig(path="a.jsonl").all_sources
    assert (one.path, one.kind, one.weight) == ("a.jsonl", None, 1.0)
    (one,) = PromptsConfig().all_sources
    assert (one.path, one.kind) == (None, "magpie")
    named = [{"path": "b"}, {"kind": "evolve"}]
    assert PromptsConfig.model_validate({"sources": named}).all_sources[1].kind == "evolve"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"min_turns": 4}, "min_turns is more than max_turns"),
        ({"best_by": "reward"}, "reward_model go together"),
        ({"reward_model": "/r"}, "reward_model go together"),
        ({"kind": "chat"}, "single"),
        ({"num_answers": 0}, "greater than or equal to 1"),
    ],
)
def test_turns_that_make_no_sense_are_refused(table, said):
    with pytest.raises(ValidationError, match=said):
        TurnsConfig.model_validate(table)


@pytest.mark.parametrize(
    ("table", "num_sampled"),
    [
        ({}, 1),
        ({"num_answers": 3}, 3),
        ({"best_of": 8, "num_answers": 2}, 8),
        ({"best_of": 2, "num_answers": 3}, 3),
        ({"kind": "score", "num_answers": 3}, 1),
        ({"best_of": 4, "best_by": "reward", "reward_model": "/r"}, 4),
    ],
)
def test_how_many_conversations_are_sampled_of_a_prompt(table, num_sampled):
    assert TurnsConfig.model_validate(table).num_sampled == num_sampled


def test_where_a_teacher_runs_does_not_tell_it_from_another():
    here = TeacherConfig(model="/m", dtype="float32", lora=Path("/l"))
    assert here.identity == {"model": "/m", "dtype": "float32", "lora": "/l"}
    served = TeacherConfig.model_validate({"model": "/m", "endpoint": ENDPOINT})
    assert served.identity == {
        "model": "/m", "dtype": "auto", "lora": None, "served_as": "served"
    }  # fmt: skip
    elsewhere = served.model_copy(
        update={"endpoint": served.endpoint.model_copy(update={"base_url": "http://other:1/v1"})}
    )
    assert elsewhere.identity == served.identity


@pytest.mark.parametrize(
    ("tables", "has_replicas"),
    [
        ({}, False),
        ({"engine": {"data_parallel_size": 2}}, True),
        ({"engine": {"data_parallel_size": 2}, "ray": {}}, False),
        ({"engine": {"data_parallel_size": 2}, "teacher": {"endpoint": ENDPOINT}}, False),
    ],
)
def test_copies_are_of_a_teacher_in_this_machine(tables, has_replicas):
    assert GenerateConfig.model_validate(tables).has_replicas is has_replicas


def test_log_probabilities_fit_the_format():
    with pytest.raises(ValidationError, match="less than or equal to 255"):
        GenerateConfig.model_validate({"sampling": {"top_logprobs": 256}})


def test_a_configuration_survives_json():
    """As it is sent to the replicas of a teacher."""
    config = GenerateConfig.model_validate(
        {
            "teacher": {"endpoint": ENDPOINT, "lora": "/l"},
            "prompts": {"sources": [{"kind": "magpie", "system_prompts": ["Be."]}]},
            "turns": {"system_prompts": ["A", "B"]},
            "curation": {"evaluation_sets": [{"name": "e", "path": "/e"}]},
            "ray": {},
        }
    )
    assert GenerateConfig.model_validate_json(config.model_dump_json()) == config


TEXT = {"endpoint": ENDPOINT | {"text_only": True, "terms_allow_training": True}}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"turns": {"kind": "score"}}, "turns.kind = 'score'"),
        ({"turns": {"kind": "simulate"}}, "without another model as the user: name one"),
        ({"prompts": {}}, "without being asked .magpie.: name a file"),
        ({"turns": {"best_of": 2}}, "best_by = 'logprob': choose by metric"),
        ({"thinking": {"max_tokens": 9}}, "thinking.max_tokens: sampling.max_tokens bounds"),
    ],
)
def test_what_a_teacher_of_text_cannot_do_is_refused(tables, said):
    prompts = {"prompts": {"path": "prompts.jsonl"}}
    config = GenerateConfig.model_validate({"teacher": TEXT} | prompts)
    assert config.teacher.gives_text
    assert config.teacher.identity["text_only"]
    with pytest.raises(ValidationError, match=said):
        GenerateConfig.model_validate({"teacher": TEXT} | prompts | tables)
    GenerateConfig.model_validate(
        {"teacher": TEXT, "sampling": {"structured": True}, "turns": {"user": ENDPOINT}} | prompts
    )


@pytest.mark.parametrize(
    "tables",
    [
        {"sampling": {"bind_known": True}},
        {"sampling": {"bind_known": True, "structured": True}, "turns": {"kind": "simulate"}},
    ],
)
def test_known_answers_bind_single_structured_answers_only(tables):
    with pytest.raises(ValidationError, match="bind_known needs sampling"):
        GenerateConfig.model_validate(tables)


@pytest.mark.parametrize("student", ["answer", "both"])
@pytest.mark.parametrize("turns", [{"kind": "replay"}, {"tool_results": "echo"}])
def test_thinking_is_left_out_of_single_answers_only(student, turns):
    GenerateConfig.model_validate({"turns": turns})
    GenerateConfig.model_validate({"thinking": {"student": student}})
    with pytest.raises(ValidationError, match="needs conversations of one answer"):
        GenerateConfig.model_validate({"turns": turns, "thinking": {"student": student}})
