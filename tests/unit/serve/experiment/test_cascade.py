"""Who answers in a cascade, whole and streamed, and what it has cost."""

import asyncio

import pytest

from potstill.errors import BackendError
from serve.experiment.config import CascadeConfig
from serve.wire.chat import ChatRequest
from tests.fixtures.server_sent import events

from .conftest import Reply


@pytest.fixture
def cascade(live):
    def serve(**settings):
        return live(cascades={"both": CascadeConfig(**settings)})

    return serve


def ask(server, text: str = "Hi", **more):
    return server.ask(text, model="both", **more)


def text_of(response) -> str:
    if "event-stream" not in response.headers["content-type"]:
        return response.json()["choices"][0]["message"]["content"]
    chunks = events(response)
    assert [one["finish_reason"] for chunk in chunks for one in chunk["choices"]][-1] == "stop"
    deltas = [one["delta"] for chunk in chunks for one in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def counts(server) -> dict:
    (view,) = server.client.get("/v1/cascades").json()["data"]
    return view


@pytest.mark.parametrize("stream", [False, True])
def test_a_sure_student_answers(cascade, stream):
    server = cascade(least_mean_logprob=-1.0)
    assert text_of(ask(server, stream=stream)) == "student: Hi"
    assert server.teacher.requests == []
    assert counts(server)["share_escalated"] == 0.0


@pytest.mark.parametrize("stream", [False, True])
def test_the_teacher_takes_over_from_an_unsure_one(cascade, stream):
    server = cascade(least_mean_logprob=-0.4)
    assert text_of(ask(server, stream=stream)) == "teacher: Hi"
    assert counts(server)["share_escalated"] == 1.0


def test_the_teacher_takes_over_without_log_probabilities(cascade):
    server = cascade(least_mean_logprob=-1.0)
    server.student.logprob = None
    assert text_of(ask(server)) == "teacher: Hi"


@pytest.mark.parametrize(
    ("settings", "text", "says"),
    [
        ({"prompt_pattern": r"(?i)\blaw\b"}, "What is the law?", "teacher"),
        ({"prompt_pattern": r"(?i)\blaw\b"}, "What is the lawn?", "student"),
        ({"answer_pattern": r"(?i)cannot help"}, "I cannot help", "teacher"),
        ({"most_tokens": 3}, "one two three", "teacher"),
        ({"most_tokens": 3}, "one two", "student"),
        ({}, "anything", "student"),
    ],
)
def test_rules_can_decide(cascade, settings, text, says):
    assert text_of(ask(cascade(**settings), text)) == f"{says}: {text}"


def test_a_rule_that_takes_too_long_leaves_the_answer_to_the_teacher(cascade, monkeypatch):
    monkeypatch.setattr("serve.patterns.SECONDS", 0.05)
    for settings in ({"prompt_pattern": r"(a|aa)+$"}, {"answer_pattern": r"(a|aa)+$"}):
        server = cascade(**settings)
        text = "a" * 200 + "b"
        assert text_of(ask(server, text)) == f"teacher: {text}"


def test_a_slow_rule_for_one_key_leaves_a_thread_to_others(cascade, monkeypatch):
    monkeypatch.setattr("serve.patterns.SECONDS", 0.05)
    rules = cascade(prompt_pattern=r"(a|aa)+$").client.app.state.serving.backends["both"]

    def asked(text: str) -> ChatRequest:
        return ChatRequest.model_validate({"messages": [{"role": "user", "content": text}]})

    async def ask_all() -> int:
        """Return how many slow ones were answered before the quick one, which came last."""
        slow = [
            asyncio.create_task(rules.skips_student(asked("a" * 200 + "b"), "a")) for _ in range(40)
        ]
        await asyncio.sleep(0)
        assert not await rules.skips_student(asked("Hi"), "b")
        num_before = sum(one.done() for one in slow)
        assert all(await asyncio.gather(*slow))
        return num_before

    assert asyncio.run(ask_all()) < 20


def test_a_rule_on_prompts_spares_the_student(cascade):
    server = cascade(prompt_pattern="law")
    ask(server, "law")
    assert server.student.requests == []
    assert len(server.teacher.requests) == 1


def test_log_probabilities_are_returned_only_if_requested(cascade):
    server = cascade(least_mean_logprob=-1.0)
    assert ask(server).json()["choices"][0]["logprobs"] is None
    shown = ask(server, logprobs=True).json()["choices"][0]["logprobs"]
    assert [one["token"] for one in shown["content"]] == ["student:", "Hi"]


def test_usage_is_streamed_only_if_requested(cascade):
    for settings in ({"least_mean_logprob": -1.0}, {"least_mean_logprob": -0.1}):
        server = cascade(**settings)
        assert '"usage":{' not in ask(server, stream=True).text
        options = {"stream_options": {"include_usage": True}}
        assert '"completion_tokens":2' in ask(server, stream=True, **options).text


def test_discarded_tokens_are_paid_for(cascade):
    server = cascade(answer_pattern="no", student_price=1.0, teacher_price=10.0)
    ask(server, "yes")
    ask(server, "no", stream=True)
    assert counts(server) == {
        "name": "both", "student": "student", "teacher": "teacher",
        "answers": 2, "escalated": 1, "share_escalated": 0.5,
        "student_tokens": 4, "teacher_tokens": 2, "cost": pytest.approx(24e-6),
    }  # fmt: skip


def test_failures_of_either_model_reach_the_client(cascade):
    server = cascade(least_mean_logprob=-0.1)
    server.teacher.error = BackendError("broken")
    assert ask(server).status_code == 500
    server.student.error = BackendError("broken")
    assert ask(server).status_code == 500


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_usage_can_be_part_of_it(cascade, monkeypatch, stream):
    server = cascade(most_tokens=5, answer_pattern="no")
    whole = Reply.complete

    async def without_usage(reply):
        answer = await whole(reply)
        del answer["usage"]
        return answer

    monkeypatch.setattr(Reply, "complete", without_usage)
    for text in ("yes", "no"):
        response = ask(server, text, stream=stream)
        assert (response.status_code, "error" in response.text) == (200, False)
