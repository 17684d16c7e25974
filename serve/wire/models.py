"""The served models as OpenAI lists them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict


class TaskCard(TypedDict):
    """What of a run's task applies to a model."""

    role: Literal["student", "teacher"]
    """Whose instructions a request without a system message gets."""
    metrics: list[str]
    """What makes an answer good; the first one decides."""
    tools: list[str]
    """Tools that a request without tools of its own may get calls of."""
    answer_schema: bool
    """Whether answers are bound by the task's JSON schema."""
    labels: list[str]
    """The labels of which an answer is one; empty: answers are not bound to labels."""


class ModelCard(TypedDict):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    file: NotRequired[str]
    """Not OpenAI's: name of the model's file."""
    context_tokens: NotRequired[int]
    """Not OpenAI's: largest number of prompt and completion tokens together."""
    reproducible: NotRequired[bool]
    """Not OpenAI's: whether equal requests with equal seeds get equal answers at any load."""
    system_fingerprint: NotRequired[str]
    """Not OpenAI's: changes when an equal request may get another answer."""
    version: NotRequired[int]
    """Not OpenAI's: version of a student that was updated."""
    task: NotRequired[TaskCard]
    """Not OpenAI's: absent where no task is served."""


class ModelList(TypedDict):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelCard]


def model_card(name: str, created: int, owned_by: str = "potstill") -> ModelCard:
    """Return OpenAI's description of a model; `created` is in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": owned_by}
