import sys

import pytest

from generate.curation.config import CurationConfig
from generate.curation.conversation_filters import CONVERSATION_FILTERS, ConversationCurator, Drop
from potstill.task.answers import Answer

GOOD = "Freeze the card in the app first, then ask for a new one."
GERMAN = "Sperren Sie zuerst die Karte in der App und bestellen Sie dann eine neue."


def curator(*names: str, **options) -> ConversationCurator:
    return ConversationCurator(CurationConfig(conversation_filters=names, **options))


def test_all_known_filters_keep_a_good_conversation(answered):
    judge = curator(*CONVERSATION_FILTERS, languages=("en",)).judge

    assert judge(answered(GOOD, "You are welcome.")) is None


@pytest.mark.parametrize(
    ("name", "answers", "reason"),
    [
        ("empty", (GOOD, " \n"), "an answer without text"),
        ("language", (GOOD, GERMAN), "language de"),
        ("refusal", (GOOD, "I'm sorry, but I can't help with that."), "begins with a refusal"),
        ("personal_data", (GOOD, "Call (415) 555-2671."), "phone"),
        ("toxicity", (GOOD, "What a shit card."), "the word 'shit'"),
    ],
)
def test_every_answer_is_read(answered, name, answers, reason):
    judge = curator(name, languages=("en",)).judge

    assert judge(answered(*answers)) == Drop(name, reason)
    assert judge(answered(GOOD)) is None


def test_a_refusal_is_kept_where_the_known_answer_is_one(answered):
    no = '{"team": "none", "reply": "I am sorry, but I cannot help with that."}'
    judge = curator("refusal").judge

    assert judge(answered(no, known=Answer(text=no).model_dump_json())) is None
    label = Answer(text='{"team": "cash"}').model_dump_json()
    assert judge(answered(no, known=label)) == Drop("refusal", "begins with a refusal")


def test_an_answer_that_calls_a_tool_is_not_empty(answered):
    calls = '[{"type": "function", "function": {"name": "f", "arguments": "{}"}}]'

    assert curator("empty").judge(answered("", ids=[[7]], tool_calls=calls)) is None


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_an_answer_that_ends_in_a_loop_is_dropped(answered, finish_reason):
    ids = [*range(100, 300), *[7, 8, 9] * 20]
    end = [0] if finish_reason == "stop" else []

    drop = curator("looping").judge(
        answered("fine", "round", ids=[[1, 2], ids + end], finish_reason=finish_reason)
    )

    assert drop == Drop("looping", "an answer ends in a loop")


def test_an_answer_that_repeats_itself_is_dropped_above_the_share(answered):
    paragraph = list(range(100, 140))
    repeated = answered("so", ids=[[*paragraph, 1, *paragraph, 2, *paragraph, 3, 0]])

    assert curator("looping").judge(repeated) == Drop(
        "looping", "65% of an answer's tokens are in repeated runs"
    )
    assert curator("looping", max_repeated_share=0.7).judge(repeated) is None


def test_short_answers_and_answers_like_an_earlier_one_do_not_loop(answered):
    judge = curator("looping").judge
    ids = list(range(100, 200))

    assert judge(answered("ha", ids=[[7] * 30])) is None
    assert judge(answered("one", "two", ids=[ids, ids])) is None


def test_length_counts_tokens(answered):
    judge = curator("length", min_answer_tokens=3, max_answer_tokens=5).judge

    assert judge(answered("one two")) is None
    assert judge(answered("one two three four")) is None
    assert judge(answered("one two", "one")) == Drop("length", "an answer of 2 tokens, minimum 3")
    assert judge(answered("one two three four five")) == Drop(
        "length", "an answer of 6 tokens, maximum 5"
    )


def test_truncated_answers_are_dropped(answered):
    judge = curator("truncated").judge

    assert judge(answered(GOOD)) is None
    assert judge(answered("one two", finish_reason="length")) == Drop(
        "truncated", "an answer truncated after 3 tokens"
    )


def test_answers_given_before_are_dropped_with_the_prompt_that_had_them(answered):
    judge = curator("duplicate_answer").judge

    assert judge(answered("Yes.", prompt_id="first")) is None
    assert judge(answered("Yes.", "No.", prompt_id="second")) is None
    assert judge(answered("yes", prompt_id="third")) == Drop(
        "duplicate_answer", "same answers as prompt first"
    )
    assert judge(answered("Yes.", prompt_id="fourth")).reason == "same answers as prompt first"


def test_what_a_later_filter_drops_makes_no_duplicates(answered):
    judge = curator("duplicate_answer", "truncated").judge

    assert judge(answered(GOOD, finish_reason="length")).filter == "truncated"
    assert judge(answered(GOOD)) is None
    assert judge(answered(GOOD)).filter == "duplicate_answer"


def test_the_first_filter_that_objects_is_named(answered):
    bad = answered("", finish_reason="length")

    assert curator("truncated", "empty").judge(bad).filter == "truncated"
    assert curator("empty", "truncated").judge(bad).filter == "empty"
    assert curator().judge(bad) is None


def test_a_filter_of_ones_own_judges_conversations(answered, tmp_path, monkeypatch):
    (tmp_path / "own_conversation_filters.py").write_text(
        "class Brief:\n"
        "    name = 'brief'\n"
        "    def judge(self, conversation):\n"
        "        return None if len(conversation.turns) == 1 else 'it goes on'\n"
        "def brief(config):\n"
        "    return Brief()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    judge = curator("own_conversation_filters:brief").judge

    sys.modules.pop("own_conversation_filters")
    assert judge(answered(GOOD)) is None
    assert judge(answered(GOOD, GOOD)) == Drop("brief", "it goes on")
