"""The cost of the generate stage.

In: its configuration. Out: an estimate, and the workload of the next stages. Only headers of files
are read, and no model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from generate.config import GenerateConfig
from generate.sources.attempts import ATTEMPTS_PER_PROMPT
from generate.sources.raw_prompt import RawPrompt
from generate.sources.reading import read_source
from generate.sources.shapes import LAST_ROLES
from potstill.checkpoints import ModelShape
from potstill.plan import AskedTask, Estimate, Workload
from potstill.task.known_answers import whole_answer
from potstill.task.shots import shot_chooser
from potstill.task.task import Task, shots_text

SHARE_OF_PEAK, SHARE_PARAMETERS, SHARE_EXPONENT = 0.8, 135e6, 0.2
"""Share of the FLOP/s of training an MLP in the same precision, by the number of parameters: 0.8
for SmolLM2-135M, 1.3 for Qwen2.5-1.5B."""
FIXED_SECONDS = 70.0
WRITTEN_PROMPT_TOKENS = 30
"""Mean length of a prompt that SmolLM2 writes."""
TEMPLATE_TOKENS = 35
"""Chat template and its system prompt around a prompt; the same for all prompts."""
CACHED_BLOCK_TOKENS = 32
"""Tokens per block on a CPU: vLLM caches beginnings of prompts in whole blocks."""
WEIGHT_BYTES = 2.0
"""Bytes read per weight in each decoding step of vLLM."""
LOGIT_BYTES = 40.0
"""Bytes moved per logit of a sampled token: softmax, draw, and search for the most probable."""
CHARACTERS_PER_TOKEN = 4.5
COMPLETION_SHARE = 0.8
"""Mean length of a completion, of `max_tokens`."""
TASK_COMPLETION_SHARE = 0.5
"""The same for a task with known answers, whose limit is above its longest answer."""
READ_PROMPTS = 10_000
"""Prompts of a source whose length is measured."""
STORED_LOGPROBS, STORED_FROM = 55, 1e-3
"""SmolLM2's mean number of tokens with at least that probability, at temperature 1."""
BYTES_PER_LOGPROB = 1.9
"""Bytes of one stored id and log-probability, compressed."""
COPIES = 2
"""Samples, and the filtered conversations."""
PROCESS_BYTES = 2.5e9
"""A process and its libraries, vLLM and torch above all."""
CONTEXT_BYTES = 2.0e9
"""On a GPU: CUDA's context, activations of a step and its log-probabilities. Assumed."""
KV_BYTES = 2.0
"""Bytes of a stored key's or value's number."""


def estimate(config: GenerateConfig, task: Task | None = None) -> tuple[Estimate, Workload]:
    """Estimate sampling of prompts and conversations.

    Args:
        task: What the student is for, which stands in every prompt.

    Raises:
        ConfigError: The teacher is not on this machine, or a source of prompts cannot be read.
        ArtifactError: A file is damaged.
    """
    shape = _teacher_shape(config)
    num_prompts, prompt_tokens, shared_tokens, written = _prompts(config)
    of_task = _TaskTokens.of(task or Task())
    turns, sampling = config.turns, config.sampling
    num_turns = {
        "simulate": (turns.min_turns + turns.max_turns) / 2,
        "replay": float(turns.max_turns),
    }.get(turns.kind, 1.0)
    share = TASK_COMPLETION_SHARE if task and task.metrics else COMPLETION_SHARE
    thinking_tokens = num_turns * share * (config.thinking.max_tokens or 0)
    completion_tokens = num_turns * share * sampling.max_tokens + thinking_tokens
    learned_tokens = completion_tokens
    if config.thinking.student == "answer":
        learned_tokens -= thinking_tokens
    num_references = len(task.references) if task and turns.kind != "score" else 0
    # The teacher answers a task's references once, for the comparison, or has answered them.
    num_measured = 0 if config.reuse else num_references
    num_asked = 0 if turns.known_answers else num_prompts
    num_sampled = config.num_asked_teachers * num_asked * turns.num_sampled + num_measured
    num_blocks = (shared_tokens + of_task.shared) // CACHED_BLOCK_TOKENS
    cached_tokens = num_blocks * CACHED_BLOCK_TOKENS
    asked_tokens = prompt_tokens + of_task.teacher
    num_read = num_asked + num_measured
    read_tokens = cached_tokens + num_read * (asked_tokens - cached_tokens)
    decoded_tokens = num_sampled * completion_tokens
    tokens = written + read_tokens + decoded_tokens
    entries = float(sampling.top_logprobs)
    if sampling.min_probability >= STORED_FROM:
        entries = min(entries, STORED_LOGPROBS)
    num_conversations = num_prompts * min(turns.num_answers, turns.num_sampled)
    served = config.teacher.endpoint is not None
    num_stored = num_conversations * completion_tokens
    copies = 0 if served else config.engine.data_parallel_size
    kv_bytes = KV_BYTES * shape.kv_size * shape.num_layers
    length = asked_tokens + completion_tokens
    cost = Estimate(
        stage="generate",
        tokens=tokens,
        fast_flops=0.0 if served else 2.0 * shape.num_parameters * tokens,
        moved_bytes=0.0 if served else _decoding_bytes(config, shape, num_sampled, decoded_tokens),
        share_of_peak=SHARE_OF_PEAK * (shape.num_parameters / SHARE_PARAMETERS) ** SHARE_EXPONENT,
        fixed_seconds=FIXED_SECONDS,
        disk_bytes=COPIES * BYTES_PER_LOGPROB * entries * num_stored,
        memory_bytes=PROCESS_BYTES
        + copies * (2.0 * shape.num_parameters + config.engine.kv_cache_bytes + PROCESS_BYTES),
        num_cards=0 if served else _num_cards(config),
        card_bytes=0.0 if served else _card_bytes(config, shape, kv_bytes * length),
        card_moved_bytes=0.0 if served else kv_bytes * decoded_tokens * (length / 2),
        bytes_to_fetch=0.0 if served else shape.bytes_to_fetch,
    )
    return cost, Workload(
        teacher=shape,
        student=shape,
        num_conversations=num_conversations,
        prompt_tokens=prompt_tokens + of_task.student,
        completion_tokens=learned_tokens,
        shared_tokens=shared_tokens + of_task.student,
        test_share=0.0 if num_references else config.prompts.test_share,
        task=_asked(task or Task(), of_task, completion_tokens),
        text_only=config.teacher.gives_text,
    )


@dataclass(frozen=True)
class _TaskTokens:
    """Tokens of a task in each prompt."""

    teacher: float
    shared: float
    """Of the teacher's, those that all prompts begin with."""
    student: float

    @classmethod
    def of(cls, task: Task) -> _TaskTokens:
        shots = shots_text(shot_chooser(task)(())) if task.shots == "same" else ""
        known = [item for item in task.examples if item.known is not None]
        nearest = task.num_shots * len(shots_text(known)) / max(1, len(known))
        shared = len(task.instructions + (task.tools or "") + shots)
        return cls(
            teacher=(shared + (0 if task.shots == "same" else nearest)) / CHARACTERS_PER_TOKEN,
            shared=shared / CHARACTERS_PER_TOKEN,
            student=len(task.student_instructions + (task.student_tools or ""))
            / CHARACTERS_PER_TOKEN,
        )


def _asked(task: Task, tokens: _TaskTokens, completion_tokens: float) -> AskedTask:
    """Return what the comparison asks of the task's known answers.

    Where these are labels alone, answers are as long as the teacher's.
    """
    prompts = ["".join(one.content for one in item.messages) for item in task.references]
    known = [item.known for item in task.references if item.known]
    is_part = any(whole_answer(task, one) != one for one in known)
    answers = _mean_tokens([one.model_dump_json() for one in known])
    return AskedTask(
        num_references=len(task.references),
        prompt_tokens=_mean_tokens(prompts) + TEMPLATE_TOKENS,
        answer_tokens=completion_tokens if is_part else answers,
        teacher_tokens=tokens.teacher,
        student_tokens=tokens.student,
        num_shots=task.num_shots,
        has_metric=bool(task.metrics),
    )


def _mean_tokens(texts: Sequence[str]) -> float:
    return sum(map(len, texts)) / len(texts) / CHARACTERS_PER_TOKEN if texts else 0.0


def _decoding_bytes(
    config: GenerateConfig, shape: ModelShape, num_sampled: float, decoded_tokens: float
) -> float:
    num_at_once = max(1.0, min(config.engine.max_num_seqs, num_sampled))
    weights = WEIGHT_BYTES * shape.num_parameters * decoded_tokens / num_at_once
    return weights + LOGIT_BYTES * shape.vocab_size * decoded_tokens


def _num_cards(config: GenerateConfig) -> int | None:
    """Return the GPUs of all replicas; None where a Ray cluster has room for as many as it can."""
    size = config.engine.tensor_parallel_size
    if config.ray is None:
        return size * config.engine.data_parallel_size
    per_replica = config.ray.gpus_per_replica or size
    return config.ray.num_replicas and per_replica * config.ray.num_replicas


def _card_bytes(config: GenerateConfig, shape: ModelShape, kv_bytes: float) -> float:
    """Return the memory of one of a replica's GPUs.

    Args:
        kv_bytes: Keys and values of one conversation. vLLM takes nearly all memory for them, and
            samples fewer conversations at once if they do not fit.
    """
    engine = config.engine
    kept = engine.kv_cache_bytes or engine.max_num_seqs * kv_bytes
    shared = WEIGHT_BYTES * shape.num_parameters + kept
    return shared / engine.tensor_parallel_size + CONTEXT_BYTES


def _prompts(config: GenerateConfig) -> tuple[int, float, float, float]:
    """Return the number of prompts, and of their tokens.

    The tokens are the mean length of a rendered prompt, the length of the beginning that all have
    in common, and the tokens generated to write prompts.
    """
    sources, last_role = config.prompts.all_sources, LAST_ROLES[config.turns.kind]
    read = [source for source in sources if source.kind is None]
    written_share = 1.0 - sum(source.weight for source in read) / sum(
        source.weight for source in sources
    )
    texts: list[str] = []
    for source in read:
        few = islice(read_source(source, last_role=last_role), READ_PROMPTS)
        texts += map(_text, few)
    num_prompts = config.prompts.num_prompts
    if len(texts) < READ_PROMPTS and not written_share:
        num_prompts = min(num_prompts, len(texts))
    total = sum(source.weight for source in sources)
    num_written = sum(
        source.num_to_write(round(num_prompts * source.weight / total))
        for source in sources
        if source.is_written
    )
    written = ATTEMPTS_PER_PROMPT * num_written * (WRITTEN_PROMPT_TOKENS + TEMPLATE_TOKENS)
    num_characters = sum(map(len, texts)) / len(texts) if texts else 0.0
    mean = written_share * WRITTEN_PROMPT_TOKENS
    mean += (1.0 - written_share) * num_characters / CHARACTERS_PER_TOKEN
    num_common = 0 if written_share else _num_common(texts)
    shared = TEMPLATE_TOKENS + num_common / CHARACTERS_PER_TOKEN
    return num_prompts, TEMPLATE_TOKENS + mean, shared, written


def _num_common(texts: Sequence[str]) -> int:
    """Return the number of characters with which all of several texts begin."""
    if len(texts) < 2:
        return 0
    first, last = min(texts), max(texts)
    unlike = (index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(unlike, len(first))


def _text(prompt: RawPrompt) -> str:
    """Return the text of a rendered prompt without the template's own."""
    return (prompt.tools or "") + "".join(message.content for message in prompt.messages)


def _teacher_shape(config: GenerateConfig) -> ModelShape:
    with_weights = config.teacher.endpoint is None
    return ModelShape.find(
        config.teacher.model, "generate.teacher.model", with_weights=with_weights
    )
