"""Prompts that the teacher writes by rewriting others.

In: a teacher and seeds. Out: distinct `RawPrompt`s that keep their seeds' source and license.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from pathlib import Path

from generate.sources.attempts import Writing, Written, write_until_enough
from generate.sources.config import Operation, SourceConfig
from generate.sources.raw_prompt import RawPrompt, first_question
from generate.sources.rewriting import evolution_messages, parse_evolved, text_key
from generate.teachers.protocol import SamplingTeacher, derive_seed
from potstill.chat import ChatTokenizer, control_texts, render_prompt, tokenize
from potstill.errors import ConfigError
from potstill.schema import Message, SamplingParams

SOURCE = "evolve"
LABEL = "the teacher rewrites prompts"


def write_evolved(
    teacher: SamplingTeacher,
    config: SourceConfig,
    seeds: Sequence[RawPrompt],
    count: int,
    sampling: SamplingParams,
    log_path: Path,
    known: Container[RawPrompt] = frozenset(),
) -> Written:
    """Let the teacher write `count` distinct variants of seeds, none equal to a seed.

    A conversation's first question is its seed; its system message stays before the variant.

    Args:
        config: A source of kind "evolve".
        seeds: Prompts in any order. Those with tools are skipped, because a variant may need other
            tools, and those longer than `sampling.max_tokens`, whose variants would not end.
        sampling: Sampling parameters; `seed` determines the attempts' seeds, and the rewriting of
            each prompt.
        log_path: JSONL file of all attempts, including those of an earlier process.
        known: Prompts of other sources, which are not written again.

    Raises:
        ConfigError: There are no seeds.
        TeacherError: Too few attempts end in a usable prompt.
        ArtifactError: The log cannot be written.
    """
    usable = usable_seeds(teacher.tokenizer, seeds, sampling.max_tokens)
    if not usable:
        raise ConfigError(
            "there are no prompts to rewrite",
            where="generate.prompts.sources, kind evolve",
            expected=f"another source with prompts of at most {sampling.max_tokens} tokens "
            "and without tools",
            hint="raise generate.prompts.max_prompt_tokens",
        )
    questions = {text_key(first_question(seed.messages)) for seed in usable}

    def drawn(number: int) -> tuple[RawPrompt, Operation]:
        place = derive_seed(sampling.seed, f"evolution {number}")
        order = config.operations
        return usable[place // len(order) % len(usable)], order[place % len(order)]

    def messages(number: int) -> tuple[Message, ...]:
        seed, operation = drawn(number)
        return evolution_messages(first_question(seed.messages), operation)

    def prompt_token_ids(number: int) -> list[int]:
        return render_prompt(teacher.tokenizer, messages(number))

    def to_prompt(number: int, text: str) -> RawPrompt | None:
        seed, _ = drawn(number)
        variant = parse_evolved(first_question(seed.messages), text)
        if variant is None or text_key(variant) in questions:
            return None
        return _to_prompt(variant, seed, config)

    writing = Writing(LABEL, prompt_token_ids, to_prompt, sampling, known, messages=messages)
    return write_until_enough(teacher, writing, count, log_path)


def usable_seeds(
    tokenizer: ChatTokenizer, prompts: Iterable[RawPrompt], max_tokens: int
) -> list[RawPrompt]:
    """Return the prompts that can be rewritten, in the same order on every machine."""
    controls = control_texts(tokenizer)
    seeds = {
        prompt.prompt_id: prompt
        for prompt in prompts
        if prompt.tools is None
        and first_question(prompt.messages).strip()
        and not any(
            control in message.content for message in prompt.messages for control in controls
        )
        and len(tokenize(tokenizer, first_question(prompt.messages))) <= max_tokens
    }
    return [seeds[prompt_id] for prompt_id in sorted(seeds)]


def _to_prompt(variant: str, seed: RawPrompt, config: SourceConfig) -> RawPrompt:
    first = seed.messages[0]
    system = (first,) if first.role == "system" else ()
    return RawPrompt(
        messages=(*system, Message(role="user", content=variant)),
        source=f"{config.name or SOURCE}:{seed.source}",
        license=seed.license or config.license,
    )
