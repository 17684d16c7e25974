"""What other servers send, in the shape that the rest of this server relies on.

In: JSON of an upstream server. Out: the same, with what it leaves out; what has another shape fails
here, and not where it is counted, stored or translated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from potstill.errors import first_problem
from serve.errors import UpstreamError
from serve.wire.chat import MAX_TOOLS
from serve.wire.completions import MAX_CHOICES
from serve.wire.shared import JsonObject, Many

Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Index = Annotated[int, Field(strict=True, ge=0, lt=MAX_CHOICES)]
CallIndex = Annotated[int, Field(strict=True, ge=0, lt=MAX_TOOLS)]
"""A larger one would be room for as many calls, in memory."""
Words = Annotated[str, Field(strict=True)]
Reason = Annotated[str, Field(strict=True, pattern=r"^[\w.-]{0,64}$")]
"""It is stored, and sent to collectors, without the limits that hold for texts."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Function(_Part):
    name: Words | None = None
    arguments: Words | None = None


class _WholeFunction(_Part):
    name: Words
    arguments: Words


class _WholeCall(_Part):
    id: Words
    function: _WholeFunction


class _CallPiece(_Part):
    index: CallIndex = 0
    id: Words | None = None
    function: _Function | None = None


class _Said(_Part):
    content: Words | None = None
    reasoning_content: Words | None = None
    reasoning: Words | None = None


class _Message(_Said):
    tool_calls: Many[_WholeCall] | None = None


class _Delta(_Said):
    tool_calls: Many[_CallPiece] | None = None


class _Logprob(_Part):
    logprob: FiniteFloat


class _Logprobs(_Part):
    content: Many[_Logprob] | None = None


class _Ending(_Part):
    index: Index = 0
    finish_reason: Reason | None = None


class _Choice(_Ending):
    message: _Message
    logprobs: _Logprobs | None = None


class _ChoicePiece(_Ending):
    delta: _Delta
    logprobs: _Logprobs | None = None


class _Text(_Ending):
    text: Words


class _Details(_Part):
    cached_tokens: Count | None = None


class _Usage(_Part):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    total_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None


class _Answer(_Part):
    usage: _Usage | None = None


class _Chat(_Answer):
    choices: Annotated[Many[_Choice], Field(min_length=1, max_length=MAX_CHOICES)]


class _ChatPiece(_Answer):
    choices: Annotated[Many[_ChoicePiece], Field(max_length=MAX_CHOICES)] = []


class _Completion(_Answer):
    choices: Annotated[Many[_Text], Field(min_length=1, max_length=MAX_CHOICES)]


class _CompletionPiece(_Answer):
    choices: Annotated[Many[_Text], Field(max_length=MAX_CHOICES)] = []


class _Embeddings(_Answer):
    data: list[Any]


Check = Callable[[object], JsonObject]


def _check_of(shape: type[_Answer]) -> Check:
    def checked(answer: object) -> JsonObject:
        """Return an answer with what it leaves out of its choices and usage.

        Raises:
            UpstreamError: It has another shape.
        """
        try:
            shape.model_validate(answer)
        except ValidationError as error:
            raise UpstreamError(
                "the answer of the model's server cannot be used",
                where="model",
                found=first_problem(error)[:200],
            ) from None
        assert isinstance(answer, dict)
        given = dict(answer)
        if "choices" in shape.model_fields:
            given["choices"] = [_completed(one) for one in answer.get("choices", ())]
        if usage := answer.get("usage"):
            given["usage"] = usage | {name: usage.get(name) or 0 for name in COUNTS}
        return given

    return checked


def _completed(choice: JsonObject) -> JsonObject:
    given = {"index": 0, "finish_reason": None} | choice
    if "message" in choice:
        given["message"] = {"content": None} | choice["message"]
    if (logprobs := choice.get("logprobs")) and "text" not in choice:
        given["logprobs"] = {"content": None} | logprobs
    return given


COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
WHOLE = {
    "/chat/completions": _check_of(_Chat),
    "/completions": _check_of(_Completion),
    "/embeddings": _check_of(_Embeddings),
}
"""Checks of whole answers, by route."""
PIECE = {
    "/chat/completions": _check_of(_ChatPiece),
    "/completions": _check_of(_CompletionPiece),
}
"""Checks of the pieces of streams, by route."""
