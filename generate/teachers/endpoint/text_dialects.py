"""Requests to servers that give text alone, in OpenAI's and Anthropic's spelling.

In: requests with messages. Out: JSON bodies; from JSON answers, samples whose message is what the
server wrote and whose token ids are that message's in the tokens of the student.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generate.teachers.endpoint.text_tokens import AnswerTokens
from generate.teachers.protocol import Sample, SampleRequest
from potstill.distributions import TokenDistributions
from potstill.schema import FinishReason, Message, SamplingParams
from potstill.thinking import split_any
from potstill.token_scores import UnusableAnswerError
from potstill.tools.formats import stored_calls

OPENAI_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "tool_calls": "stop",
    "length": "length",
}
ANTHROPIC_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
SCHEMA_NAME = "answer"
HIDDEN_TOKENS = 1024
"""Bound of the prompt tokens that a server adds to what it is sent, for its templates and tools."""

Call = tuple[str, str]
"""Name and arguments, as JSON."""
Found = tuple[str, str | None, list[Call], FinishReason]
"""Text, thinking, calls and why the answer ended."""


@dataclass(frozen=True)
class TextDialect:
    """What both spellings share.

    Args:
        sampled_by: Names of the sampling parameters that the server takes.
        limit_name: Name of the largest number of tokens.
        more: Further parameters of every request.
    """

    model: str
    tokens: AnswerTokens
    sampled_by: frozenset[str]
    limit_name: str
    more: Mapping[str, Any]
    path: str = ""

    def body(
        self,
        request: SampleRequest,
        top_logprobs: int | None,  # noqa: ARG002  (the protocol's)
    ) -> dict[str, Any]:
        """Return the JSON of a request for an answer; log-probabilities are not requested."""
        if request.messages is None:
            raise UnusableAnswerError("the server takes messages only, and there are none")
        return {
            "model": self.model,
            self.limit_name: request.sampling.max_tokens,
            **self._sampling(request.sampling),
            **self.more,
            **self._asked(request, request.messages),
        }

    def read(
        self, answer: Mapping[str, Any], request: SampleRequest, top_logprobs: int | None
    ) -> Sample:
        """Return the sample in an answer, its tokens certain if a signal is wanted."""
        text, thinking, calls, finish_reason = self._found(answer)
        message = _message(text, thinking, calls, request)
        token_ids = self.tokens.find(request, message, finish_reason)
        signal = None if top_logprobs is None else TokenDistributions.certain(token_ids)
        return Sample(request.request_id, token_ids, signal, finish_reason, message)

    def worst_prompt_tokens(self, request: SampleRequest) -> int:
        """Return a bound of what the server counts as prompt: a token has at least a byte."""
        try:
            body = self.body(request, None)
        except UnusableAnswerError:
            return 0  # It is not sent.
        return len(json.dumps(body, ensure_ascii=False).encode()) + HIDDEN_TOKENS

    def _sampling(self, sampling: SamplingParams) -> dict[str, Any]:
        raise NotImplementedError

    def _asked(self, request: SampleRequest, messages: Sequence[Message]) -> dict[str, Any]:
        raise NotImplementedError

    def _found(self, answer: Mapping[str, Any]) -> Found:
        raise NotImplementedError


@dataclass(frozen=True)
class OpenAITextDialect(TextDialect):
    """`/chat/completions`, without log-probabilities."""

    path: str = "/chat/completions"

    def _sampling(self, sampling: SamplingParams) -> dict[str, Any]:
        return {name: getattr(sampling, name) for name in sorted(self.sampled_by)}

    def _asked(self, request: SampleRequest, messages: Sequence[Message]) -> dict[str, Any]:
        # Some APIs refuse the thinking of earlier answers.
        shown = [one.model_copy(update={"reasoning_content": None}) for one in messages]
        body: dict[str, Any] = {"messages": [message.to_chat() for message in shown]}
        if request.tools is not None:
            body["tools"] = json.loads(request.tools)
        if request.schema is not None:
            schema = json.loads(request.schema)
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": SCHEMA_NAME, "schema": schema, "strict": True},
            }
        return body

    def _found(self, answer: Mapping[str, Any]) -> Found:
        (choice,) = answer["choices"]
        message = choice["message"]
        if message.get("refusal"):
            raise UnusableAnswerError("the server's model refuses to answer")
        functions = [call["function"] for call in message.get("tool_calls") or ()]
        calls = [(one["name"], one["arguments"]) for one in functions]
        reason = _reason(OPENAI_REASONS, choice["finish_reason"])
        # llama.cpp's server and most others name it so; vLLM leaves out the second word.
        thinking = message.get("reasoning_content") or message.get("reasoning")
        return message.get("content") or "", thinking, calls, reason


@dataclass(frozen=True)
class AnthropicDialect(TextDialect):
    """`/messages`.

    Source: `anthropic.types.MessageCreateParams` and `Message` (anthropic 2.14).
    """

    path: str = "/messages"

    def _sampling(self, sampling: SamplingParams) -> dict[str, Any]:
        """Return one parameter at most, and none at its neutral value: models refuse others."""
        wanted = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        changed = [(name, value) for name, value in wanted.items() if value != 1.0]
        return {name: value for name, value in changed[:1] if name in self.sampled_by}

    def _asked(self, request: SampleRequest, messages: Sequence[Message]) -> dict[str, Any]:
        system = "\n\n".join(one.content for one in messages if one.role == "system")
        body: dict[str, Any] = {"messages": list(_turns(messages))}
        if system:
            body["system"] = system
        if request.tools is not None:
            functions = [tool["function"] for tool in json.loads(request.tools)]
            body["tools"] = [
                {
                    "name": one["name"],
                    "description": one.get("description", ""),
                    "input_schema": one.get("parameters") or {"type": "object"},
                }
                for one in functions
            ]
        if request.schema is not None:
            schema = json.loads(request.schema)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        return body

    def _found(self, answer: Mapping[str, Any]) -> Found:
        blocks = answer["content"]
        text, thinking = (
            "".join(one[kind] for one in blocks if one["type"] == kind)
            for kind in ("text", "thinking")
        )
        calls = [
            (one["name"], json.dumps(one["input"], ensure_ascii=False))
            for one in blocks
            if one["type"] == "tool_use"
        ]
        return text, thinking or None, calls, _reason(ANTHROPIC_REASONS, answer["stop_reason"])


def _turns(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield messages as Anthropic's API takes them: results of calls are one turn of the user."""
    results: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "tool":
            results.append(
                {
                    "type": "tool_result",
                    "tool_use_id": message.tool_call_id,
                    "content": message.content,
                }
            )
            continue
        if results:
            yield {"role": "user", "content": results}
            results = []
        if message.role != "system":
            yield {"role": message.role, "content": _content(message)}
    if results:
        yield {"role": "user", "content": results}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if message.tool_calls is None:
        return message.content
    blocks: list[dict[str, Any]] = []
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for call in message.calls:
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call["id"],
                "name": function["name"],
                "input": json.loads(function["arguments"] or "{}"),
            }
        )
    return blocks


def _message(
    text: str, thinking: str | None, calls: Sequence[Call], request: SampleRequest
) -> Message:
    """Return an answer as a message, without thinking in its text.

    Calls get ids as in stored conversations.
    """
    if thinking is None:
        thinking, text = split_any(text)
    message = Message(role="assistant", content=text, reasoning_content=thinking)
    if not calls:
        return message
    num_before = sum(len(one.calls) for one in request.messages or ())
    return message.model_copy(update={"tool_calls": stored_calls(calls, num_before)})


def _reason(known: Mapping[str, FinishReason], found: object) -> FinishReason:
    if found not in known:
        raise UnusableAnswerError(f"finish reason {str(found)[:40]!r}")
    return known[str(found)]


ALL_SAMPLING = frozenset({"temperature", "top_p", "seed"})
NO_SAMPLING: frozenset[str] = frozenset()


def text_dialects(
    api: str,
    model: str,
    tokens: AnswerTokens,
    neutral: Mapping[str, Any],
    wanted: Mapping[str, Any],
) -> Iterator[TextDialect]:
    """Yield the requests that servers of an API may take, those that say most first.

    Args:
        neutral: Parameters that disable a server's own sampling defaults.
        wanted: Further parameters of every request.
    """
    if api == "anthropic":
        for sampled_by in (frozenset({"temperature", "top_p"}), NO_SAMPLING):
            yield AnthropicDialect(model, tokens, sampled_by, "max_tokens", wanted)
        return
    for limit_name, more in (
        ("max_tokens", {**neutral, **wanted}),
        ("max_tokens", wanted),
        ("max_completion_tokens", wanted),
    ):
        yield OpenAITextDialect(model, tokens, ALL_SAMPLING, limit_name, more)
    yield OpenAITextDialect(model, tokens, NO_SAMPLING, "max_completion_tokens", wanted)
