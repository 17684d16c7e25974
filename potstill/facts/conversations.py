"""Facts of the stage `conversations`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from potstill.facts.base import StageName
from potstill.facts.samples import SampledFacts


class ConversationsFacts(SampledFacts):
    """Facts of the samples, and what the filters dropped."""

    stage: ClassVar[StageName] = "conversations"

    num_dropped: int
    dropped_prompts: dict[str, int]
    """Dropped prompts by filter."""
    dropped_conversations: dict[str, int]
    num_redacted: int
    """Prompts with personal data replaced."""
    languages: dict[str, int]
    """Conversations by the language of their first question, most frequent first."""
    num_reviewed: dict[str, int] = Field(default_factory=dict)
    """Conversations that a person's decision applied to, by its kind."""
    thinking: Literal["think", "answer", "both"] = "think"
    """What the student learns of the teacher's thinking."""
    teacher_thinks: bool | None = None
    """Whether the teacher's template was switched to thinking; None: it was left as it is."""
    prompt_distilled: bool = False
    """Whether conversations stand under the student's prompt while their distributions are the
    teacher's under its own: the teacher itself is far from them under this prompt."""
    teacher_prompt_tokens: float | None = None
    """Mean length of the rewritten conversations' prompts before, in tokens; of those whose answers
    were the teacher's alone, if there are any. None: none was rewritten."""
    student_prompt_tokens: float | None = None
    """Their mean length after."""
    student_noise: dict[str, int] = Field(default_factory=dict)
    """Conversations in whose user's messages the student reads errors, by their kind."""

    @property
    def stands_under_other_prompt(self) -> bool:
        """Whether distributions are not those that the teacher has after the stored prompt."""
        return self.prompt_distilled or self.thinking != "think"

    @property
    def tokens_are_draws(self) -> bool:
        """Whether each token was drawn from the distribution that is stored for it.

        With filters of answers this is only approximately true; they are not considered here.
        """
        return self.sampled_unchanged and self.num_kept_per_prompt == self.num_sampled_per_prompt
