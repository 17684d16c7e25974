"""Endpoints of llama.cpp's own server on the wire: `/completion`, `/tokenize` and others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from serve.errors import InvalidRequestError, UnsupportedParameterError
from serve.wire.chat import MAX_MESSAGES, MAX_TOOLS, ChatMessage, Tool
from serve.wire.completions import MAX_PROMPTS, TokenId
from serve.wire.shared import JsonObject, Many, NumTokens, Received, SamplingFields, Text

MAX_TEXTS = 2048
"""Each is tokenized by itself, which takes 20 us however short it is."""
MAX_FIELDS = 128
"""An answer has about 60 with those inside."""


class PromptObject(Received):
    """A prompt with media, which are not supported."""

    prompt_string: Text
    multimodal_data: Any = None


PromptPart = Text | TokenId
OnePrompt = Text | PromptObject | Annotated[Many[PromptPart], Field(min_length=1)]


class LlamaCompletionRequest(SamplingFields):
    """The body of POST /completion. Null is the same as absent."""

    model_config = ConfigDict(extra="allow")

    model: Text | None = None
    prompt: OnePrompt | Annotated[Many[OnePrompt], Field(min_length=1, max_length=MAX_PROMPTS)]
    """A text, a list of token ids and texts, or a list of such prompts."""
    n_predict: NumTokens | None = None
    stream: bool | None = None
    n_probs: int | None = Field(default=None, ge=0, le=100)
    """Number of most probable tokens to report per token."""
    post_sampling_probs: bool | None = None
    """Report the probabilities that tokens were drawn with, instead of the model's own."""
    return_tokens: bool | None = None
    response_fields: Annotated[Many[Text], Field(max_length=MAX_FIELDS)] | None = None
    """The only fields to return; `a/b` is field b of a."""

    @property
    def max_new_tokens(self) -> int | None:
        """Largest number of tokens; None uses the room in the context."""
        return None if self.n_predict == -1 else self.n_predict

    @property
    def prompts(self) -> list[str | list[int | str]]:
        """The prompts, each a text or a list of token ids and texts.

        Raises:
            UnsupportedParameterError: A prompt has media.
        """
        given = self.prompt if self._is_list_of_prompts else [self.prompt]
        assert isinstance(given, list)
        return [_pieces(one) for one in given]

    @property
    def _is_list_of_prompts(self) -> bool:
        """Whether `prompt` is a list of prompts: a list with a token id in it is one prompt."""
        if not isinstance(self.prompt, list):
            return False
        return not any(isinstance(element, int) for element in self.prompt)

    @property
    def wants_list(self) -> bool:
        """Whether the answer is a list of answers."""
        return self._is_list_of_prompts and len(self.prompts) > 1

    def check(self) -> None:
        """Refuse unsupported and contradictory parameters.

        Raises:
            UnsupportedParameterError: A prompt has media.
            InvalidRequestError: Parameters contradict each other.
        """
        lists = (one for one in self.prompts if isinstance(one, list))
        if sum(isinstance(part, str) for one in lists for part in one) > MAX_TEXTS:
            raise InvalidRequestError(
                "too many texts among token ids", where="prompt", expected=f"at most {MAX_TEXTS}"
            )
        if self.stream and self.wants_list:
            raise InvalidRequestError("a stream completes one prompt", where="prompt")
        if self.grammar is not None and self.json_schema is not None:
            raise InvalidRequestError("grammar and json_schema exclude each other", where="grammar")


def _pieces(prompt: object) -> str | list[int | str]:
    if isinstance(prompt, PromptObject):
        if prompt.multimodal_data:
            raise UnsupportedParameterError("media in prompts are not supported", where="prompt")
        return prompt.prompt_string
    assert isinstance(prompt, str | list)
    return prompt


class TokenizeRequest(Received):
    """The body of POST /tokenize."""

    model: Text | None = None
    content: Text
    add_special: bool = False
    """Add the start tokens of the model."""
    parse_special: bool = True
    """Recognize control tokens in the text."""
    with_pieces: bool = False


class TokenPiece(TypedDict):
    """A token with its text; a list of bytes if they are not UTF-8."""

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
