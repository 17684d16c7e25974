"""What is known of prompts whatever the student answers: their length, how sure the teacher was.

In: finished conversations. Out: two numbers for each prompt, of all splits, where there are others
than the compared ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from potstill.schema import REFERENCES, Split
from potstill.tables import conversation_paths, read_conversation_batches

Covariates = Mapping[str, tuple[float, ...]]
"""By prompt id."""
FindCovariates = Callable[[Set[str]], Covariates]
"""From the compared prompts to covariates of these and others drawn alike; none without others."""
COVARIATE_NAMES = ("the length of the prompt", "the teacher's log-probability")
_NAMES, _SIGNAL = ["prompt_id", "source"], ["turns", "sampled_logprobs"]


def read_covariates(
    conversations_dir: Path, compared: Set[str], *, of_references: bool
) -> Covariates:
    """Return the log of the prompt's tokens, and the teacher's mean log-probability per token.

    Of the first answer to each prompt that was drawn like those that are compared: the task's
    references, or all others. The splits of these are drawn at random.

    Returns:
        None of any prompt where these are the compared ones, or not all of them are there. Then no
        log-probability is read.

    Raises:
        ArtifactError: A table is damaged.
    """
    names = {row["prompt_id"] for row in _rows(conversations_dir, _NAMES, of_references)}
    if not names > compared:
        return {}
    found: dict[str, tuple[float, ...]] = {}
    for row in _rows(conversations_dir, _NAMES + _SIGNAL, of_references):
        turn, logprobs = row["turns"][0], row["sampled_logprobs"]
        mean = fmean(logprobs[: turn["num_tokens"]])
        found.setdefault(row["prompt_id"], (math.log(turn["start"]), mean))
    return found


def _rows(conversations_dir: Path, columns: list[str], of_references: bool) -> Iterator[Any]:
    for split in get_args(Split):
        for path in conversation_paths(conversations_dir, split):
            for batch in read_conversation_batches(path, columns):
                for row in batch.to_pylist():
                    if (row["source"] == REFERENCES) == of_references:
                        yield row
