"""What is known of prompts whatever the student answers: their length, how sure the teacher was.

In: finished conversations. Out: two numbers for each prompt, of all splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import get_args

from potstill.schema import REFERENCES, Split
from potstill.tables import conversation_paths, read_conversation_batches

Covariates = Mapping[str, tuple[float, ...]]
"""By prompt id."""
COVARIATE_NAMES = ("the length of the prompt", "the teacher's log-probability")
_COLUMNS = ["prompt_id", "source", "turns", "sampled_logprobs"]


def read_covariates(conversations_dir: Path, *, of_references: bool) -> Covariates:
    """Return the log of the prompt's tokens, and the teacher's mean log-probability per token.

    Of the first answer to each prompt that was drawn like those that are compared: the task's
    references, or all others. The splits of these are drawn at random.

    Raises:
        ArtifactError: A table is damaged.
    """
    found: dict[str, tuple[float, ...]] = {}
    paths = [
        path for split in get_args(Split) for path in conversation_paths(conversations_dir, split)
    ]
    for path in paths:
        for batch in read_conversation_batches(path, _COLUMNS):
            for row in batch.to_pylist():
                if (row["source"] == REFERENCES) == of_references:
                    turn, logprobs = row["turns"][0], row["sampled_logprobs"]
                    mean = fmean(logprobs[: turn["num_tokens"]])
                    found.setdefault(row["prompt_id"], (math.log(turn["start"]), mean))
    return found
