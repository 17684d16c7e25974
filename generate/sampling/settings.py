"""Settings of all conversations of a run: configuration, tokenizer, context length, separators."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from generate.config import FIRST_TEACHER, GenerateConfig
from generate.sampling.known_fields import binds_all, bound_to
from generate.sampling.thinking import Thinking
from generate.sampling.tool_results import Result, find_result
from generate.sampling.turn_separators import (
    TurnSeparators,
    find_turn_separators,
    require_user_turns_end,
)
from generate.teachers.protocol import SampleRequest, derive_seed
from potstill.chat import control_texts
from potstill.distributions import TokenDistributions
from potstill.schema import Message, Prompt
from potstill.task.answers import Answer, Item
from potstill.task.known_answers import whole_answer
from potstill.task.shots import Choose, shot_chooser
from potstill.task.task import Task


@dataclass(frozen=True)
class ConversationSettings:
    """Settings of all conversations of a run."""

    config: GenerateConfig
    tokenizer: Any
    """The teacher's, its chat template's switch for thinking set."""
    max_model_len: int
    """Longest conversation, in tokens."""
    task: Task | None = None
    """What the student is for."""
    teacher_name: str = FIRST_TEACHER
    """The teacher that answers."""
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

    def for_teacher(self, prompt: Prompt) -> Prompt:
        """Return a prompt as the teacher gets it.

        A prompt without a system prompt gets one that is drawn for it, if there are any; a prompt
        of the task gets the task's instructions, examples and tools.
        """
        messages = with_system_prompt(self.config, prompt)
        tools = prompt.tools
        if self.task is not None and not prompt.is_general:
            shots = self._shots(prompt)
            messages = self.task.teacher_messages(messages, shots)
            tools = tools or self.task.tools
        return prompt.model_copy(update={"messages": messages, "tools": tools})

    def num_answers(self, prompt: Prompt) -> int:
        """Return the number of answers to choose from: one to a reference, or if it is known."""
        once = prompt.is_reference or self.takes_known(prompt)
        return 1 if once else self.config.turns.num_sampled

    def takes_known(self, prompt: Prompt) -> bool:
        """Return whether a prompt's known answer is taken, without asking the teacher."""
        if prompt.known is None or prompt.is_reference:
            return False
        return self.config.turns.known_answers or prompt.is_given

    def temperature(self, prompt: Prompt) -> float:
        """Return the temperature of answers: 0 where the teacher's best answer is measured."""
        return 0.0 if prompt.is_reference else self.config.sampling.temperature

    def bound(self, request: SampleRequest, prompt: Prompt) -> SampleRequest:
        """Return a request whose answer is bound to the task's schema or labels, if it is to be."""
        if self.task is None or not self.config.sampling.structured or prompt.is_general:
            return request
        schema, known = self.task.answer_schema, self._bound_answer(prompt)
        if schema is not None and known is not None:
            schema = bound_to(schema, known)
        return replace(request, schema=schema, labels=self.task.labels)

    def num_turns(self, prompt: Prompt) -> int:
        """Return the number of answers drawn for a simulated conversation."""
        turns = self.config.turns
        spread = turns.max_turns - turns.min_turns + 1
        return turns.min_turns + _draw(self.config, f"turns {prompt.prompt_id}", spread)

    @cached_property
    def thinking(self) -> Thinking | None:
        """The teacher's thinking; None where its template shows none."""
        return Thinking.of(self.tokenizer)

    @property
    def max_thinking_tokens(self) -> int | None:
        """Longest thinking; None without a limit of its own."""
        is_cut = self.thinking is not None and not self.config.teacher.gives_text
        return self.config.thinking.max_tokens if is_cut else None

    @cached_property
    def tool_result(self) -> Result | None:
        """What answers calls of tools.

        Raises:
            ConfigError: The configuration names a function that does not exist.
        """
        name = self.config.turns.tool_results
        return None if name is None else find_result(name)

    def _shots(self, prompt: Prompt) -> tuple[Item, ...]:
        """Return the examples for the teacher: none where its answer is bound to as much."""
        known, schema = self._bound_answer(prompt), self.task and self.task.answer_schema
        if known is not None and schema and binds_all(schema, known, self._known_of_examples):
            return ()
        return self._choose_shots(self._question(prompt.messages))

    def _bound_answer(self, prompt: Prompt) -> Answer | None:
        """Return the known answer that the teacher's is bound to; None where it is free."""
        binds = self.config.sampling.bind_known and not prompt.is_reference
        if self.task is None or prompt.known is None or not binds:
            return None
        return whole_answer(self.task, Answer.model_validate_json(prompt.known))

    @cached_property
    def _known_of_examples(self) -> frozenset[Answer]:
        """The distinct answers that the examples show: of labels there are few."""
        task = self.task or Task()
        known = {one.known for one in task.examples if one.known is not None}
        return frozenset(whole_answer(task, one) for one in known)

    @cached_property
    def _choose_shots(self) -> Choose:
        return shot_chooser(self.task or Task())

    def _question(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the messages that the teacher answers first."""
        if self.config.turns.kind in ("single", "simulate"):
            return messages
        users = (index for index, message in enumerate(messages) if message.role == "user")
        return messages[: next(users, 0) + 1]


def with_system_prompt(config: GenerateConfig, prompt: Prompt) -> tuple[Message, ...]:
    """Return a prompt's messages, with a system prompt drawn for it if it has none."""
    texts = config.turns.system_prompts
    if not texts or prompt.messages[0].role == "system":
        return prompt.messages
    text = texts[_draw(config, f"system {prompt.prompt_id}", len(texts))]
    return (Message(role="system", content=text), *prompt.messages)


def _draw(config: GenerateConfig, name: str, count: int) -> int:
    return derive_seed(config.sampling.seed, name) % count
