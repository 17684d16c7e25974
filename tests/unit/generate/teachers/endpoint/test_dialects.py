import pytest

from generate.teachers.endpoint.dialects import (
    NEUTRAL,
    ChatDialect,
    PromptMismatchError,
    TokenIdDialect,
)
from generate.teachers.protocol import ScoreRequest
from potstill.token_scores import UnusableAnswerError

END = 0


def completion(rows: dict[str, dict[str, float]], **choice) -> dict:
    """Return vLLM's answer of tokens with their rows; a row's first entry is the token's own."""
    logprobs = {
        "tokens": list(rows),
        "token_logprobs": [next(iter(row.values())) for row in rows.values()],
        "top_logprobs": list(rows.values()),
    }
    made = {"finish_reason": "length", "logprobs": logprobs, "prompt_token_ids": [1]}
    return {"choices": [made | choice]}


def test_a_completion_is_asked_for_in_token_ids(request_of):
    request = request_of("q", temperature=0.5, top_p=0.9, max_tokens=8)
    body = TokenIdDialect("toy", frozenset({5, END})).body(request, 3)
    assert body == {
        "model": "toy",
        "prompt": list(request.prompt_token_ids),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 8,
        "seed": 7,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [END, 5],
        "logprobs": 3,
        **NEUTRAL,
    }
    assert "logprobs" not in TokenIdDialect("toy", frozenset({END})).body(request, None)


def test_a_score_is_asked_for_as_an_echo():
    body = TokenIdDialect("toy", frozenset()).score_body(ScoreRequest("t", (1, 2), 1), 3)
    assert (body["prompt"], body["echo"], body["max_tokens"], body["logprobs"]) == (
        [1, 2],
        True,
        0,
        3,
    )


def test_rows_are_sorted_and_cut_and_the_token_keeps_its_own_probability(request_of):
    request = request_of("q")
    row = {"token_id:9": -7.0, "token_id:3": -0.5, "token_id:4": -1.5}
    answer = completion(
        {"token_id:9": row}, token_ids=[9], prompt_token_ids=list(request.prompt_token_ids)
    )
    sample = TokenIdDialect("toy", frozenset()).read(answer, request, 2)
    assert sample.token_ids == (9,)
    assert sample.signal.top_token_ids_N.tolist() == [3, 4]
    assert sample.signal.top_logprobs_N.tolist() == [-0.5, -1.5]
    assert sample.signal.sampled_logprobs_T.tolist() == [-7.0]


def test_tokens_written_as_text_are_refused(request_of):
    request = request_of("q")
    answer = completion(
        {"the": {"the": -1.0}}, token_ids=[9], prompt_token_ids=list(request.prompt_token_ids)
    )
    with pytest.raises(UnusableAnswerError, match="tokens as text"):
        TokenIdDialect("toy", frozenset()).read(answer, request, 1)


@pytest.fixture
def chat(toy_tokenizer) -> ChatDialect:
    return ChatDialect("toy", frozenset({END}), toy_tokenizer, {"top_k": 0})


def chat_answer(request, text: str, *entries: dict, finish_reason: str = "length") -> dict:
    choice = {
        "message": {"content": text},
        "finish_reason": finish_reason,
        "logprobs": {"content": list(entries)},
    }
    return {"choices": [choice], "usage": {"prompt_tokens": len(request.prompt_token_ids)}}


def entry(token: str, **more) -> dict:
    made = {"token": token, "bytes": list(token.encode()), "logprob": -1.0}
    return made | {"top_logprobs": [{**made, **more}]} | more


def test_a_chat_is_asked_for_in_messages(chat, request_of):
    body = chat.body(request_of("q", "hello", "hi", "again"), 3)
    assert [one["role"] for one in body["messages"]] == ["user", "assistant", "user"]
    assert (body["logprobs"], body["top_logprobs"], body["top_k"]) == (True, 3, 0)
    assert chat.body(request_of("q"), None)["logprobs"] is True


def test_an_id_given_counts_more_than_bytes(chat, request_of):
    request = request_of("q")
    answer = chat_answer(request, "a", entry("a", id=77))
    sample = chat.read(answer, request, 1)
    assert sample.token_ids == (77,)
    assert sample.signal.top_token_ids_N.tolist() == [77]


def test_ids_found_must_give_the_answers_text(chat, toy_tokenizer, request_of):
    request = request_of("q")
    sample = chat.read(chat_answer(request, "ab", entry("a"), entry("b")), request, 1)
    assert sample.token_ids == tuple(toy_tokenizer.convert_tokens_to_ids(["a", "b"]))
    with pytest.raises(UnusableAnswerError, match="do not decode to the answer's text"):
        chat.read(chat_answer(request, "abc", entry("a"), entry("b")), request, 1)
    with pytest.raises(UnusableAnswerError, match="no token of the tokenizer"):
        chat.read(chat_answer(request, "a b c d", entry("a b c d")), request, 1)


def test_text_stands_in_where_bytes_are_left_out(chat, toy_tokenizer, request_of):
    request = request_of("q")
    sample = chat.read(chat_answer(request, "a", entry("a", bytes=None)), request, None)
    assert sample.token_ids == (toy_tokenizer.convert_tokens_to_ids("a"),)
    assert sample.signal is None


def test_another_number_of_prompt_tokens_is_a_mismatch(chat, request_of):
    request = request_of("q")
    answer = chat_answer(request, "a", entry("a"))
    answer["usage"]["prompt_tokens"] += 1
    with pytest.raises(PromptMismatchError, match="by our chat template it has"):
        chat.read(answer, request, 1)
