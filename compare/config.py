"""The [compare] table: how student and teacher are compared.

In: values from TOML or `--set`. Out: a validated, frozen table. Knows nothing of models or files.
"""

from __future__ import annotations

from pydantic import Field

from potstill.config import Table


class CompareConfig(Table):
    """How much to measure, and how answers are drawn."""

    max_conversations: int = Field(default=64, ge=1)
    """Held-out conversations for fidelity: the first so many of the test split, in stored order.
    The default is the training stage's, so that all rows of the report speak of the same tokens."""
    num_side_by_side: int = Field(default=10, ge=1)
    """Held-out prompts that teacher and student both answer, to be read side by side."""
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    """Sampling temperature of those answers; 0 takes the most probable token, so that the
    difference seen is the models' and not the dice's."""
    max_tokens: int = Field(default=200, ge=1)
    """Tokens at most in one such answer; enough to judge a chat answer by eye."""
    speed_rounds: int = Field(default=5, ge=1)
    """Times each model is timed; models take turns, so that a slow moment of the machine hits all,
    and the median round counts."""
    speed_tokens: int = Field(default=64, ge=2)
    """Tokens at most decoded in one timed answer."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads for fidelity; None takes as many as the process may use."""
    ready_timeout_seconds: float = Field(default=180.0, gt=0)
    """Patience for the endpoint to load its models; large files come slowly from a cold disk."""
    request_timeout_seconds: float = Field(default=600.0, gt=0)
    """Patience for one answer; a large teacher on a CPU needs minutes."""
