"""Which stored log-probabilities the token-level loss takes, and what it says of the others."""

from pathlib import Path

import pytest

from potstill.errors import ManifestMismatchError, TrainingError
from tests.fixtures.facts import conversations_facts, teacher_identity
from train.config import KDConfig, TrainConfig
from train.data.signal_checks import (
    at_sequence_level,
    refuse_distilled_prompts,
    refuse_missing_teacher,
    refuse_other_signal,
)

WHERE = Path("conversations")
SCORED = {"generation_temperature": None, "generation_top_p": None}


def check(facts, **config):
    refuse_other_signal(KDConfig(**config), conversations_facts(**facts), WHERE)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"generation_temperature": 0.7}, "answers sampled at temperature 0.7 and top-p 1.0"),
        ({"generation_top_p": 0.9}, "answers sampled at temperature 1.0 and top-p 0.9"),
        (SCORED, "answers written by others"),
        ({"structured": True}, "answers sampled at temperature 1.0 and top-p 1.0 under a schema"),
        ({"num_sampled_per_prompt": 4}, "1 answers chosen of 4 sampled for each prompt"),
    ],
)
def test_the_tail_sample_needs_plain_draws(facts, found):
    with pytest.raises(ManifestMismatchError) as caught:
        check(facts, tail="sample")
    assert caught.value.found == found
    assert "train.kd.tail=bucket" in caught.value.hint
    check(facts, tail="bucket")
    check(facts, tail="sample", weight=0.0)


def test_answers_are_not_judged_after_prompts_without_the_teachers_instructions():
    refuse_distilled_prompts(conversations_facts(), WHERE)
    with pytest.raises(ManifestMismatchError, match="lacks its instructions") as caught:
        refuse_distilled_prompts(conversations_facts(prompt_distilled=True), WHERE)
    assert "train.on_policy.max_steps=0" in caught.value.hint
    with pytest.raises(ManifestMismatchError, match="or its thinking"):
        refuse_distilled_prompts(conversations_facts(thinking="answer"), WHERE)


def test_a_teacher_of_text_sets_the_weight_of_token_level_kd(caplog):
    config, teacher = TrainConfig(), teacher_identity(text_only=True)
    caplog.set_level("INFO")
    assert at_sequence_level(config, conversations_facts()) is config
    assert not caplog.text
    changed = at_sequence_level(config, conversations_facts(teacher=teacher))
    assert (config.kd.weight, changed.kd.weight) == (0.9, 0.0)
    assert "gave text alone: the student learns at sequence level" in caplog.text


@pytest.mark.parametrize(
    ("tables", "where"),
    [
        ({}, "train.student.checkpoint"),
        (
            {"student": {"checkpoint": "s"}, "on_policy": {"max_steps": 1}},
            "train.on_policy.max_steps",
        ),
    ],
)
def test_what_needs_weights_of_a_teacher_of_text_is_refused(tables, where):
    with pytest.raises(TrainingError, match="has no weights on this machine") as caught:
        refuse_missing_teacher(TrainConfig.model_validate(tables))
    assert caught.value.where == where
    refuse_missing_teacher(TrainConfig.model_validate({"student": {"checkpoint": "s"}}))


def test_several_answers_that_are_all_kept_are_plain_draws(caplog):
    check({"num_sampled_per_prompt": 4, "num_kept_per_prompt": 4}, tail="sample")
    assert not caplog.text


def test_filters_that_may_bias_the_tail_sample_are_told(caplog):
    check({"num_dropped": 3}, tail="bucket")
    assert not caplog.text
    check({"num_dropped": 3}, tail="sample")
    assert "filters left out 3 conversations" in caplog.text


def test_processed_log_probabilities_are_refused():
    with pytest.raises(ManifestMismatchError, match="raw_logprobs"):
        check({"logprobs_mode": "processed_logprobs"})
    check({"logprobs_mode": "processed_logprobs"}, weight=0.0)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"generation_temperature": 0.7}, "sampled at temperature 0.7 and top-p 1.0"),
        (SCORED, "written by others"),
    ],
)
def test_a_conflict_with_the_cross_entropy_is_told(caplog, facts, told):
    check(facts, weight=1.0)
    assert not caplog.text
    check(facts, weight=0.5)
    assert told in caplog.text
