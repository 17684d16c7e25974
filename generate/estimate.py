"""What the generate stage will cost.

In: its config. Out: an estimate, and the workload it leaves to the next stages. Reads headers of
files only; loads no model.
"""

from __future__ import annotations

from generate.config import GenerateConfig
from generate.embedded import EMBEDDED_TEACHER, embedded_shape
from generate.magpie import ATTEMPTS_PER_PROMPT
from generate.prompt_file import read_prompt_file
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
BYTES_PER_LOGPROB = 6.0
"""Of one stored id and log-probability, compressed."""
PROCESS_BYTES = 2.5e9
"""vLLM and torch themselves."""


def estimate(config: GenerateConfig, _workload: None = None) -> tuple[Estimate, Workload]:
    """Estimate sampling of prompts and conversations.

    Raises:
        ConfigError: The teacher is not on this machine, or the file of prompts cannot be read.
        ArtifactError: A file is damaged.
    """
    shape = _teacher_shape(config)
    num_prompts, prompt_tokens = config.prompts.num_prompts, float(WRITTEN_PROMPT_TOKENS)
    written = 0.0
    if config.prompts.path is None:
        written = ATTEMPTS_PER_PROMPT * num_prompts * (WRITTEN_PROMPT_TOKENS + TEMPLATE_TOKENS)
    else:
        raw = read_prompt_file(config.prompts.path)
        num_prompts = min(num_prompts, len(raw))
        characters = sum(len(message.content) for prompt in raw for message in prompt.messages)
        prompt_tokens = characters / len(raw) / CHARACTERS_PER_TOKEN
    prompt_tokens += TEMPLATE_TOKENS
    completion_tokens = COMPLETION_SHARE * config.sampling.max_tokens
    tokens = written + num_prompts * (prompt_tokens + completion_tokens)
    stored = num_prompts * completion_tokens * config.sampling.top_logprobs
    cost = Estimate(
        stage="generate",
        tokens=tokens,
        flops=2.0 * shape.num_parameters * tokens,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=BYTES_PER_LOGPROB * stored,
        memory_bytes=2.0 * shape.num_parameters + config.engine.kv_cache_bytes + PROCESS_BYTES,
    )
    return cost, Workload(
        teacher=shape,
        student=shape,
        num_conversations=num_prompts,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        test_share=config.prompts.test_share,
    )


def _teacher_shape(config: GenerateConfig) -> ModelShape:
    if config.teacher.model == EMBEDDED_TEACHER:
        return embedded_shape()
    return ModelShape.find(config.teacher.model, "generate.teacher.model")
