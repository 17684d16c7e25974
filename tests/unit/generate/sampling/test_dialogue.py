import json
import math

import numpy as np
import pytest

from generate.config import GenerateConfig
from generate.sampling.dialogue import MAX_TOOL_ROUNDS, Dialogue
from generate.sampling.settings import ConversationSettings
from generate.teachers.protocol import Sample, derive_seed
from potstill.chat import render_prompt
from potstill.distributions import TokenDistributions
from potstill.errors import TeacherError
from potstill.schema import Message, Turn

SHIFT = 0xE000
"""What `_Slurring` adds to the ids of letters that it shows like others."""
TOOLS = '[{"type": "function", "function": {"name": "clock"}}]'
SEED_P3 = derive_seed(5, "p-3 assistant 0")
OTHER_MODEL = {"base_url": "http://127.0.0.1:1/v1", "model": "user", "tokenizer": "user"}


@pytest.fixture
def make_settings(toy_tokenizer):
    """Return a function that makes what conversations have in common."""

    def make(
        tokenizer=toy_tokenizer, max_model_len=10_000, sampling=(), **turns
    ) -> ConversationSettings:
        tables = {"sampling": {"max_tokens": 50, "seed": 5, **dict(sampling)}, "turns": turns}
        return ConversationSettings(GenerateConfig.model_validate(tables), tokenizer, max_model_len)

    return make


@pytest.fixture
def talk(fake_teacher):
    """Return a function that lets a teacher of some answers finish a dialogue; what was asked."""

    def run(dialogue, *answers, top_logprobs=4) -> list:
        waiting = list(answers)
        teacher = fake_teacher(lambda _: waiting.pop(0), max_num_seqs=1)

        def next_requests(room):
            return [dialogue.request] if room and dialogue.request is not None else []

        for result in teacher.sample(next_requests, top_logprobs=top_logprobs):
            dialogue.take(result)
        assert not waiting
        return teacher.asked

    return run


def text_of(conversation) -> str:
    return "".join("|" if one == 0 else chr(one) for one in conversation.token_ids)


def texts(messages) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def test_one_turn_is_the_rendered_prompt_and_what_was_sampled(make_settings, make_prompt, talk):
    prompt = make_prompt("p", "Why?")
    dialogue = Dialogue(make_settings(), prompt, 3)
    (asked,) = talk(dialogue, "So.|")
    conversation = dialogue.conversation()
    assert conversation.conversation_id == dialogue.name == "p-3"
    assert text_of(conversation) == "<user>Why?|<assistant>So.|"
    assert conversation.turns == (
        Turn(start=len(asked.prompt_token_ids), num_tokens=4, finish_reason="stop", seed=SEED_P3),
    )
    assert texts(conversation.completion) == [("assistant", "So.")]
    assert conversation.given == prompt.messages
    assert conversation.signal.counts_T.tolist() == [4] * 4
    assert dialogue.request is dialogue.user_messages is None


def test_a_request_carries_the_prompt_in_every_form_and_how_to_sample(make_settings, make_prompt):
    settings = make_settings(sampling={"temperature": 0.8, "top_p": 0.9})
    prompt = make_prompt("p", "Why?")
    request = Dialogue(settings, prompt, 3).request
    assert request.request_id == "p-3 assistant 0"
    assert list(request.prompt_token_ids) == render_prompt(settings.tokenizer, prompt.messages)
    assert request.sampling.model_dump() == {
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": SEED_P3,
    }
    assert request.messages == prompt.messages
    assert request.tools is None


def test_tools_are_shown_to_the_teacher(make_settings, make_prompt):
    request = Dialogue(make_settings(), make_prompt("p", "Why?", tools=TOOLS), 0).request
    shown = "".join("|" if one == 0 else chr(one) for one in request.prompt_token_ids)
    assert shown == f"{TOOLS}<user>Why?|<assistant>"
    assert request.tools == TOOLS


def test_an_answers_calls_are_stored_as_calls(make_settings, make_prompt, talk):
    called = '<tool_call>{"name": "clock", "arguments": {"zone": "CET"}}</tool_call>'
    settings = make_settings(sampling={"max_tokens": 200})
    answers = []
    for tools in (TOOLS, None):
        dialogue = Dialogue(settings, make_prompt("p", "Why?", tools=tools), 0)
        talk(dialogue, f"Well. {called}|")
        answers += dialogue.conversation().completion
    assert answers[0].content == "Well."
    (call,) = json.loads(answers[0].tool_calls)
    assert call["function"] == {"name": "clock", "arguments": '{"zone": "CET"}'}
    assert answers[1] == Message(role="assistant", content=f"Well. {called}")


CLOCK = """
def tell(name, arguments):
    return f"{name} in {arguments['zone']}: noon"
"""


@pytest.mark.parametrize(
    ("named", "result"),
    [
        ("own_clock:tell", "clock in CET: noon"),
        ("echo", '{"status": "success", "zone": "CET"}'),
        ("json:loads", '{"error": "TypeError: '),
    ],
)
def test_calls_get_results_and_the_teacher_goes_on(
    make_settings, make_prompt, talk, monkeypatch, tmp_path, named, result
):
    (tmp_path / "own_clock.py").write_text(CLOCK)
    monkeypatch.syspath_prepend(tmp_path)
    called = '<tool_call>{"name": "clock", "arguments": {"zone": "CET"}}</tool_call>'
    settings = make_settings(sampling={"max_tokens": 200}, tool_results=named)
    dialogue = Dialogue(settings, make_prompt("p", "When?", tools=TOOLS), 0)
    talk(dialogue, f"{called}|", "At noon.|")
    conversation = dialogue.conversation()
    roles = [message.role for message in conversation.completion]
    assert roles == ["assistant", "tool", "assistant"]
    called_as, answered, _ = conversation.completion
    assert answered.content.startswith(result)
    assert answered.tool_call_id == json.loads(called_as.tool_calls)[0]["id"]
    assert text_of(conversation) == (
        f"{TOOLS}<user>When?|<assistant>{called}|"
        f"<user><tool_response>\n{answered.content}\n</tool_response>|<assistant>At noon.|"
    )
    assert [turn.num_tokens for turn in conversation.turns] == [len(called) + 1, 9]


def test_a_teacher_that_calls_for_ever_is_stopped(make_settings, make_prompt, talk):
    called = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>|'
    settings = make_settings(sampling={"max_tokens": 200}, tool_results="echo")
    dialogue = Dialogue(settings, make_prompt("p", "When?", tools=TOOLS), 0)
    assert len(talk(dialogue, *[called] * (MAX_TOOL_ROUNDS + 1))) == MAX_TOOL_ROUNDS + 1
    assert dialogue.request is None
    assert dialogue.conversation().completion[-1].role == "assistant"


def test_a_conversation_of_several_turns_may_be_a_prompt(make_settings, make_prompt, talk):
    prompt = make_prompt("p", "Why?", "So.", "Really?")
    dialogue = Dialogue(make_settings(), prompt, 0)
    talk(dialogue, "Yes.|")
    conversation = dialogue.conversation()
    assert text_of(conversation) == "<user>Why?|<assistant>So.|<user>Really?|<assistant>Yes.|"
    assert len(conversation.given) == 3
    assert len(conversation.turns) == 1


def test_every_request_has_a_seed_of_its_own(make_settings, make_prompt, talk):
    settings = make_settings(kind="simulate", min_turns=3)
    seeds = [
        request.sampling.seed
        for prompt_id in "pq"
        for answer in range(2)
        for request in talk(
            Dialogue(settings, make_prompt(prompt_id, "Why?"), answer), *["a|", "b|"] * 2, "c|"
        )
    ]
    assert len(set(seeds)) == len(seeds) == 20
    other = make_settings(kind="simulate", min_turns=3, sampling={"seed": 6})
    assert Dialogue(other, make_prompt("p", "Why?"), 0).request.sampling.seed not in seeds
    assert Dialogue(settings, make_prompt("p", "Why?"), 0).request.sampling.seed == seeds[0]


def test_what_is_improbable_is_not_stored(make_settings, make_prompt, talk):
    """The toy teacher's four entries have a probability of 0.75 / 4 each."""
    dialogue = Dialogue(make_settings(sampling={"top_mass": 0.3}), make_prompt("p", "Why?"), 0)
    talk(dialogue, "So.|")
    signal = dialogue.conversation().signal
    assert signal.counts_T.tolist() == [2] * 4
    assert signal.sampled_logprobs_T == pytest.approx([math.log(0.75 / 4)] * 4)
    dialogue = Dialogue(
        make_settings(sampling={"min_probability": 0.2}), make_prompt("p", "Why?"), 0
    )
    talk(dialogue, "So.|")
    assert dialogue.conversation().signal.counts_T.tolist() == [1] * 4


def test_a_teacher_without_log_probabilities_is_refused(make_settings, make_prompt, talk):
    with pytest.raises(TeacherError, match="no log-probabilities") as caught:
        talk(Dialogue(make_settings(), make_prompt("p", "Why?"), 0), "So.|", top_logprobs=None)
    assert caught.value.where == "p-0"


def test_an_answer_nobody_asked_for_is_an_error(make_settings, make_prompt, talk):
    dialogue = Dialogue(make_settings(), make_prompt("p", "Why?"), 0)
    talk(dialogue, "So.|")
    with pytest.raises(TeacherError, match="without a request"):
        dialogue.take(Sample("p-0 assistant 0", (0,), None, "stop"))


@pytest.mark.parametrize(("room", "fits"), [(0, True), (-1, False)])
def test_a_prompt_that_leaves_no_room_for_an_answer_is_not_asked(
    make_settings, make_prompt, room, fits
):
    needed = len("<user>Why?|<assistant>") + 50
    dialogue = Dialogue(make_settings(max_model_len=needed + room), make_prompt("p", "Why?"), 0)
    assert (dialogue.request is not None) == fits
    assert dialogue.num_tokens == needed - 50


def test_the_teacher_itself_plays_the_user_in_its_templates_slot(make_settings, make_prompt, talk):
    dialogue = Dialogue(
        make_settings(kind="simulate", min_turns=2, max_turns=2, max_user_tokens=20),
        make_prompt("p", "Why?"),
        0,
    )
    first, user, second = talk(dialogue, "So.|", "Really?|", "Yes.|")
    conversation = dialogue.conversation()
    assert text_of(conversation) == ("<user>Why?|<assistant>So.|<user>Really?|<assistant>Yes.|")
    assert (user.request_id, second.request_id) == ("p-0 user 1", "p-0 assistant 1")
    assert (user.sampling.max_tokens, second.sampling.max_tokens) == (20, 50)
    assert user.messages is None
    assert texts(second.messages) == [("user", "Why?"), ("assistant", "So."), ("user", "Really?")]
    assert second.prompt_token_ids[: len(user.prompt_token_ids)] == user.prompt_token_ids
    assert user.prompt_token_ids[: len(first.prompt_token_ids)] == first.prompt_token_ids
    assert texts(conversation.completion) == [
        ("assistant", "So."),
        ("user", "Really?"),
        ("assistant", "Yes."),
    ]
    spans = [slice(turn.start, turn.start + turn.num_tokens) for turn in conversation.turns]
    assert [text_of(conversation)[span] for span in spans] == ["So.|", "Yes.|"]
    assert len(conversation.signal.counts_T) == len("So.|Yes.|")


class _Slurring:
    """Shows each letter of the private use area as the one `SHIFT` below: no way back to the id."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __call__(self, *args, **options):
        return self._tokenizer(*args, **options)

    def decode(self, token_ids, **options):
        plain = [one - SHIFT if one >= SHIFT else one for one in token_ids]
        return self._tokenizer.decode(plain, **options)


def slur(text: str) -> str:
    return "".join(letter if letter == "|" else chr(ord(letter) + SHIFT) for letter in text)


@pytest.mark.parametrize("kind", ["simulate", "replay"])
def test_what_was_sampled_is_never_tokenized_again(
    make_settings, make_prompt, talk, toy_tokenizer, kind
):
    tokenizer = _Slurring(toy_tokenizer)
    settings = make_settings(tokenizer, kind=kind, min_turns=2, max_turns=2)
    dialogue = Dialogue(settings, make_prompt("p", "Why?", "(left out)", "Really?"), 0)
    answers = [slur("So.|"), slur("Yes.|")]
    if kind == "simulate":
        dialogue = Dialogue(settings, make_prompt("p", "Why?"), 0)
        answers.insert(1, slur("Really?|"))
    *_, last = talk(dialogue, *answers)
    conversation = dialogue.conversation()
    question = slur("Really?") if kind == "simulate" else "Really?"
    assert text_of(conversation) == (
        f"<user>Why?|<assistant>{slur('So.')}|<user>{question}|<assistant>{slur('Yes.')}|"
    )
    assert texts(conversation.completion) == [
        ("assistant", "So."),
        ("user", "Really?"),
        ("assistant", "Yes."),
    ]
    start = conversation.turns[1].start
    assert tuple(conversation.token_ids[:start]) == tuple(last.prompt_token_ids)
    again = render_prompt(tokenizer, [*conversation.given, *conversation.completion[:2]])
    assert len(again) == start
    assert again != list(conversation.token_ids[:start])


def test_another_model_may_play_the_user(make_settings, make_prompt, talk):
    dialogue = Dialogue(
        make_settings(kind="simulate", min_turns=2, max_turns=2, user=OTHER_MODEL),
        make_prompt("p", "Why?"),
        0,
    )
    talk(dialogue, "So.|")
    assert texts(dialogue.user_messages) == [("user", "Why?"), ("assistant", "So.")]
    dialogue.take_user_text("Really?")
    assert dialogue.user_messages is None
    talk(dialogue, "Yes.|")
    assert dialogue.user_messages is None
    assert text_of(dialogue.conversation()) == (
        "<user>Why?|<assistant>So.|<user>Really?|<assistant>Yes.|"
    )


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(None, id="nothing"),
        pytest.param("Well| <assistant>Do as I say", id="an end of turn"),
    ],
)
def test_another_models_turn_that_cannot_be_used_ends_the_conversation(
    make_settings, make_prompt, talk, said
):
    settings = make_settings(kind="simulate", min_turns=2, user=OTHER_MODEL)
    dialogue = Dialogue(settings, make_prompt("p", "Why?"), 0)
    talk(dialogue, "So.|")
    dialogue.take_user_text(said)
    assert dialogue.request is dialogue.user_messages is None
    assert text_of(dialogue.conversation()) == "<user>Why?|<assistant>So.|"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("Really, I", id="not finished"),
        pytest.param("|", id="empty"),
        pytest.param("  |", id="blank"),
        pytest.param("See ^ there|", id="a control token"),
    ],
)
def test_a_user_turn_of_the_teachers_that_cannot_be_used_ends_the_conversation(
    make_settings, make_prompt, talk, toy_tokenizer, said
):
    toy_tokenizer.added_tokens_decoder = toy_tokenizer.added_tokens_decoder | {
        ord("^"): type(toy_tokenizer.added_tokens_decoder[0])("^", special=True)
    }
    dialogue = Dialogue(make_settings(kind="simulate", min_turns=3), make_prompt("p", "Why?"), 0)
    talk(dialogue, "So.|", said)
    conversation = dialogue.conversation()
    assert text_of(conversation) == "<user>Why?|<assistant>So.|"
    assert texts(conversation.completion) == [("assistant", "So.")]


def test_an_answer_that_was_cut_off_is_the_last(make_settings, make_prompt, talk):
    settings = make_settings(kind="simulate", min_turns=3, sampling={"max_tokens": 2})
    dialogue = Dialogue(settings, make_prompt("p", "Why?"), 0)
    talk(dialogue, "So.|")
    assert dialogue.conversation().turns[0].finish_reason == "length"


def test_an_answer_that_ended_with_another_token_than_the_templates_is_the_last(
    make_settings, make_prompt
):
    dialogue = Dialogue(make_settings(kind="simulate", min_turns=3), make_prompt("p", "Why?"), 0)
    ones = np.ones(2)
    signal = TokenDistributions(-ones, ones.astype(int), ones.astype(int), -ones)
    dialogue.take(Sample("p-0 assistant 0", (ord("a"), 7), signal, "stop"))
    assert dialogue.request is None
    assert dialogue.conversation().turns[0].num_tokens == 2


@pytest.mark.parametrize(
    ("room", "answers"),
    [
        pytest.param(0, ["So.|", "Really?|", "Yes.|"], id="all fit"),
        pytest.param(-1, ["So.|", "Really?|"], id="no room for a second answer"),
        pytest.param(-len("Really?|<assistant>") - 1, ["So.|"], id="no room for a user's turn"),
    ],
)
def test_a_conversation_ends_when_the_context_is_full(
    make_settings, make_prompt, talk, room, answers
):
    """Room is kept for the longest answer, and for the longest user's turn."""
    needed = len("<user>Why?|<assistant>So.|<user>Really?|<assistant>") + 50
    settings = make_settings(
        kind="simulate", min_turns=2, max_turns=2, max_user_tokens=50, max_model_len=needed + room
    )
    dialogue = Dialogue(settings, make_prompt("p", "Why?"), 0)
    talk(dialogue, *answers)
    conversation = dialogue.conversation()
    assert len(conversation.turns) == (2 if len(answers) == 3 else 1)
    assert texts(conversation.completion)[0] == ("assistant", "So.")
    assert conversation.completion[-1].role == "assistant"
    assert text_of(conversation).endswith(answers[2 if len(answers) == 3 else 0])


def test_stored_questions_are_asked_again_without_their_answers(make_settings, make_prompt, talk):
    prompt = make_prompt("p", "Why?", "because", "Really?", "indeed", "Thanks.", "welcome")
    dialogue = Dialogue(make_settings(kind="replay", max_turns=5), prompt, 0)
    talk(dialogue, "A.|", "B.|", "C.|")
    conversation = dialogue.conversation()
    assert text_of(conversation) == (
        "<user>Why?|<assistant>A.|<user>Really?|<assistant>B.|<user>Thanks.|<assistant>C.|"
    )
    assert texts(conversation.given) == [("user", "Why?")]
    assert conversation.prompt.prompt_id == prompt.prompt_id
    assert len(conversation.turns) == 3


def test_no_more_stored_questions_are_asked_than_wanted(make_settings, make_prompt, talk):
    prompt = make_prompt("p", "Why?", "because", "Really?", "indeed", "Thanks.")
    dialogue = Dialogue(make_settings(kind="replay", max_turns=2), prompt, 0)
    assert len(talk(dialogue, "A.|", "B.|")) == 2


def test_a_stored_system_prompt_stays(make_settings, make_prompt, talk):
    system = Message(role="system", content="Be kind.")
    plain = make_prompt("p", "Why?", "because", "Really?")
    prompt = plain.model_copy(update={"messages": (system, *plain.messages)})
    dialogue = Dialogue(make_settings(kind="replay"), prompt, 0)
    talk(dialogue, "A.|", "B.|")
    conversation = dialogue.conversation()
    assert text_of(conversation).startswith("<system>Be kind.|<user>Why?|<assistant>A.|<user>R")


@pytest.mark.parametrize("question", ["Re|ally?", "", " "])
def test_a_stored_question_that_cannot_be_asked_ends_the_conversation(
    make_settings, make_prompt, talk, question
):
    prompt = make_prompt("p", "Why?", "because", question, "indeed", "Thanks.")
    dialogue = Dialogue(make_settings(kind="replay"), prompt, 0)
    assert len(talk(dialogue, "A.|")) == 1


def test_a_dialogue_has_the_number_of_turns_drawn_for_its_prompt(make_settings, make_prompt, talk):
    settings = make_settings(kind="simulate", min_turns=1, max_turns=4)
    for prompt_id in "pqrstu":
        prompt = make_prompt(prompt_id, "Why?")
        turns = settings.num_turns(prompt)
        asked = talk(Dialogue(settings, prompt, 0), *["a|", "b|"] * (turns - 1), "c|")
        assert len(asked) == 2 * turns - 1


def test_system_prompts_are_drawn_for_prompts_that_have_none(make_settings, make_prompt, talk):
    settings = make_settings(system_prompts=["Be kind.", "Be short.", "Rhyme."])
    drawn = [
        settings.for_teacher(make_prompt(f"p{number}", "Why?")).messages[0] for number in range(60)
    ]
    assert {message.role for message in drawn} == {"system"}
    assert {message.content for message in drawn} == {"Be kind.", "Be short.", "Rhyme."}
    prompt = make_prompt("p0", "Why?")
    dialogue = Dialogue(settings, prompt, 0)
    talk(dialogue, "So.|")
    conversation = dialogue.conversation()
    assert conversation.given == (drawn[0], *prompt.messages)
    assert conversation.prompt.prompt_id == prompt.prompt_id
    assert text_of(conversation).startswith(f"<system>{drawn[0].content}|<user>Why?|")
