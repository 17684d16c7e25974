"""Resizing the teacher's vocabulary to the student's, as TRL requires.

In: a teacher in memory. Out: the same, with as many rows as the student.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from potstill.errors import TrainingError

ABSENT_LOGIT = -50.0
"""Logit of tokens that the teacher has no row for: a negligible probability."""


@torch.no_grad()
def fit_vocabulary(teacher: Any, num_rows: int, tokenizer: Any) -> None:  # noqa: ANN401
    """Resize the teacher's vocabulary in memory to as many rows as the student has.

    Families pad their embeddings to different sizes; TRL compares distributions of equal size.
    Unused rows are cut off, or added with a negligible probability.

    Raises:
        TrainingError: The student has fewer rows than there are tokens.
    """
    num_tokens = max(tokenizer.get_vocab().values()) + 1
    num_before = teacher.get_input_embeddings().weight.shape[0]
    if num_rows < num_tokens:
        raise TrainingError(
            "the teacher cannot correct a student that lacks some of its tokens",
            where="train.on_policy",
            expected=f"{num_tokens} rows in the student's vocabulary, one for each token",
            found=num_rows,
            hint="take a student with all of the tokenizer's tokens, or set "
            "train.on_policy.max_steps=0",
        )
    if num_rows == num_before:
        return
    teacher.resize_token_embeddings(num_rows, mean_resizing=False)
    if num_rows > num_before:
        head = teacher.get_output_embeddings()
        head.weight[num_before:] = 0.0
        bias_V = head.weight.new_zeros(num_rows)
        if head.bias is not None:
            bias_V[:num_before] = head.bias[:num_before]
        bias_V[num_before:] = ABSENT_LOGIT
        head.bias = nn.Parameter(bias_V, requires_grad=False)
