"""What the generate stage will cost.

In: its config. Out: an estimate, and the workload it leaves to the next stages. Reads headers of
files only; loads no model.
"""

from __future__ import annotations

from itertools import islice

from generate.config import GenerateConfig
from generate.prompts.stage import LAST_ROLES
from generate.sources.attempts import ATTEMPTS_PER_PROMPT
from generate.sources.raw_prompt import RawPrompt
from generate.sources.reading import read_source
from generate.teachers.embedded import EMBEDDED_TEACHER, embedded_shape
from potstill.checkpoints import ModelShape
from potstill.plan import Estimate, Workload

SHARE_OF_PEAK = 0.95
FIXED_SECONDS = 70.0
WRITTEN_PROMPT_TOKENS = 30
"""Mean length of what SmolLM2 writes."""
TEMPLATE_TOKENS = 35
"""Chat template and system prompt around a prompt."""
CHARACTERS_PER_TOKEN = 4.5
COMPLETION_SHARE = 0.8
"""Mean length of a completion, of `max_tokens`."""
READ_PROMPTS = 10_000
"""Prompts of a source that are looked at, for their length."""
STORED_LOGPROBS, STORED_FROM = 55, 1e-3
"""How many tokens of SmolLM2's are at least so probable, on average at temperature 1."""
BYTES_PER_LOGPROB = 1.9
"""Of one stored id and log-probability, compressed."""
COPIES = 2
"""Samples, and the conversations that filters leave of them."""
PROCESS_BYTES = 2.5e9
"""A process and its libraries, vLLM and torch above all."""


def estimate(config: GenerateConfig, _workload: None = None) -> tuple[Estimate, Workload]:
    """Estimate sampling of prompts and conversations.

    Raises:
        ConfigError: The teacher is not on this machine, or a source of prompts cannot be read.
        ArtifactError: A file is damaged.
    """
    shape = _teacher_shape(config)
    num_prompts, prompt_tokens, written = _prompts(config)
    prompt_tokens += TEMPLATE_TOKENS
    turns, sampling = config.turns, config.sampling
    num_turns = {
        "simulate": (turns.min_turns + turns.max_turns) / 2,
        "replay": float(turns.max_turns),
    }.get(turns.kind, 1.0)
    completion_tokens = num_turns * COMPLETION_SHARE * sampling.max_tokens
    num_sampled = num_prompts * turns.num_sampled
    tokens = written + num_sampled * (prompt_tokens + completion_tokens)
    entries = float(sampling.top_logprobs)
    if sampling.min_probability >= STORED_FROM:
        entries = min(entries, STORED_LOGPROBS)
    num_conversations = num_prompts * min(turns.num_answers, turns.num_sampled)
    served = config.teacher.endpoint is not None
    num_stored = num_conversations * completion_tokens
    copies = 0 if served else config.engine.data_parallel_size
    cost = Estimate(
        stage="generate",
        tokens=tokens,
        flops=0.0 if served else 2.0 * shape.num_parameters * tokens,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=COPIES * BYTES_PER_LOGPROB * entries * num_stored,
        memory_bytes=PROCESS_BYTES
        + copies * (2.0 * shape.num_parameters + config.engine.kv_cache_bytes + PROCESS_BYTES),
    )
    return cost, Workload(
        teacher=shape,
        student=shape,
        num_conversations=num_conversations,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        test_share=config.prompts.test_share,
    )


def _prompts(config: GenerateConfig) -> tuple[int, float, float]:
    """Return the number of prompts, their mean length, and the tokens it takes to write them."""
    sources, last_role = config.prompts.all_sources, LAST_ROLES[config.turns.kind]
    read = [source for source in sources if source.kind is None]
    written_share = 1.0 - sum(source.weight for source in read) / sum(
        source.weight for source in sources
    )
    lengths: list[float] = []
    for source in read:
        few = islice(read_source(source, last_role=last_role), READ_PROMPTS)
        lengths += [_characters(prompt) / CHARACTERS_PER_TOKEN for prompt in few]
    num_prompts = config.prompts.num_prompts
    if len(lengths) < READ_PROMPTS and not written_share:
        num_prompts = min(num_prompts, len(lengths))
    num_written = written_share * num_prompts
    written = ATTEMPTS_PER_PROMPT * num_written * (WRITTEN_PROMPT_TOKENS + TEMPLATE_TOKENS)
    read_tokens = sum(lengths) / len(lengths) if lengths else 0.0
    mean = written_share * WRITTEN_PROMPT_TOKENS + (1.0 - written_share) * read_tokens
    return num_prompts, mean, written


def _characters(prompt: RawPrompt) -> int:
    return sum(len(message.content) for message in prompt.messages)


def _teacher_shape(config: GenerateConfig) -> ModelShape:
    if config.teacher.model == EMBEDDED_TEACHER:
        return embedded_shape()
    with_weights = config.teacher.endpoint is None
    return ModelShape.find(
        config.teacher.model, "generate.teacher.model", with_weights=with_weights
    )
