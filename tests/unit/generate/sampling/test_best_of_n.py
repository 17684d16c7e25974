from pathlib import Path

import numpy as np
import pytest

from generate.config import TurnsConfig
from generate.sampling.best_of_n import length, make_choice, mean_logprob, reward
from potstill.chat import render_text, tokenize
from potstill.errors import ArtifactError, ConfigError, TeacherError
from potstill.schema import Message
from potstill.task.answers import Answer
from potstill.task.metrics.config import ExactConfig, LabelConfig
from potstill.task.task import Task


def answered(make_conversation, logprobs, name="p", answer_index=0, finished=True):
    num_tokens = len(logprobs)
    conversation = make_conversation(
        list(range(1, num_tokens + 3)),
        [(2, num_tokens)],
        name=name,
        answer_index=answer_index,
        sampled_logprobs=logprobs,
    )
    if not finished:
        turn = conversation.turns[0].model_copy(update={"finish_reason": "length"})
        object.__setattr__(conversation, "turns", (turn,))
    return conversation


def names(conversations) -> list[str]:
    return [one.conversation_id for one in conversations]


def test_the_mean_log_probability_is_per_token(make_conversation):
    assert mean_logprob(answered(make_conversation, [-1.0, -2.0, -6.0])) == pytest.approx(-3.0)


def test_the_longest_finished_answer_is_best_and_the_shortest_cut_off_one_worst(make_conversation):
    ranked = [
        answered(make_conversation, [-1.0] * num_tokens, finished=finished)
        for num_tokens, finished in [(5, True), (2, True), (9, False), (3, False)]
    ]
    scores = [length(one) for one in ranked]
    assert scores[:2] == [5.0, 2.0]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 4


def test_the_best_of_each_prompt_are_kept_best_first_with_their_score(make_conversation):
    means = {"p": [-3.0, -1.0, -2.0], "q": [-5.0, -6.0, -4.0]}
    conversations = [
        answered(make_conversation, [mean, mean], name, index)
        for name, each in means.items()
        for index, mean in enumerate(each)
    ]
    choose = make_choice(TurnsConfig(num_answers=2, best_of=3))
    kept = choose(conversations)
    assert names(kept) == ["p-1", "p-2", "q-2", "q-0"]
    assert [one.score for one in kept] == [-1.0, -2.0, -4.0, -5.0]
    assert conversations[0].score is None
    assert choose([]) == []


def test_of_equals_the_first_is_kept(make_conversation):
    pair = [answered(make_conversation, [-1.0], "p", index) for index in range(2)]
    assert names(make_choice(TurnsConfig(best_of=2))(pair)) == ["p-0"]


def test_fewer_than_wanted_are_all_kept(make_conversation):
    (kept,) = make_choice(TurnsConfig(num_answers=2, best_of=3))(
        [answered(make_conversation, [-1])]
    )
    assert kept.score == -1.0


@pytest.mark.parametrize(
    "config",
    [
        TurnsConfig(),
        TurnsConfig(num_answers=3),
        TurnsConfig(num_answers=3, best_of=2),
        TurnsConfig(kind="score", best_of=4),
    ],
)
def test_without_a_choice_all_are_kept_as_they_are(make_conversation, config):
    conversations = [answered(make_conversation, [-1.0], "p", index) for index in (2, 0, 1)]
    kept = make_choice(config)(conversations)
    assert names(kept) == ["p-2", "p-0", "p-1"]
    assert [one.score for one in kept] == [None] * 3


def test_the_length_may_be_what_is_best(make_conversation):
    pair = [
        answered(make_conversation, [-1.0] * num_tokens, "p", index)
        for index, num_tokens in enumerate((2, 4))
    ]
    assert names(make_choice(TurnsConfig(best_of=2, best_by="length"))(pair)) == ["p-1"]


@pytest.fixture(scope="module")
def reward_dir(teacher_dir, tmp_path_factory) -> Path:
    """A random sequence classifier of one layer with the real teacher's tokenizer."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_labels=1,
        initializer_range=1.0,
        pad_token_id=2,
    )
    directory = tmp_path_factory.mktemp("reward")
    LlamaForSequenceClassification(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(teacher_dir / name, directory / name)
    return directory


def test_a_reward_model_scores_the_whole_conversation_through_its_own_template(
    make_conversation, reward_dir
):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    messages = [
        Message(role="user", content="Why?"),
        Message(role="assistant", content="So."),
        Message(role="user", content="Really?"),
        Message(role="assistant", content="Yes."),
    ]
    conversation = make_conversation(given=tuple(messages[:1]), completion=tuple(messages[1:]))
    model = AutoModelForSequenceClassification.from_pretrained(reward_dir)
    tokenizer = AutoTokenizer.from_pretrained(reward_dir)
    text = render_text(tokenizer, messages, add_generation_prompt=False)
    expected = model(torch.tensor([tokenize(tokenizer, text)])).logits.item()
    shorter = make_conversation(given=tuple(messages[:1]), completion=tuple(messages[1:2]))
    config = TurnsConfig(num_answers=2, best_of=3, best_by="reward", reward_model=str(reward_dir))
    kept = make_choice(config)([shorter, conversation])
    scores = {len(one.completion): one.score for one in kept}
    assert scores[3] == pytest.approx(expected)
    assert not np.isclose(scores[1], expected)
    assert kept[0].score == max(scores.values())


def test_a_reward_model_that_is_absent_is_an_error(tmp_path):
    config = TurnsConfig(best_of=2, best_by="reward", reward_model=str(tmp_path / "absent"))
    with pytest.raises(ArtifactError, match="cannot be found"):
        make_choice(config)


def test_a_reward_model_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TeacherError, match="reward model cannot be loaded") as caught:
        reward(str(tmp_path))
    assert "\n" not in caught.value.found
    assert "generate.turns.reward_model" in caught.value.hint


def test_a_reward_model_that_finds_no_memory_beside_the_teacher_is_an_error(
    reward_dir, monkeypatch
):
    import torch

    def refuse(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore words")

    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    with pytest.raises(TeacherError, match="reward model cannot be loaded") as caught:
        reward(str(reward_dir))
    assert caught.value.found == "CUDA out of memory."
    assert "generate.engine.kv_cache_bytes" in caught.value.hint


TASK = Task(metrics=(LabelConfig(labels=("a", "b")), ExactConfig()))


@pytest.fixture
def said(make_conversation):
    """Return a function that makes a prompt's conversations of answers and mean probabilities."""

    def make(*answers, known=None):
        known = known and Answer(text=known).model_dump_json()
        return [
            make_conversation(
                answer_index=index,
                completion=(Message(role="assistant", content=text),),
                sampled_logprobs=[logprob, logprob],
                known=known,
            )
            for index, (text, logprob) in enumerate(answers)
        ]

    return make


def ranked(conversations, **options) -> list[tuple]:
    choose = make_choice(TurnsConfig(best_of=9, num_answers=8, **options), TASK)
    return [(one.answer_index, one.score) for one in choose(conversations)]


def test_what_most_answers_say_is_best_and_of_these_the_most_probable(said):
    answers = [("b", -1), ("a", -3), ("a", -2), ("c!", -0.1), ("b", -4), ("c!", -0.1), ("c!", -0.1)]
    share = pytest.approx(2 / 7)
    assert ranked(said(*answers), best_by="majority") == [
        (0, share), (4, share), (2, share), (1, share), (3, 0.0), (5, 0.0), (6, 0.0)
    ]  # fmt: skip


def test_what_the_metric_finds_right_is_best_and_of_these_the_most_probable(said):
    answers = [("b", -1), ("a", -3), ("a", -2)]
    assert ranked(said(*answers, known="a"), best_by="metric") == [(2, 1.0), (1, 1.0), (0, 0.0)]
    assert ranked(said(*answers), best_by="metric") == [(0, None), (2, None), (1, None)]


@pytest.mark.parametrize("by", ["metric", "majority"])
def test_without_a_metric_there_is_nothing_to_choose_by(by):
    with pytest.raises(ConfigError, match="no metric to judge"):
        make_choice(TurnsConfig(best_of=2, best_by=by), Task())
