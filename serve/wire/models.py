"""The served models as OpenAI lists them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class ModelCard(TypedDict):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_tokens: NotRequired[int]
    """Not OpenAI's: prompt and completion together."""
    reproducible: NotRequired[bool]
    """Not OpenAI's: whether an equal request with an equal seed is answered alike at any load."""
    system_fingerprint: NotRequired[str]
    """Not OpenAI's: changes when an equal request may be answered differently."""


class ModelList(TypedDict):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


def model_card(name: str, created: int, owned_by: str = "potstill") -> ModelCard:
    """Return what OpenAI tells of a model; `created` is in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by}
