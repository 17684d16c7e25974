"""Answers of a student during training, which show repetition, as a loss does not.

In: a model, its tokenizer, and held-out prompts as token ids. Out: its most probable answers, a
line of JSON each.

Shape legend: B prompts, L padded length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import GenerationConfig

from potstill.files import disk_errors
from train.students.checks import evaluating


def write_generations(
    path: Path,
    model: Any,  # noqa: ANN401  (untyped library)
    tokenizer: Any,  # noqa: ANN401
    split: datasets.Dataset,
    *,
    step: int,
    num_prompts: int,
    max_new_tokens: int,
) -> None:
    """Append the student's answers to a split's first prompts to a file.

    Each line has `step`, `conversation_id`, `answer` and `finish_reason`: "stop" where the student
    ended its turn, "length" where it was cut off. A run that is resumed may repeat lines. The
    model's mode does not change; decoding is greedy.

    Args:
        model: A causal language model; of a PEFT model, its base model.
        split: Conversations; the part before the first answer is the prompt.
        step: Optimizer steps done.
        num_prompts: Number of different prompts to answer; fewer if the split has fewer.
        max_new_tokens: Longest answer, in tokens.

    Raises:
        ArtifactError: The disk is full.
    """
    prompts = _first_prompts(split, num_prompts)
    if not prompts:
        return
    ends = _end_token_ids(model, tokenizer)
    answers = _answers(model, list(prompts.values()), ends, max_new_tokens)
    lines = []
    for conversation_id, token_ids in zip(prompts, answers, strict=True):
        length = next((n for n, one in enumerate(token_ids) if one in ends), None)
        record = {
            "step": step,
            "conversation_id": conversation_id,
            "answer": tokenizer.decode(token_ids[:length], skip_special_tokens=True),
            "finish_reason": "length" if length is None else "stop",
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with disk_errors("writing generations", path), path.open("a", encoding="utf-8") as stream:
        stream.writelines(lines)


def _first_prompts(split: datasets.Dataset, num_prompts: int) -> dict[str, list[int]]:
    """Return the token ids of different prompts by the id of their first conversation."""
    prompts: dict[str, list[int]] = {}
    for index in range(len(split)):
        if len(prompts) == num_prompts:
            break
        row = split[index]
        token_ids = row["token_ids"][: row["turn_starts"][0]].tolist()
        if token_ids not in prompts.values():
            prompts[str(row["conversation_id"])] = token_ids
    return prompts


def _end_token_ids(model: Any, tokenizer: Any) -> set[int]:  # noqa: ANN401
    """Return the tokens that end a turn: the generation config's, and the tokenizer's."""
    named = model.generation_config.eos_token_id
    ends = set(named) if isinstance(named, list) else {named}
    return {one for one in (*ends, tokenizer.eos_token_id) if one is not None}


@torch.no_grad()
def _answers(
    model: Any,  # noqa: ANN401
    prompts: list[list[int]],
    end_token_ids: set[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, including anything after an end of turn."""
    length = max(map(len, prompts))
    ids_BL = torch.tensor([[0] * (length - len(one)) + one for one in prompts])
    mask_BL = torch.tensor([[0] * (length - len(one)) + [1] * len(one) for one in prompts])
    own_config = model.generation_config
    # `generate` takes unset values of a passed config from the model's: sampling, penalties.
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(end_token_ids) or None,
        pad_token_id=min(end_token_ids, default=0),
        use_cache=True,
    )
    try:
        with evaluating(model):
            generated: Tensor = model.generate(
                input_ids=ids_BL.to(model.device), attention_mask=mask_BL.to(model.device)
            )
    finally:
        model.generation_config = own_config
    return [row[length:].tolist() for row in generated]
