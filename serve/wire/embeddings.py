"""`/v1/embeddings` on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from serve.wire.completions import TokenId, TokenIds
from serve.wire.shared import Many, Received, Text

MAX_TEXTS = 2048
"""OpenAI's own limit."""

GivenText = Annotated[Text, Field(min_length=1)]


class EmbeddingRequest(Received):
    """The body of POST /v1/embeddings."""

    model: Text | None = None
    input: (
        GivenText
        | TokenIds
        | Annotated[Many[GivenText | TokenIds], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    """Number of leading values to return, scaled to unit length again."""
    user: Text | None = None

    @property
    def texts(self) -> list[str | list[int]]:
        """Each text, or its token ids."""
        if isinstance(self.input, str):
            return [self.input]
        ids: list[TokenId] = [element for element in self.input if isinstance(element, int)]
        if ids:
            return [ids]
        return [element for element in self.input if not isinstance(element, int)]


class Embedding(TypedDict):
    """The embedding of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Of unit length; base64 of little-endian 32-bit floats if requested."""


class EmbeddingUsage(TypedDict):
    """Token counts of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The embeddings, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
