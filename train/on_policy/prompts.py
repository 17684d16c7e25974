"""Prompts for the student to answer: the stored token ids up to the first answer.

In: the stage's cache and the finished conversations. Out: a data set of token ids, and batches. No
prompt is rendered again; a teacher with another tokenizer gets the text that it answered.

Shape legend: B prompts, L padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from potstill.tables import conversation_paths, read_conversation_batches


def draw_prompts(split: datasets.Dataset, num_prompts: int, seed: int) -> datasets.Dataset:
    """Return `prompt` and `conversation_id` of random conversations, each once before any repeats.

    Args:
        split: Conversations in the student's tokens.
        num_prompts: Number of prompts of the phase; memory does not grow with the data set.
        seed: Seed of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(split))
    rows = [split[int(index)] for index in np.resize(order, num_prompts)]
    return datasets.Dataset.from_dict(
        {
            "prompt": [row["token_ids"][: row["turn_starts"][0]].tolist() for row in rows],
            "conversation_id": [row["conversation_id"] for row in rows],
        }
    )


def teacher_prompts(
    conversations_dir: Path, teacher_dir: Path, conversation_ids: Sequence[str]
) -> dict[str, str]:
    """Return the text that the teacher answered, for each of some conversations."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    wanted = set(conversation_ids)
    begins_itself = tokenizer("")["input_ids"] == [tokenizer.bos_token_id]
    prefix = tokenizer.bos_token if begins_itself else ""
    return {
        name: tokenizer.decode(token_ids).removeprefix(prefix)
        for name, token_ids in _stored_prompts(conversations_dir)
        if name in wanted
    }


def collate_prompts(rows: Sequence[dict[str, Any]], *, pad_token_id: int) -> dict[str, Any]:
    """Return prompts padded on the left, as GOLDTrainer expects them, and the teacher's texts.

    `prompts` and `prompt_attention_mask` are [B, L].
    """
    prompts = [torch.tensor(row["prompt"]) for row in rows]
    prompts_BL = _pad_left(prompts, pad_token_id)
    return {
        "prompts": prompts_BL,
        "prompt_attention_mask": _pad_left([torch.ones_like(one) for one in prompts], 0),
        "input_ids": prompts_BL,
        "teacher_prompt_text": [row["teacher_prompt_text"] for row in rows],
    }


def _stored_prompts(conversations_dir: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the train split's conversations: their ids, and the token ids of their prompts."""
    columns = ["conversation_id", "token_ids", "turns"]
    for path in conversation_paths(conversations_dir, "train"):
        for batch in read_conversation_batches(path, columns):
            for row in batch.to_pylist():
                yield row["conversation_id"], row["token_ids"][: row["turns"][0]["start"]]


def _pad_left(rows: list[Tensor], fill: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side="left")
