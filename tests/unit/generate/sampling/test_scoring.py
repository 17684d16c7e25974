import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from generate.config import GenerateConfig
from generate.sampling.scoring import ScoredConversation, find_answers
from generate.sampling.settings import ConversationSettings
from generate.teachers.protocol import Sample
from potstill.chat import render_prompt
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Message

ENDS = frozenset({0})
TOOLS = '[{"type": "function", "function": {"name": "clock"}}]'
TEXTS = ("Why?", "So.", "Really?", "Yes.", "Thanks.", "Bye.")


@pytest.fixture
def make_settings(toy_tokenizer):
    """Return a function that makes what conversations have in common."""

    def make(tokenizer=toy_tokenizer, max_model_len=10_000, **sampling) -> ConversationSettings:
        tables = {"sampling": sampling, "turns": {"kind": "score"}}
        return ConversationSettings(GenerateConfig.model_validate(tables), tokenizer, max_model_len)

    return make


def answers(settings, prompt, ends=ENDS) -> list[str]:
    """Return the text of each answer found, as the tokens that would be scored spell it."""
    found = find_answers(settings, prompt, ends)
    spans = [found.token_ids[one.start : one.start + one.num_tokens] for one in found.turns]
    return [settings.tokenizer.decode(span) for span in spans]


def signal(num_tokens) -> TokenDistributions:
    """Return rows that encode their positions: row t is -t."""
    rows_T = -np.arange(num_tokens, dtype=np.float32)
    ones_T = np.ones(num_tokens, dtype=np.int64)
    return TokenDistributions(rows_T, ones_T, ones_T.astype(np.int32), rows_T)


def test_every_answer_is_found_up_to_its_end(make_settings, make_prompt):
    settings = make_settings()
    for count in (2, 3, 4, 6):
        prompt = make_prompt("p", *TEXTS[:count])
        assert answers(settings, prompt) == [f"{text}|" for text in TEXTS[1:count:2]]


def test_an_answer_begins_where_the_teacher_would_be_asked_for_it(make_settings, make_prompt):
    settings, prompt = make_settings(), make_prompt("p", *TEXTS)
    found = find_answers(settings, prompt, ENDS)
    for turn, index in zip(found.turns, (1, 3, 5), strict=True):
        before = render_prompt(settings.tokenizer, prompt.messages[:index])
        assert found.token_ids[: turn.start] == before
        assert (turn.finish_reason, turn.seed) == ("stop", 0)
    assert found.first_message == 1


def test_system_prompt_and_tools_are_shown(make_settings, make_prompt):
    prompt = make_prompt("p", "Why?", "So.", tools=TOOLS)
    system = Message(role="system", content="Be kind.")
    prompt = prompt.model_copy(update={"messages": (system, *prompt.messages)})
    settings = make_settings()
    found = find_answers(settings, prompt, ENDS)
    assert settings.tokenizer.decode(found.token_ids) == (
        f"{TOOLS}<system>Be kind.|<user>Why?|<assistant>So.|"
    )
    assert found.first_message == 2


def test_two_answers_in_a_row_are_two(make_settings, make_prompt):
    prompt = make_prompt("p", "Why?", "So.")
    more = Message(role="assistant", content="And so on.")
    prompt = prompt.model_copy(update={"messages": (*prompt.messages, more)})
    assert answers(make_settings(), prompt) == ["So.|", "And so on.|"]


def test_an_empty_answer_is_its_end(make_settings, make_prompt):
    assert answers(make_settings(), make_prompt("p", "Why?", "")) == ["|"]


def test_an_answer_without_an_end_was_cut_off(make_settings, make_prompt, with_template):
    tokenizer = with_template(
        "{% for one in messages %}<{{ one.role }}>{{ one.content }}{{ '' if loop.last else '|' }}"
        "{% endfor %}{{ '|<assistant>' if add_generation_prompt }}"
    )
    settings, prompt = make_settings(tokenizer), make_prompt("p", "Why?", "So.")
    assert answers(settings, prompt) == ["So."]
    assert find_answers(settings, prompt, ENDS).turns[0].finish_reason == "length"


THINKING = """
{%- for one in messages %}
{%- set words = one.content %}
{%- if one.role == 'assistant' and not loop.last %}
{%- set words = words.split('</think>')[-1] %}
{%- endif %}
{{- '<' + one.role + '>' + words + '|' }}
{%- endfor %}
{{- '<assistant>' if add_generation_prompt }}"""


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(THINKING, id="strips earlier thinking, as Qwen3's does"),
        pytest.param(
            "{% for one in messages %}{% if loop.last and one.role == 'assistant' "
            "or loop.revindex == 2 and not add_generation_prompt "
            "or loop.last and add_generation_prompt %}!{% endif %}"
            "<{{ one.role }}>{{ one.content }}|{% endfor %}"
            "{{ '!<assistant>' if add_generation_prompt }}",
            id="marks the last question and answer",
        ),
    ],
)
def test_of_a_template_that_rewrites_only_the_last_answer_counts(
    make_settings, make_prompt, with_template, source
):
    settings = make_settings(with_template(source))
    prompt = make_prompt("p", "Why?", "hm</think>So.", "Really?", "well</think>Yes.")
    assert answers(settings, prompt) == ["well</think>Yes.|"]
    builder = ScoredConversation(settings, prompt, ENDS)
    builder.take(Sample(builder.name, (), signal(len("well</think>Yes.|")), "stop"))
    conversation = builder.conversation()
    assert (conversation.given, conversation.completion) == (
        prompt.messages[:3],
        prompt.messages[3:],
    )


@pytest.mark.parametrize("contents", [("Why?",), ("Why?", "So.", "Really?", "Yes.")])
def test_a_conversation_without_an_answer_to_score_is_refused(
    make_settings, make_prompt, with_template, contents
):
    source = "{{ messages | length }}{{ add_generation_prompt }}"
    tokenizer = with_template(source) if len(contents) > 1 else make_settings().tokenizer
    with pytest.raises(TeacherError, match="no answer that can be scored") as caught:
        find_answers(make_settings(tokenizer), make_prompt("p", *contents), ENDS)
    assert caught.value.where == "prompt p of made in a test"


def test_an_answer_to_nothing_does_not_count(make_settings, make_prompt):
    prompt = make_prompt("p", "Why?", "So.")
    first = Message(role="assistant", content="Hello.")
    alone = prompt.model_copy(update={"messages": (first,)})
    with pytest.raises(TeacherError, match="no answer"):
        find_answers(make_settings(), alone, ENDS)
    after = prompt.model_copy(update={"messages": (first, *prompt.messages)})
    assert answers(make_settings(), after) == ["So.|"]


def test_answers_that_run_into_each_other_are_refused(make_settings, make_prompt):
    """The template ends turns, but with no token that the teacher stops at."""
    with pytest.raises(TeacherError, match="no answer"):
        find_answers(make_settings(), make_prompt("p", *TEXTS), frozenset({7}))


class _Trimming:
    """A byte-level tokenizer that leaves spaces out of offsets, as GPT-NeoX's does."""

    def __init__(self) -> None:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate(letters)}
        self._backend = Tokenizer(models.BPE(vocabulary, []))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._backend.post_processor = processors.ByteLevel(trim_offsets=True)
        self.ends = frozenset({vocabulary["|"]})

    chat_template = "of turns"

    def __call__(self, text, **_):
        encoded = self._backend.encode(text)
        return {"input_ids": encoded.ids, "offset_mapping": encoded.offsets}

    def decode(self, token_ids):
        tokens = [self._backend.id_to_token(token_id) for token_id in token_ids]
        return "".join(tokens).replace("Ġ", " ").replace("Ċ", "\n")

    def apply_chat_template(self, conversation, *, add_generation_prompt, **_):
        turns = ["{role}: {content}|\n".format(**one) for one in conversation]
        return "".join(turns) + "assistant: " * add_generation_prompt


@pytest.mark.parametrize("answer", ["So.", " So.", "\n So", "  "])
def test_white_space_around_an_answers_beginning_is_where_it_belongs(
    make_settings, make_prompt, answer
):
    tokenizer = _Trimming()
    prompt = make_prompt("p", "Why?", answer, "Really?", answer)
    assert answers(make_settings(tokenizer), prompt, tokenizer.ends) == [f"{answer}|"] * 2


@pytest.fixture(scope="module")
def real_tokenizer(teacher_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(teacher_dir)


def test_answers_of_the_real_teacher_are_found(make_settings, make_prompt, real_tokenizer):
    contents = (
        "Why is the sky blue?",
        "Rayleigh scattering: λ⁻⁴.\n\n- 1st: 300 nm 🌈👩‍👩‍👧",
        "Und auf Deutsch? 你好",
        " Streuung, 12345 mal\n\n",
        "Thanks!",
        "",
    )
    prompt = make_prompt("p", *contents)
    settings, ends = make_settings(real_tokenizer), frozenset({real_tokenizer.eos_token_id})
    assert answers(settings, prompt, ends) == [f"{text}<|im_end|>" for text in contents[1::2]]
    found = find_answers(settings, prompt, ends)
    for turn, index in zip(found.turns, (1, 3, 5), strict=True):
        before = render_prompt(real_tokenizer, prompt.messages[:index])
        assert found.token_ids[: turn.start] == before


def test_a_token_of_both_the_template_and_the_answer_is_not_scored(
    make_settings, make_prompt, real_tokenizer
):
    prompt, ends = make_prompt("p", "Why?", "\n\nSo."), frozenset({real_tokenizer.eos_token_id})
    found = find_answers(make_settings(real_tokenizer), prompt, ends)
    start = found.turns[0].start
    assert real_tokenizer.decode(found.token_ids[start - 1 : start]) == "\n\n"
    assert answers(make_settings(real_tokenizer), prompt, ends) == ["\nSo.<|im_end|>"]


def test_one_request_is_made_for_all_answers(make_settings, make_prompt, fake_teacher):
    settings, prompt = make_settings(), make_prompt("p", *TEXTS)
    builder = ScoredConversation(settings, prompt, ENDS)
    assert builder.name == builder.request.request_id == "p-0"
    assert (
        list(builder.request.token_ids) == render_prompt(settings.tokenizer, prompt.messages)[:-11]
    )
    assert builder.request.start == len("<user>Why?|<assistant>")
    waiting = [builder.request]
    teacher = fake_teacher(None)
    (sample,) = teacher.score(
        lambda room: [waiting.pop() for _ in range(min(room, len(waiting)))], top_logprobs=3
    )
    builder.take(sample)
    assert builder.request is builder.user_messages is None
    assert builder.conversation().signal.counts_T.tolist() == [3] * len("So.|Yes.|Bye.|")


def test_each_answers_tokens_get_the_rows_that_predict_them(make_settings, make_prompt):
    prompt = make_prompt("p", *TEXTS[:4])
    builder = ScoredConversation(make_settings(), prompt, ENDS)
    start, gap = builder.request.start, len("So.|<user>Really?|<assistant>")
    builder.take(Sample("p-0", (), signal(builder.num_tokens - start), "stop"))
    conversation = builder.conversation()
    rows = [*range(len("So.|")), *range(gap, gap + len("Yes.|"))]
    assert (-conversation.signal.sampled_logprobs_T).tolist() == rows
    assert (conversation.positions_T - start).tolist() == rows
    assert conversation.prompt == prompt
    assert conversation.given == prompt.messages[:1]
    assert conversation.completion == prompt.messages[1:]
    assert conversation.answer_index == 0


def test_what_is_improbable_is_not_stored(make_settings, make_prompt, fake_teacher):
    builder = ScoredConversation(make_settings(top_mass=0.4), make_prompt("p", "Why?", "So."), ENDS)
    waiting = [builder.request]
    (sample,) = fake_teacher(None).score(
        lambda room: [waiting.pop() for _ in range(min(room, len(waiting)))], top_logprobs=3
    )
    builder.take(sample)
    assert builder.conversation().signal.counts_T.tolist() == [2] * len("So.|")


@pytest.mark.parametrize(("room", "fits"), [(1, True), (0, False)])
def test_a_text_must_leave_room_for_one_token(make_settings, make_prompt, room, fits):
    length = len("<user>Why?|<assistant>So.|")
    settings = make_settings(max_model_len=length + room)
    builder = ScoredConversation(settings, make_prompt("p", "Why?", "So."), ENDS)
    assert (builder.request is not None) == fits
    assert builder.num_tokens == length


def test_a_teacher_without_log_probabilities_is_refused(make_settings, make_prompt):
    builder = ScoredConversation(make_settings(), make_prompt("p", "Why?", "So."), ENDS)
    with pytest.raises(TeacherError, match="no log-probabilities") as caught:
        builder.take(Sample("p-0", (), None, "stop"))
    assert caught.value.where == "p-0"


def test_there_is_no_conversation_before_it_was_scored(make_settings, make_prompt):
    builder = ScoredConversation(make_settings(), make_prompt("p", "Why?", "So."), ENDS)
    with pytest.raises(TeacherError, match="has not been scored"):
        builder.conversation()
