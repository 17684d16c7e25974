import pytest

from generate.sampling.turn_separators import (
    TurnSeparators,
    after,
    find_turn_separators,
    require_user_turns_end,
)
from potstill.chat import render_prompt, tokenize
from potstill.errors import TeacherError
from potstill.schema import Message

TOOLS = '[{"type": "function", "function": {"name": "clock"}}]'
CHATML = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n{{ one.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM_BY_DEFAULT = "{% if messages[0].role != 'system' %}<system>Be kind.|{% endif %}" + CHATML
DATED_IN_FRONT = "<system>Today is {{ strftime_now('%d %b %Y') }}.|" + CHATML
TRIMMED = CHATML.replace("one.content", "one.content | trim")
STRIPS_EARLIER_THINKING = """
{%- for one in messages %}
{%- set words = one.content %}
{%- if one.role == 'assistant' and not loop.last and '</think>' in words %}
{%- set words = words.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>' + one.role + '\n' + words + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
NUMBERS_ANSWERS = (
    "{% for one in messages %}<{{ one.role }}>{{ one.content }}|{% endfor %}"
    "<assistant {{ messages | length }}>"
)
NUMBERS_QUESTIONS = (
    "{% for one in messages %}<{{ one.role }}{{ loop.index if one.role == 'user' }}>"
    "{{ one.content }}|{% endfor %}<assistant>"
)
COUNTS_IN_FRONT = "{{ messages | length }} messages" + CHATML
DATES_THE_LAST_QUESTION = (
    "{% for one in messages %}{% if loop.last %}{{ strftime_now('%Y') }} {% endif %}"
    "<{{ one.role }}>{{ one.content }}|{% endfor %}<assistant>"
)
KEEPS_THE_LAST_TWO = CHATML.replace("in messages", "in messages[-2:]")
MARKS_THE_LAST_ANSWER = (
    "{% for one in messages %}<{{ one.role }}>{{ one.content }}"
    "{{ '' if loop.last else '\n' }}|{% endfor %}<assistant>"
)


def conversation(*texts) -> list[Message]:
    roles = ["user", "assistant"] * len(texts)
    return [Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)]


def test_joints_are_what_the_template_writes_between_turns(toy_tokenizer):
    assert find_turn_separators(toy_tokenizer) == TurnSeparators(
        before_user="|<user>", before_answer="|<assistant>", after_answer="|"
    )


@pytest.mark.parametrize("source", [CHATML, SYSTEM_BY_DEFAULT, DATED_IN_FRONT, TRIMMED])
def test_a_template_that_appends_is_taken_and_gives_what_it_would_write(with_template, source):
    tokenizer = with_template(source)
    separators = find_turn_separators(tokenizer)
    assert separators == TurnSeparators(
        before_user="<|im_end|>\n<|im_start|>user\n",
        before_answer="<|im_end|>\n<|im_start|>assistant\n",
        after_answer="<|im_end|>\n",
    )
    grown = render_prompt(tokenizer, conversation("one"))
    turns = "two", separators.before_user, "three", separators.before_answer
    grown += tokenize(tokenizer, "".join(turns))
    assert grown == render_prompt(tokenizer, conversation("one", "two", "three"))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(STRIPS_EARLIER_THINKING, id="strips earlier thinking, as Qwen3's does"),
        pytest.param(NUMBERS_ANSWERS, id="numbers answers"),
        pytest.param(NUMBERS_QUESTIONS, id="numbers questions"),
        pytest.param(COUNTS_IN_FRONT, id="counts turns in front"),
        pytest.param(DATES_THE_LAST_QUESTION, id="dates the last question"),
        pytest.param(KEEPS_THE_LAST_TWO, id="leaves out old turns"),
        pytest.param(MARKS_THE_LAST_ANSWER, id="ends the last turn in another way"),
        pytest.param("<user>{{ messages[-1].content }}|<assistant>", id="shows one turn"),
        pytest.param("{{ messages[0].content }}|<assistant>", id="shows the first turn only"),
        pytest.param("no turns", id="shows none"),
    ],
)
def test_a_template_that_rewrites_earlier_turns_is_refused(with_template, source):
    with pytest.raises(TeacherError, match="rewrites earlier turns") as caught:
        find_turn_separators(with_template(source))
    assert "'single'" in caught.value.hint


SHOWS_THE_SYSTEM_LAST = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for one in messages if one.role != 'system' %}"
    "{% if loop.last and one.role == 'user' %}{{ system }}{{ tools or '' }}{% endif %}"
    "<{{ one.role }}>{{ one.content }}|{% endfor %}<assistant>"
)


def test_a_template_is_judged_by_what_the_conversation_has(with_template):
    """Mistral's templates move system prompt and tools before the last question."""
    tokenizer = with_template(SHOWS_THE_SYSTEM_LAST)
    assert find_turn_separators(tokenizer).before_answer == "|<assistant>"
    for options in ({"has_system": True}, {"tools": TOOLS}):
        with pytest.raises(TeacherError, match="rewrites earlier turns"):
            find_turn_separators(tokenizer, **options)


def test_a_joint_goes_on_after_the_token_that_begins_it(toy_tokenizer):
    assert after(toy_tokenizer, 0, "|<user>") == [ord(letter) for letter in "<user>"]


@pytest.mark.parametrize("last", [ord("x"), ord("<"), 7])
def test_no_joint_follows_a_turn_that_ended_otherwise(toy_tokenizer, last):
    assert after(toy_tokenizer, last, "|<user>") is None


def test_no_joint_follows_where_there_is_none(toy_tokenizer):
    assert after(toy_tokenizer, 0, "") is None


def test_a_teacher_whose_user_turns_end_with_an_end_token_can_play_the_user(toy_tokenizer):
    require_user_turns_end(toy_tokenizer, find_turn_separators(toy_tokenizer), frozenset({5, 0}))


@pytest.mark.parametrize("before_answer", ["\n<assistant>", ""])
def test_a_teacher_whose_user_turns_do_not_end_cannot_play_the_user(toy_tokenizer, before_answer):
    """As of templates that write `[INST] question [/INST] answer</s>`."""
    separators = TurnSeparators("|<user>", before_answer, "|")
    with pytest.raises(TeacherError, match="cannot play the user") as caught:
        require_user_turns_end(toy_tokenizer, separators, frozenset({5, 0}))
    assert "[0, 5]" in caught.value.expected
    assert caught.value.found == ([10] if before_answer else "nothing")
