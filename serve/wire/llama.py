"""Endpoints of llama.cpp's own server on the wire: `/completion`, `/tokenize` and others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.chat import MAX_MESSAGES, MAX_TOOLS, ChatMessage, Tool
from serve.wire.completions import MAX_PROMPTS, TokenId
from serve.wire.shared import JsonObject, Many, Received, SamplingFields, Text


class PromptObject(Received):
    """A prompt with its media, of which there may be none."""

    prompt_string: Text
    multimodal_data: Any = None


PromptPart = Text | TokenId
OnePrompt = Text | PromptObject | Annotated[Many[PromptPart], Field(min_length=1)]


class LlamaCompletionRequest(SamplingFields):
    """The body of POST /completion. Null is the same as absent; -1 has no limit."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    prompt: OnePrompt | Annotated[Many[OnePrompt], Field(min_length=1, max_length=MAX_PROMPTS)]
    """A text, token ids and texts mixed, or a list of such prompts."""
    n_predict: int | None = Field(default=None, ge=-1)
    stream: bool | None = None
    n_probs: int | None = Field(default=None, ge=0, le=100)
    """Most probable tokens to report at each place."""
    post_sampling_probs: bool | None = None
    """Report the probabilities that tokens were drawn by, instead of the model's own."""
    return_tokens: bool | None = None
    response_fields: Many[Text] | None = None
    """The only fields to answer, `a/b` being field b of a."""

    @property
    def max_new_tokens(self) -> int | None:
        """How long the completion may be; None is as long as the context has room."""
        return None if self.n_predict == -1 else self.n_predict

    @property
    def prompts(self) -> list[str | list[int | str]]:
        """Each text to complete, or its pieces: token ids and texts.

        Raises:
            UnsupportedParameterError: A prompt has media.
        """
        given = self.prompt if self._is_list_of_prompts else [self.prompt]
        assert isinstance(given, list)
        return [_pieces(one) for one in given]

    @property
    def _is_list_of_prompts(self) -> bool:
        """Whether the answer is a list: a flat list with a token id in it is one prompt."""
        if not isinstance(self.prompt, list):
            return False
        return not any(isinstance(element, int) for element in self.prompt)

    @property
    def wants_list(self) -> bool:
        """Whether the answer is a list of answers."""
        return self._is_list_of_prompts and len(self.prompts) > 1

    def check(self) -> None:
        """Refuse what cannot be honored, and what contradicts itself.

        Raises:
            UnsupportedParameterError: A prompt has media.
            InvalidRequestError: Parameters contradict each other.
        """
        if self.stream and self.wants_list:
            raise InvalidRequestError("a stream completes one prompt", where="prompt")
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidRequestError("grammar and json_schema exclude each other", where="grammar")


def _pieces(prompt: object) -> str | list[int | str]:
    if isinstance(prompt, PromptObject):
        if prompt.multimodal_data:
            raise UnsupportedParameterError("prompts have no media", where="prompt")
        return prompt.prompt_string
    assert isinstance(prompt, str | list)
    return prompt


class TokenizeRequest(Received):
    """The body of POST /tokenize."""

    model: Text | None = None
    content: Text
    add_special: bool = False
    """Add what the model puts at the start of a text."""
    parse_special: bool = True
    """Read the text of control tokens as those tokens."""
    with_pieces: bool = False


class TokenPiece(TypedDict):
    """A token with what it writes; bytes where that is no text."""

    id: int
    piece: str | list[int]


class Tokens(TypedDict):
    """A text's tokens."""

    tokens: list[int] | list[TokenPiece]


class DetokenizeRequest(Received):
    """The body of POST /detokenize."""

    model: Text | None = None
    tokens: Many[TokenId]


class TemplateRequest(Received):
    """The body of POST /apply-template."""

    model: Text | None = None
    messages: Many[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    tools: Annotated[Many[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: JsonObject | None = None
