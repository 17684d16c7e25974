"""The teacher's answers to all prompts, in Parquet parts that are whole or absent.

In: a loaded teacher and prompts. Out: `part-00000.parquet` and so on, each the conversations of so
many consecutive prompts. Parts that are there already are not made again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pyarrow.compute as pc

from generate.config import SamplingConfig
from generate.engine import Sample, SampleRequest, TeacherEngine, derive_seed
from potstill.chat import ChatTokenizer, render_prompt
from potstill.errors import ArtifactError, TeacherError
from potstill.files import disk_errors
from potstill.progress import track
from potstill.schema import Conversation, Prompt, SamplingParams, Split
from potstill.tables import (
    CONVERSATION_SCHEMA,
    conversation_to_row,
    read_batches,
    write_rows,
)

PartPrompts = Sequence[Prompt]


@dataclass(frozen=True)
class Summary:
    """What finished parts hold."""

    rows_by_part: dict[str, int]
    num_conversations: dict[str, int]
    """By split."""
    prompt_tokens: int
    completion_tokens: int
    truncated_share: float
    """Share of completions that reached the limit of tokens before they ended."""
    mean_tail_mass: float
    """Mean probability that the stored top tokens leave out."""


def part_path(directory: Path, index: int) -> Path:
    """Return where the part of a number lies."""
    return directory / f"part-{index:05d}.parquet"


def split_into_parts(prompts: Sequence[Prompt], per_part: int) -> list[PartPrompts]:
    """Cut the prompts into parts of consecutive ones."""
    return [prompts[start : start + per_part] for start in range(0, len(prompts), per_part)]


def unfinished_parts(parts: Sequence[PartPrompts], directory: Path) -> dict[int, PartPrompts]:
    """Return the parts to make, by number; a damaged part is removed and made again."""
    missing = {}
    for index, part in enumerate(parts):
        path = part_path(directory, index)
        if path.is_file():
            try:
                for _ in read_batches(path, CONVERSATION_SCHEMA):
                    pass
            except ArtifactError:
                path.unlink()
        if not path.is_file():
            missing[index] = part
    return missing


def build_requests(
    tokenizer: ChatTokenizer, config: SamplingConfig, prompts: Sequence[Prompt]
) -> dict[str, SampleRequest]:
    """Return what to ask the teacher, by prompt id."""
    return {
        prompt.prompt_id: SampleRequest(
            prompt.prompt_id,
            render_prompt(tokenizer, prompt.messages),
            SamplingParams(
                temperature=config.temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
                seed=derive_seed(config.seed, prompt.prompt_id),
            ),
        )
        for prompt in prompts
    }


def sample_conversations(
    engine: TeacherEngine,
    top_logprobs: int,
    parts: Mapping[int, PartPrompts],
    requests: Mapping[str, SampleRequest],
    directory: Path,
    *,
    num_done: int,
) -> None:
    """Let the teacher answer the prompts of the given parts; write each part when it is whole.

    Args:
        engine: The teacher.
        top_logprobs: How many log-probabilities to store at each position.
        parts: The prompts of each part to make, by its number.
        requests: What to ask, by prompt id.
        directory: Where the parts go.
        num_done: Prompts answered before, for the progress.

    Raises:
        TeacherError: vLLM fails.
        ArtifactError: A part cannot be written.
    """
    part_of = {prompt.prompt_id: index for index, part in parts.items() for prompt in part}
    done: dict[int, dict[str, Sample]] = {index: {} for index in parts}
    started, num_tokens = time.monotonic(), 0
    total, at_once = num_done + len(part_of), engine.max_num_seqs
    with track("the teacher answers", total, "conversations", at_once) as progress:
        progress.resume_from(num_done)
        asked = (requests[prompt_id] for prompt_id in part_of)
        for sample in engine.sample(asked, top_logprobs=top_logprobs):
            index = part_of[sample.request_id]
            done[index][sample.request_id] = sample
            if len(done[index]) == len(parts[index]):
                rows = _conversations(engine.tokenizer, parts[index], requests, done.pop(index))
                path = part_path(directory, index)
                with disk_errors("writing conversations", path):
                    write_rows(path, CONVERSATION_SCHEMA, map(conversation_to_row, rows))
            num_tokens += len(sample.token_ids)
            rate = num_tokens / (time.monotonic() - started)
            progress.advance(note=f"{rate:.0f} tokens/s")


def summarise(directory: Path) -> Summary:
    """Count what finished parts hold.

    Raises:
        ArtifactError: A part is damaged.
    """
    rows_by_part: dict[str, int] = {}
    num_conversations = dict.fromkeys(get_args(Split), 0)
    totals = dict.fromkeys(("prompt_tokens", "completion_tokens", "truncated", "top_mass"), 0.0)
    columns = ["split", "prompt_token_ids", "num_top_logprobs", "top_logprobs", "finish_reason"]
    for path in sorted(directory.glob("part-*.parquet")):
        rows_by_part[path.name] = 0
        for batch in read_batches(path, CONVERSATION_SCHEMA, columns):
            rows_by_part[path.name] += batch.num_rows
            for split in batch["split"].to_pylist():
                num_conversations[split] += 1
            totals["prompt_tokens"] += len(pc.list_flatten(batch["prompt_token_ids"]))
            totals["completion_tokens"] += len(pc.list_flatten(batch["num_top_logprobs"]))
            totals["truncated"] += pc.sum(pc.equal(batch["finish_reason"], "length")).as_py()
            totals["top_mass"] += pc.sum(pc.exp(pc.list_flatten(batch["top_logprobs"]))).as_py()
    return Summary(
        rows_by_part=rows_by_part,
        num_conversations=num_conversations,
        prompt_tokens=int(totals["prompt_tokens"]),
        completion_tokens=int(totals["completion_tokens"]),
        truncated_share=totals["truncated"] / sum(num_conversations.values()),
        mean_tail_mass=1.0 - totals["top_mass"] / totals["completion_tokens"],
    )


def _conversations(
    tokenizer: ChatTokenizer,
    prompts: PartPrompts,
    requests: Mapping[str, SampleRequest],
    samples: dict[str, Sample],
) -> Iterator[Conversation]:
    for prompt in prompts:
        request, sample = requests[prompt.prompt_id], samples[prompt.prompt_id]
        if sample.logprobs is None:
            raise TeacherError("vLLM returned no log-probabilities", where=prompt.prompt_id)
        yield Conversation(
            prompt=prompt,
            completion=tokenizer.decode(sample.token_ids, skip_special_tokens=True),
            prompt_token_ids=tuple(request.prompt_token_ids),
            completion_token_ids=sample.token_ids,
            logprobs=sample.logprobs,
            finish_reason=sample.finish_reason,
            seed=request.sampling.seed,
        )
