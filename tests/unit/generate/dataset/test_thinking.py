"""A teacher that thinks: while it is sampled, and in the rows that a student learns from."""

import numpy as np
import pytest

from generate.config import GenerateConfig
from generate.dataset.thinking import UNFINISHED, ThinkingRows
from generate.sampling.dialogue import Dialogue
from generate.sampling.settings import ConversationSettings
from generate.sampling.stage import asked_tokenizer
from generate.sampling.thinking import Thinking
from potstill.chat import with_template
from potstill.errors import ConfigError, TeacherError
from potstill.schema import REFERENCES
from potstill.templates import compile_template, render_template
from potstill.thinking import student_template, without_thinking

TOP = 4
VOCAB_SIZE = 1 << 16
TURNS = (
    "{% for one in messages %}<{{ one.role }}>"
    "{% if one.reasoning_content %}<think>\n{{ one.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ one.content }}|{% endfor %}{% if add_generation_prompt %}<assistant>"
)
SWITCHED = TURNS + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
OPENING = TURNS + "<think>\n{% endif %}"
PLAIN = TURNS + "{# writes <think> itself #}{% endif %}"
EMPTY = "<think>\n\n</think>\n\n"
ANSWERED = "<think>\nHm.\n</think>\n\nSo.|"


@pytest.fixture
def tokenizer_of(toy_tokenizer):
    """Return a function that makes a toy tokenizer that renders a template."""

    class Rendering(type(toy_tokenizer)):
        def apply_chat_template(self, conversation, *, add_generation_prompt, tools=None, **_):
            template = compile_template(self.chat_template)
            more = {"tools": tools, "add_generation_prompt": add_generation_prompt}
            return render_template(template, conversation, {}, **more)

    def make(template):
        tokenizer = Rendering()
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture
def sampled(tokenizer_of, make_prompt, fake_teacher):
    """Return a function that lets a teacher give answers, as one conversation; what was asked."""

    def sample(template, *answers, source="mine", turns=(), thinking=(), max_tokens=50):
        waiting = list(answers)
        tables = {
            "sampling": {"max_tokens": max_tokens},
            "turns": dict(turns),
            "thinking": dict(thinking),
        }
        config = GenerateConfig.model_validate(tables)
        tokenizer = asked_tokenizer(config, tokenizer_of(template))
        settings = ConversationSettings(config, tokenizer, 1000)
        prompt = make_prompt("p", "Why?").model_copy(update={"source": source})
        dialogue = Dialogue(settings, prompt, 1)
        teacher = fake_teacher(lambda _: waiting.pop(0), max_num_seqs=1)

        def next_requests(room):
            return [dialogue.request] if room and dialogue.request is not None else []

        for result in teacher.sample(next_requests, top_logprobs=TOP):
            dialogue.take(result)
        assert not waiting
        return dialogue.conversation(), teacher.asked

    return sample


def text_of(token_ids) -> str:
    return "".join("|" if one == 0 else chr(one) for one in token_ids)


def rows_of(student, template, tokenizer_of, *conversations):
    config = GenerateConfig.model_validate({"thinking": {"student": student}})
    rows = ThinkingRows(config, tokenizer_of(template), VOCAB_SIZE)
    table, made, drops = rows.rewrite(conversations, [None] * len(conversations))
    assert table["conversation_id"].to_pylist() == [one.conversation_id for one in made]
    return made, drops


@pytest.mark.parametrize(
    ("template", "answer", "prompt"),
    [
        (SWITCHED, ANSWERED, f"<user>Why?|<assistant>{EMPTY}"),
        (OPENING, "Hm.\n</think>\n\nSo.|", "<user>Why?|<assistant><think>\n\n</think>\n\n"),
        (PLAIN, ANSWERED, "<user>Why?|<assistant>"),
        (SWITCHED, "So.|", f"<user>Why?|<assistant>{EMPTY}"),
    ],
    ids=["switch", "opened", "itself", "no thinking"],
)
def test_without_its_thinking_an_answer_keeps_its_tokens_and_distributions(
    sampled, tokenizer_of, template, answer, prompt
):
    conversation, _ = sampled(template, answer)
    # Rows that are told apart, so that a row that has slipped would be another one.
    signal = conversation.signal
    signal.sampled_logprobs_T[:] = -np.arange(len(signal.counts_T), dtype=np.float32)
    ((bare,), (drop,)) = rows_of("answer", template, tokenizer_of, conversation)
    assert drop is None
    assert text_of(bare.token_ids) == prompt + "So.|"
    (turn,) = bare.turns
    assert (turn.start, turn.num_tokens, turn.finish_reason) == (len(prompt), 4, "stop")
    assert bare.signal.sampled_logprobs_T.tolist() == signal.sampled_logprobs_T[-4:].tolist()
    assert (bare.completion[0].content, bare.completion[0].reasoning_content) == ("So.", None)
    student = with_template(tokenizer_of(template), without_thinking(template))
    whole = student.apply_chat_template(
        [one.to_chat() for one in bare.given], tokenize=False, add_generation_prompt=True
    )
    assert whole == prompt


def test_both_ways_stand_behind_the_switch(sampled, tokenizer_of):
    conversation, _ = sampled(SWITCHED, ANSWERED)
    made, drops = rows_of("both", SWITCHED, tokenizer_of, conversation)
    assert [text_of(one.token_ids) for one in made] == [
        f"<user>Why?|<assistant>{ANSWERED}",
        f"<user>Why?|<assistant>{EMPTY}So.|",
    ]
    assert [one.conversation_id for one in made] == ["p-2", "p-3"]
    assert [one.completion[0].reasoning_content for one in made] == ["Hm.", None]
    assert drops == [None, None]


def test_an_answer_that_never_comes_is_dropped_but_for_a_reference(sampled, tokenizer_of):
    lost, _ = sampled(SWITCHED, "<think>\nHm. Hm.")
    kept, _ = sampled(SWITCHED, "<think>\nHm. Hm.", source=REFERENCES)
    assert (lost.completion[0].content, lost.completion[0].reasoning_content) == ("", "Hm. Hm.")
    made, drops = rows_of("answer", SWITCHED, tokenizer_of, lost, kept)
    assert drops == [UNFINISHED, None]
    assert [text_of(one.token_ids) for one in made] == [text_of(lost.token_ids)] * 2


def test_thinking_is_left_out_of_single_answers_only(sampled, tokenizer_of):
    """Also where a stage of samples was configured otherwise."""
    turns = {"kind": "simulate", "min_turns": 2, "max_turns": 2}
    conversation, _ = sampled(SWITCHED, ANSWERED, "And?|", ANSWERED, turns=turns)
    with pytest.raises(TeacherError, match="conversations of one answer only"):
        rows_of("answer", SWITCHED, tokenizer_of, conversation)


def test_long_thinking_is_ended_and_the_answer_asked_for(sampled):
    conversation, asked = sampled(
        SWITCHED, "<think>\nHm. Hm.", "So.|", thinking={"max_tokens": 15}, max_tokens=9
    )
    assert [one.sampling.max_tokens for one in asked] == [15, 9]
    forced = "\n</think>\n\n"
    whole = f"<user>Why?|<assistant><think>\nHm. Hm.{forced}So.|"
    assert text_of(conversation.token_ids) == whole
    assert text_of(asked[1].prompt_token_ids) == whole.removesuffix("So.|")
    (turn,) = conversation.turns
    assert (turn.num_tokens, turn.finish_reason) == (len(f"<think>\nHm. Hm.{forced}So.|"), "stop")
    logprobs = conversation.signal.sampled_logprobs_T
    start = len("<think>\nHm. Hm.")
    is_forced = np.zeros(len(logprobs), dtype=bool)
    is_forced[start : start + len(forced)] = True
    assert ((logprobs == 0.0) == is_forced).all()
    (answer,) = conversation.completion
    assert (answer.content, answer.reasoning_content) == ("So.", "Hm. Hm.")


def test_an_answer_that_begins_within_the_limit_of_thinking_is_finished(sampled):
    conversation, asked = sampled(
        SWITCHED, "<think>Hm.</think>So it ", "is.|", thinking={"max_tokens": 25}, max_tokens=9
    )
    assert [one.sampling.max_tokens for one in asked] == [25, 3]
    assert conversation.completion[0].content == "So it is."
    assert len(conversation.turns) == 1


def test_an_answer_at_its_limit_is_cut_off(sampled):
    conversation, asked = sampled(
        SWITCHED, "<think>Hm.</think>So it is.", thinking={"max_tokens": 30}, max_tokens=9
    )
    assert len(asked) == 1
    assert conversation.turns[0].finish_reason == "length"


@pytest.mark.parametrize(("thinks", "prompt"), [(False, EMPTY), (True, ""), (None, "")])
def test_the_teachers_switch_is_set(sampled, tokenizer_of, thinks, prompt):
    given = {} if thinks is None else {"teacher": thinks}
    conversation, _ = sampled(SWITCHED, "So.|", thinking=given)
    assert text_of(conversation.token_ids) == f"<user>Why?|<assistant>{prompt}So.|"
    template = student_template(SWITCHED, "think", thinks)
    assert (template == SWITCHED) == (thinks is None)
    for needed in (given, {"student": "both"}):
        config = GenerateConfig.model_validate({"thinking": needed})
        if needed:
            with pytest.raises(ConfigError, match="no switch for thinking"):
                asked_tokenizer(config, tokenizer_of(OPENING))


def test_an_opened_prompt_is_seen_and_an_answer_without_end_is_thinking(sampled, tokenizer_of):
    conversation, _ = sampled(OPENING, "Hm. Hm.")
    thinking = Thinking.of(tokenizer_of(OPENING))
    assert thinking.is_opened_by(conversation.token_ids[: conversation.turns[0].start].tolist())
    assert (conversation.completion[0].content, conversation.completion[0].reasoning_content) == (
        "",
        "Hm. Hm.",
    )
