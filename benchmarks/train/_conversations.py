"""Synthetic conversations for the benchmarks of this folder, with signal of the usual size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from potstill.distributions import TokenDistributions
from potstill.schema import Conversation, Message, Prompt, Split, Turn
from potstill.tables import conversations_to_table, write_table

VOCABULARY = 49_152
PROMPT_TOKENS = 40
MAX_ENTRIES = 64
MEAN_ENTRIES = 8.0
"""Stored at a token, of MAX_ENTRIES at most."""


def make_signal(random: np.random.Generator, num_tokens: int) -> TokenDistributions:
    """Return distributions as ragged and as steep as a chat model's."""
    logits_TK = np.sort(random.gumbel(size=(num_tokens, MAX_ENTRIES)) * 3, axis=1)[:, ::-1]
    logprobs_TK = logits_TK - np.log(np.exp(logits_TK).sum(axis=1, keepdims=True))
    counts_T = np.clip(random.geometric(1 / MEAN_ENTRIES, num_tokens), 1, MAX_ENTRIES)
    ids_TK = random.integers(0, VOCABULARY, size=(num_tokens, MAX_ENTRIES))
    ids_TK[np.arange(MAX_ENTRIES) >= counts_T[:, None]] = -1
    return TokenDistributions.from_padded(ids_TK, logprobs_TK, logprobs_TK[:, 0])


def make_conversation(
    random: np.random.Generator, number: int, mean_tokens: int, split: Split
) -> Conversation:
    """Return a conversation of one answer, half to one and a half times the mean long."""
    num_tokens = int(random.integers(mean_tokens // 2, mean_tokens * 3 // 2))
    asked = (Message(role="user", content="What is this?"),)
    token_ids = random.integers(0, VOCABULARY, PROMPT_TOKENS + num_tokens).astype(np.int32)
    return Conversation(
        prompt=Prompt(
            prompt_id=f"{number:08}",
            cluster_id=f"{number:08}",
            split=split,
            messages=asked,
            source="made up",
        ),
        answer_index=0,
        given=asked,
        completion=(Message(role="assistant", content="This."),),
        token_ids=token_ids,
        turns=(Turn(start=PROMPT_TOKENS, num_tokens=num_tokens, finish_reason="stop", seed=0),),
        signal=make_signal(random, num_tokens),
    )


def write_split(
    directory: Path, num_files: int, conversations_per_file: int, mean_tokens: int
) -> None:
    """Write a train split whose files are copies of one, which makes no difference to readers."""
    random = np.random.default_rng(0)
    made = [
        make_conversation(random, number, mean_tokens, "train")
        for number in range(conversations_per_file)
    ]
    first = directory / "train-00000.parquet"
    write_table(first, conversations_to_table(made, VOCABULARY))
    for number in range(1, num_files):
        shutil.copyfile(first, directory / f"train-{number:05d}.parquet")
