"""Pairs of a request's body and its response, of OpenAI's two APIs or of Anthropic's.

The record of potstill's server (`serve.record_path`), batches, Helicone and many logs have them
under different keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from generate.sources.formats.anthropic import (
    anthropic_answer,
    anthropic_request,
    is_answer,
    is_anthropic,
)
from generate.sources.formats.openai_chat import chat_answers, chat_request
from generate.sources.formats.openai_responses import responses_answer, responses_request
from generate.sources.formats.reader import Reader, Row, Trace, error_text, mapping, model_name
from generate.sources.messages import parsed
from generate.sources.rows import RowError
from potstill.schema import Message


def read_exchange(request: object, response: object, key: str) -> Trace:
    """Return the request with the answers of its response.

    Args:
        request: A body, or JSON text of one.
        response: A body, or JSON text of one; a text that is not JSON is an error's; None without.
        key: Where the request is in its row.

    Raises:
        RowError: They are not of a known API, or have content other than text.
    """
    body = mapping(parsed(request))
    if "messages" in body:
        found = anthropic_request(body) if is_anthropic(body) else chat_request(body)
    elif "input" in body and ("instructions" in body or isinstance(body["input"], list)):
        found = responses_request(body)
    else:
        raise RowError(f"{key} without messages")
    answers, error = _response(response)
    answered_by = mapping(response).get("model")
    model = model_name(answered_by) or model_name(body.get("model"))
    return replace(found, answers=answers, model=model, error=error)


def _response(given: object) -> tuple[tuple[Message, ...], str | None]:
    try:
        response = mapping(parsed(given))
    except RowError:
        return (), error_text(given)  # A proxy's page in place of JSON.
    if "body" in response:  # as in batch output files
        response = mapping(parsed(response["body"]))
    error = error_text(response.get("error"))
    if is_answer(response):
        return anthropic_answer(response), error
    if isinstance(response.get("output"), list):
        return responses_answer(response), error
    return chat_answers(response), error


def _recorded(row: Row) -> Iterable[Trace]:
    yield read_exchange(row["request"], row.get("response"), "request")


def _batch_line(row: Row) -> Iterable[Trace]:
    yield read_exchange(row["body"], row.get("response"), "body")


def _params(row: Row) -> Iterable[Trace]:
    result = mapping(row.get("result"))
    response = result.get("message") or result
    yield read_exchange(row["params"], response, "params")


RECORD = Reader(
    "request and response",
    lambda row: "request" in row,
    _recorded,
    frozenset({"request", "response"}),
)
BATCH = Reader(
    "OpenAI's batches", lambda row: "body" in row, _batch_line, frozenset({"body", "response"})
)
ANTHROPIC_BATCH = Reader(
    "Anthropic's batches",
    lambda row: "params" in row and "custom_id" in row,
    _params,
    frozenset({"params", "custom_id", "result"}),
)
