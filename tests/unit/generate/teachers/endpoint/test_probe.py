import copy

import pytest

from potstill.errors import TeacherError


@pytest.mark.parametrize(
    ("kind", "path"), [("vllm", "/v1/completions"), ("potstill", "/v1/chat/completions")]
)
@pytest.mark.parametrize("processed", [False, True])
def test_the_kind_of_log_probabilities_is_measured(
    serving, teaching, request_of, taking, kind, path, processed
):
    server = serving(kind, processed=processed)
    teacher = teaching(server)
    assert teacher.logprobs_mode == ("processed_logprobs" if processed else "raw_logprobs")
    list(teacher.sample(taking([request_of("q")]), top_logprobs=None))
    assert [where for where, _ in server.asked] == [path]


def test_it_is_unknown_where_the_server_gives_one_only(serving, teaching):
    server = serving("vllm", max_logprobs=1)
    server.clamps = True
    assert teaching(server).logprobs_mode == "unknown"


def test_it_is_unknown_where_the_server_refuses_other_temperatures(serving, teaching):
    server = serving("vllm")
    server.faults += [None, 400]
    assert teaching(server).logprobs_mode == "unknown"


def test_a_server_that_fails_meanwhile_is_not_called_unknown(serving, teaching):
    server = serving("vllm")
    server.faults += [None, 503]
    with pytest.raises(TeacherError, match="HTTP 503"):
        teaching(server, max_retries=0)


def test_defaults_of_the_server_are_switched_off_where_it_knows_them(
    serving, teaching, taking, request_of
):
    for kind, expected in {"vllm": 0, "potstill": 0, "openai": None}.items():
        server = serving(kind)
        teacher = teaching(server)
        list(teacher.sample(taking([request_of("q")]), top_logprobs=None))
        ((_, body),) = server.asked
        assert body.get("top_k") == expected
        assert (body["temperature"], body["max_tokens"], body["seed"]) == (1.0, 8, 7)


def test_a_server_without_the_model_is_refused_with_those_it_has(serving, teaching):
    for kind in ("vllm", "potstill"):
        with pytest.raises(TeacherError, match="has no model 'other'") as caught:
            teaching(serving(kind), model="other")
        assert caught.value.expected == "toy"


def test_another_chat_template_is_refused(serving, teaching, toy_tokenizer):
    server = serving("potstill")
    server.tokenizer = copy.deepcopy(toy_tokenizer)
    server.tokenizer.chat_template = "Be kind. " + toy_tokenizer.chat_template
    with pytest.raises(TeacherError, match="tokenizer or its chat template is not the one"):
        teaching(server)


def test_an_answer_in_no_format_at_all_is_refused(serving, teaching):
    server = serving("vllm")
    server.faults += [b"[]"] * 3
    with pytest.raises(TeacherError, match="/completions: the answer is not in OpenAI's format"):
        teaching(server)


def without_tokens(answer: dict) -> None:
    answer["choices"][0].update(logprobs=None, token_ids=None)


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        ("vllm", [without_tokens] * 3),
        ("potstill", [None, without_tokens, without_tokens]),
        ("openai", [None, None, without_tokens]),
    ],
)
def test_a_server_that_names_no_tokens_is_refused(serving, teaching, kind, faults):
    server = serving(kind)
    server.faults += faults
    with pytest.raises(TeacherError, match="does not return sampled token ids") as caught:
        teaching(server)
    assert "/chat/completions: the server returns no log-probabilities" in str(caught.value)
    assert server.num_asked() == 3


def test_a_greeting_dearer_than_the_cap_is_not_sent(serving, teaching):
    server = serving()
    with pytest.raises(TeacherError, match="does not even pay for a greeting"):
        teaching(server, max_cost=1.0, completion_price=2e6)
    assert server.num_asked() == 0
