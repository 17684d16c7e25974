import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from compare.answers.client import Endpoint
from compare.answers.serving import FileSide, Serving
from compare.config import CompareConfig
from compare.measurement.served import (
    measure_served,
    prompts_read_otherwise,
    served_nats_per_token,
)
from potstill.errors import BackendError
from potstill.facts.student import StudentFacts
from tests.fixtures.facts import student_facts

from ..conftest import ask_about
from ..judging import answer


def endpoint(base_url: str, model: str = "a") -> Endpoint:
    return Endpoint(base_url=base_url, model=model, identity=model, timeout_seconds=10.0)


def nobody_serves(*_: object) -> None:
    raise AssertionError("no file is to be served")


SERVING = Serving(CompareConfig(), nobody_serves, 64, Path("log"))


def echo(body):
    """Give the token at position p a probability of 1/(p + 1), as if asked for OpenAI's echo."""
    assert (body["echo"], body["max_tokens"]) == (True, 1)
    logprobs = [None, *(-math.log(p + 1) for p in range(1, len(body["prompt"]))), -0.5]
    told = {"tokens": [], "token_logprobs": logprobs, "top_logprobs": None, "text_offset": []}
    choice = {"index": 0, "text": "", "logprobs": told, "finish_reason": "length"}
    head = {"id": "1", "object": "text_completion", "created": 1, "model": body["model"]}
    return 200, head | {"choices": [choice]}


def test_nats_are_of_the_teachers_tokens_alone(openai_server, make_conversation):
    server = openai_server(echo)
    held_out = [make_conversation(), make_conversation((1, 2, 3, 4, 5, 6), ((3, 3),))]
    expected = [math.log(p + 1) for one in held_out for p in one.positions_T]
    found = served_nats_per_token(endpoint(server.base_url), held_out)
    assert found == pytest.approx(sum(expected) / len(expected))
    assert [one["prompt"] for one in server.requests] == [
        one.token_ids.tolist() for one in held_out
    ]


@pytest.mark.parametrize(
    "said",
    [
        (404, {"error": {"message": "no such path"}}),
        (400, {"error": {"message": "echo is not supported"}}),
        "a chat",
    ],
)
def test_server_that_tells_no_log_probabilities_is_no_error(openai_server, make_conversation, said):
    server = openai_server(lambda _: said)
    assert served_nats_per_token(endpoint(server.base_url), [make_conversation()]) is None


def test_server_that_fails_is_an_error(openai_server, make_conversation):
    server = openai_server(lambda _: (500, {"error": {"message": "ill"}}))
    with pytest.raises(BackendError, match="ill"):
        served_nats_per_token(endpoint(server.base_url), [make_conversation()])


@pytest.mark.slow
def test_models_elsewhere_are_timed_where_they_stream(stand_in, openai_server, questions):
    running, _ = stand_in
    silent = openai_server(lambda _: "whole answers only")
    with running() as base_url:
        sides = {"student": endpoint(base_url, "fast"), "teacher": endpoint(silent.base_url)}
        found = measure_served(None, sides, {}, SERVING, questions, 8)
    assert found.elsewhere == ("student", "teacher")
    assert found.nats_per_token is None
    assert found.speed.keys() == {"student"}
    assert found.speed["student"].num_timed_answers == len(questions)


@dataclass
class Run:
    student: StudentFacts


def test_file_that_reads_prompts_otherwise_is_named():
    sides = {"student": FileSide("student-Q8_0", "a"), "teacher": FileSide("teacher-F16", "b")}
    questions = [ask_about(n, prompt_id=f"p{n}", prompt_token_ids=(1,) * 9) for n in range(3)]
    answers = [answer(role, n, "text") for role in ("student", "teacher") for n in range(3)]
    assert prompts_read_otherwise(None, sides, questions, answers) == []
    answers[1] = answers[1].model_copy(update={"prompt_tokens": 7})
    (note,) = prompts_read_otherwise(Run(student_facts()), sides, questions, answers)
    assert note.startswith("student-Q8_0 read 1 of 3 prompts")
    refused = answers[1].model_copy(update={"finish_reason": "error"})
    assert not prompts_read_otherwise(None, sides, questions, [answers[0], refused])
    assert not prompts_read_otherwise(
        Run(student_facts(own_tokenizer=True)), sides, questions, answers
    )
    elsewhere = sides | {"student": endpoint("http://127.0.0.1:9/v1")}
    assert not prompts_read_otherwise(None, elsewhere, questions, answers)
