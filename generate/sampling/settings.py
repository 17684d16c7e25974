"""Settings of all conversations of a run: configuration, tokenizer, context length, separators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from generate.config import GenerateConfig
from generate.sampling.turn_separators import (
    TurnSeparators,
    find_turn_separators,
    require_user_turns_end,
)
from generate.teachers.protocol import derive_seed
from potstill.chat import control_texts
from potstill.distributions import TokenDistributions
from potstill.schema import Message, Prompt


@dataclass(frozen=True)
class ConversationSettings:
    """Settings of all conversations of a run."""

    config: GenerateConfig
    tokenizer: Any
    max_model_len: int
    """Longest conversation, in tokens."""
    _separators: dict[tuple[bool, bool], TurnSeparators] = field(default_factory=dict, repr=False)

    def separators(self, given: Sequence[Message] = (), tools: str | None = None) -> TurnSeparators:
        """Return the chat template's separators for conversations that begin with `given`.

        Raises:
            TeacherError: The template rewrites earlier turns.
        """
        has_system = bool(given) and given[0].role == "system"
        key = has_system, tools is not None
        if key not in self._separators:
            self._separators[key] = find_turn_separators(
                self.tokenizer, has_system=has_system, tools=tools
            )
        return self._separators[key]

    @cached_property
    def controls(self) -> list[str]:
        """Texts of control tokens, which would end a turn."""
        return control_texts(self.tokenizer)

    def require_turns(self, end_token_ids: Collection[int]) -> None:
        """Check, before anything is sampled, that the template supports `generate.turns`.

        Args:
            end_token_ids: Token ids that end the teacher's completions.

        Raises:
            TeacherError: The chat template rewrites earlier turns, or the teacher cannot play the
                user.
        """
        turns = self.config.turns
        if turns.kind not in ("simulate", "replay") or turns.max_turns == 1:
            return
        separators = self.separators()
        if turns.kind == "simulate" and turns.user is None:
            require_user_turns_end(self.tokenizer, separators, end_token_ids)

    def is_user_text(self, text: str) -> bool:
        """Return whether a text can be a user turn: not blank, and without control tokens."""
        return bool(text.strip()) and not any(control in text for control in self.controls)

    def cut(self, signal: TokenDistributions) -> TokenDistributions:
        """Return the entries of the teacher's distributions that are stored."""
        sampling = self.config.sampling
        return signal.cut(top_mass=sampling.top_mass, min_probability=sampling.min_probability)

    def given(self, prompt: Prompt) -> tuple[Message, ...]:
        """Return a prompt's messages, with a system prompt drawn for it if it has none."""
        texts = self.config.turns.system_prompts
        if not texts or prompt.messages[0].role == "system":
            return prompt.messages
        text = texts[self._draw(f"system {prompt.prompt_id}", len(texts))]
        return (Message(role="system", content=text), *prompt.messages)

    def num_turns(self, prompt: Prompt) -> int:
        """Return the number of answers drawn for a simulated conversation."""
        turns = self.config.turns
        spread = turns.max_turns - turns.min_turns + 1
        return turns.min_turns + self._draw(f"turns {prompt.prompt_id}", spread)

    def _draw(self, name: str, count: int) -> int:
        return derive_seed(self.config.sampling.seed, name) % count
