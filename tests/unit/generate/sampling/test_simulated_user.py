import threading
from itertools import pairwise

import jinja2
import pytest

from generate.config import GenerateConfig
from generate.sampling.simulated_user import INSTRUCTION, SimulatedUser, exchange_roles
from generate.teachers.protocol import Failure, derive_seed
from potstill.chat import render_prompt
from potstill.errors import TeacherError
from potstill.schema import Message

pytestmark = pytest.mark.timeout(60)

CONFIG = GenerateConfig.model_validate(
    {
        "sampling": {"temperature": 0.7, "top_p": 0.8, "seed": 3},
        "turns": {"kind": "simulate", "max_user_tokens": 20},
    }
)
ASKED = Message(role="user", content="Why?")
ANSWERED = Message(role="assistant", content="So.")


@pytest.fixture
def begin(fake_teacher):
    """Return a function that starts the user's model; all are closed in the end."""
    begun = []

    def make(answer=lambda request: f"re {request.request_id}|", **options):
        teacher = fake_teacher(answer, **options)
        begun.append(SimulatedUser(teacher, CONFIG))
        return begun[-1], teacher

    yield make
    for user in begun:
        user.close()


def wait_for(user, count) -> dict:
    """Return `count` answers, in any order of arrival."""
    found: dict = {}
    while len(found) < count:
        found.update(user.answers(wait=True))
    return found


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_the_user_is_asked_in_exchanged_roles():
    conversation = [
        Message(role="system", content="Be kind."),
        ASKED,
        ANSWERED,
        Message(role="user", content="Really?"),
        Message(role="assistant", content="", tool_calls='[{"name": "clock"}]'),
        Message(role="tool", content="12:00"),
        Message(role="assistant", content="Yes."),
    ]
    turned = exchange_roles(conversation)
    assert [(one.role, one.content) for one in turned] == [
        ("system", INSTRUCTION),
        ("user", "Begin."),
        ("assistant", "Why?"),
        ("user", "So."),
        ("assistant", "Really?"),
        ("user", "Yes."),
    ]


def test_what_the_user_says_comes_under_the_conversations_name(begin):
    user, teacher = begin()
    for name in "abc":
        user.ask(name, [ASKED, ANSWERED])
    assert wait_for(user, 3) == {"a": "re a", "b": "re b", "c": "re c"}
    assert teacher.top_logprobs == {None}


def test_a_question_is_rendered_and_sampled_as_configured(begin):
    user, teacher = begin()
    user.ask("a-0", [ASKED, ANSWERED])
    wait_for(user, 1)
    (request,) = teacher.asked
    assert list(request.messages) == exchange_roles([ASKED, ANSWERED])
    assert request.prompt_token_ids == render_prompt(teacher.tokenizer, request.messages)
    assert request.sampling.model_dump() == {
        "temperature": 0.7,
        "top_p": 0.8,
        "max_tokens": 20,
        "seed": derive_seed(3, "a-0 user 2"),
    }


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (" Really? |", "Really?"),
        ("Really, I", None),
        ("|", None),
        ("  |", None),
        (Failure("a", "busy"), None),
    ],
)
def test_only_a_whole_turn_counts(begin, said, taken):
    user, _ = begin(lambda _: said)
    user.ask("a", [ASKED, ANSWERED])
    assert wait_for(user, 1) == {"a": taken}


def test_nothing_is_there_before_the_user_has_spoken(begin):
    may_speak = threading.Event()

    def answer(_):
        assert may_speak.wait(30)
        return "so|"

    user, _ = begin(answer)
    assert list(user.answers(wait=False)) == []
    user.ask("a", [ASKED, ANSWERED])
    assert list(user.answers(wait=False)) == []
    may_speak.set()
    assert wait_for(user, 1) == {"a": "so"}
    assert list(user.answers(wait=False)) == []


def test_the_user_waits_for_questions_however_late_they_come(begin):
    user, _ = begin()
    for number in range(20):
        user.ask(f"n{number}", [ASKED, ANSWERED])
        assert wait_for(user, 1) == {f"n{number}": f"re n{number}"}


def test_more_is_asked_at_once_than_the_model_works_on(begin):
    user, teacher = begin(max_num_seqs=2)
    for number in range(50):
        user.ask(f"n{number}", [ASKED, ANSWERED])
    assert len(wait_for(user, 50)) == 50
    assert teacher.most_held <= 2


def test_a_failure_of_the_whole_model_is_raised_where_answers_are_taken(begin):
    def fail(_):
        raise TeacherError("the server is gone")

    user, _ = begin(fail)
    user.ask("a", [ASKED, ANSWERED])
    with pytest.raises(TeacherError, match="the server is gone"):
        wait_for(user, 1)


def test_closing_ends_the_thread_and_the_model(begin):
    user, teacher = begin()
    assert "user-turns" in threads()
    user.close()
    assert "user-turns" not in threads()
    assert teacher.closed


def test_closing_drops_what_was_asked_and_not_answered(begin):
    asked, may_speak = threading.Event(), threading.Event()
    answered = []

    def answer(request):
        answered.append(request.request_id)
        asked.set()
        assert may_speak.wait(30)
        return "so|"

    user, _ = begin(answer)
    for number in range(10):
        user.ask(f"n{number}", [ASKED, ANSWERED])
    assert asked.wait(30)
    closing = threading.Thread(target=user.close)
    closing.start()
    # The answer it is at work on comes after `close` has begun.
    while not user._closing:
        pass
    may_speak.set()
    closing.join()
    assert answered == ["n0"]
    assert "user-turns" not in threads()


def test_closing_after_a_failure_ends_the_model_too(begin):
    def fail(_):
        raise TeacherError("the server is gone")

    user, teacher = begin(fail)
    user.ask("a", [ASKED, ANSWERED])
    user.close()
    assert teacher.closed
    assert "user-turns" not in threads()


class Strict:
    """Takes no system prompt, or no two messages of one role in a row."""

    chat_template = "strict"

    def __init__(self, tokenizer, *, refuse_system: bool) -> None:
        self._tokenizer, self._refuse_system = tokenizer, refuse_system

    def __call__(self, *args, **options):
        return self._tokenizer(*args, **options)

    def decode(self, *args, **options):
        return self._tokenizer.decode(*args, **options)

    def apply_chat_template(self, conversation, **options):
        roles = [one["role"] for one in conversation]
        if self._refuse_system and "system" in roles:
            raise jinja2.TemplateError("System role not supported")
        if any(one == two for one, two in pairwise(roles)):
            raise jinja2.TemplateError("roles must alternate")
        return self._tokenizer.apply_chat_template(conversation, **options)


def test_a_model_that_cannot_be_instructed_to_play_the_user_is_refused(begin, toy_tokenizer):
    with pytest.raises(TeacherError, match="cannot be instructed") as caught:
        begin(tokenizer=Strict(toy_tokenizer, refuse_system=True))
    assert "System role not supported" in str(caught.value)
    assert "user-turns" not in threads()


def test_a_conversation_that_the_users_template_does_not_take_ends(begin, toy_tokenizer):
    user, teacher = begin(tokenizer=Strict(toy_tokenizer, refuse_system=False))
    user.ask("twice", [ASKED, ASKED, ANSWERED])
    user.ask("once", [ASKED, ANSWERED])
    assert wait_for(user, 2) == {"twice": None, "once": "re once"}
    assert [one.request_id for one in teacher.asked] == ["once"]
