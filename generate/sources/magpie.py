"""Prompts written by the teacher itself, from its chat template's empty user turn.

In: a teacher, and system prompts and topics that steer it. Out: distinct `RawPrompt`s.

Source: Xu et al. 2024, "Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs
with Nothing", section 2.1, and its extension that controls the task by a system prompt.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Container
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import jinja2

from generate.sources.attempts import Writing, Written, write_until_enough
from generate.sources.config import SourceConfig
from generate.sources.raw_prompt import RawPrompt
from generate.teachers.protocol import SamplingTeacher, derive_seed
from potstill.chat import ChatTokenizer, tokenize, user_slot_prefix
from potstill.errors import TeacherError
from potstill.schema import Message, SamplingParams

SOURCE = "magpie"
LABEL = "the teacher writes prompts"
TOPIC_PROMPT = "You are an assistant for questions about {topic}."
MIN_WORDS = 3
"""Shorter texts are greetings and fragments."""
NUM_SEEDS = 1 << 31
"""Number of different values of `derive_seed`."""


@dataclass(frozen=True)
class _Steer:
    """The text before the empty user turn."""

    system_prompt: str | None = None
    topic: str | None = None


class _Steering:
    """Draws an attempt's system prompt or topic by weight, from the seed and its number."""

    def __init__(self, config: SourceConfig, seed: int) -> None:
        weights = [one.weight for one in config.system_prompts] + [1.0] * len(config.topics)
        self._steers = _steers(config)
        self._ends = list(accumulate(weights or [1.0]))
        self._seed = seed

    def at(self, number: int) -> _Steer:
        drawn = derive_seed(self._seed, f"steering {number}") / NUM_SEEDS
        return self._steers[bisect(self._ends, drawn * self._ends[-1])]


def write_prompts(
    teacher: SamplingTeacher,
    config: SourceConfig,
    count: int,
    sampling: SamplingParams,
    log_path: Path,
    known: Container[RawPrompt] = frozenset(),
) -> Written:
    """Let the teacher write `count` distinct prompts.

    Args:
        config: A source of kind "magpie".
        sampling: Sampling parameters; `seed` determines the attempts' seeds and their steering.
        log_path: JSONL file of all attempts, including those of an earlier process.
        known: Prompts of other sources, which are not written again.

    Raises:
        TeacherError: Too few attempts end in a usable prompt, or the chat template ignores
            system prompts.
        ArtifactError: The log cannot be written.
    """
    steering = _Steering(config, sampling.seed)
    slots = {
        steer: _slot_token_ids(teacher.tokenizer, steer.system_prompt) for steer in _steers(config)
    }

    def to_prompt(number: int, text: str) -> RawPrompt | None:
        if len(text.split()) < MIN_WORDS:
            return None
        return _to_prompt(text, config, steering.at(number))

    def prompt_token_ids(number: int) -> list[int]:
        return slots[steering.at(number)]

    writing = Writing(LABEL, prompt_token_ids, to_prompt, sampling, known)
    return write_until_enough(teacher, writing, count, log_path)


def _steers(config: SourceConfig) -> list[_Steer]:
    """Return all texts that may precede the user turn; one empty text without steering."""
    steers = [_Steer(one.text) for one in config.system_prompts]
    steers += [_Steer(TOPIC_PROMPT.format(topic=topic), topic) for topic in config.topics]
    return steers or [_Steer()]


def _slot_token_ids(tokenizer: ChatTokenizer, system_prompt: str | None) -> list[int]:
    found: object = "a prompt without it"
    try:
        text = user_slot_prefix(tokenizer, system_prompt)
    except jinja2.TemplateError as error:
        text, found = "", error
    if system_prompt is not None and system_prompt.strip() not in text:
        raise TeacherError(
            "the teacher cannot be steered by a system prompt",
            where="the tokenizer's chat template",
            expected="a chat template that accepts a system message",
            found=found,
            hint="leave out system_prompts and topics of the source of kind magpie",
        )
    return tokenize(tokenizer, text)


def _to_prompt(text: str, config: SourceConfig, steer: _Steer) -> RawPrompt:
    messages = [Message(role="user", content=text)]
    if config.keep_system_prompt and steer.system_prompt is not None:
        messages.insert(0, Message(role="system", content=steer.system_prompt))
    name = config.name or SOURCE
    source = name if steer.topic is None else f"{name}:{steer.topic}"
    return RawPrompt(tuple(messages), source, config.license)
