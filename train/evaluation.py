"""Held-out fidelity of a student to the teacher's stored distributions.

In: a model and a split of conversations. Out: `potstill.fidelity.Fidelity`, computed in float32.

Shape legend: B conversations, L padded length, T labelled tokens, D width, V vocabulary, K stored
entries.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from potstill.fidelity import Fidelity, FidelityMeter, StudentRows
from potstill.progress import track
from train.batches import IGNORED_LABEL, Collator
from train.heads import Head, labelled_hidden_states, output_head

CHUNK_TOKENS = 256


@torch.no_grad()
def measure_fidelity(
    model: Any,  # noqa: ANN401  (untyped library)
    split: datasets.Dataset,
    collator: Collator,
    *,
    max_conversations: int,
    batch_size: int,
    label: str,
) -> Fidelity:
    """Measure KL to the teacher, top-1 agreement and nats per token.

    Args:
        model: A causal language model in float32.
        split: The conversations.
        collator: What lays them out.
        max_conversations: The first so many of the split are measured.
        batch_size: Conversations in one forward pass.
        label: What to call it in the progress.
    """
    model.eval()
    head = output_head(model)
    meter = FidelityMeter()
    split = split.select(range(min(max_conversations, len(split))))
    order = np.argsort(split["length"][:], kind="stable")
    with track(label, len(split), "conversations") as progress:
        for start in range(0, len(order), batch_size):
            rows = [split[int(index)] for index in order[start : start + batch_size]]
            batch = {name: tensor.to(model.device) for name, tensor in collator(rows).items()}
            hidden_TD = labelled_hidden_states(model, batch)
            _add(meter, rows, collator, _student_rows(head, hidden_TD, batch))
            progress.advance(len(rows))
    return meter.result()


def _student_rows(head: Head, hidden_TD: Tensor, batch: dict[str, Tensor]) -> StudentRows:
    token_ids_T = batch["labels"][:, 1:][batch["labels"][:, 1:] != IGNORED_LABEL]
    sampled, top, argmax = [], [], []
    for hidden_CD, ids_C, top_ids_CK in zip(
        torch.split(hidden_TD, CHUNK_TOKENS),
        torch.split(token_ids_T, CHUNK_TOKENS),
        torch.split(batch["top_token_ids"], CHUNK_TOKENS),
        strict=True,
    ):
        logprobs_CV = torch.log_softmax(head.logits(hidden_CD), dim=-1)
        sampled.append(logprobs_CV.gather(-1, ids_C[:, None])[:, 0])
        top.append(logprobs_CV.gather(-1, top_ids_CK.clamp_min(0)))
        argmax.append(logprobs_CV.argmax(-1))
    return StudentRows(
        sampled_logprobs_T=torch.cat(sampled).double().cpu().numpy(),
        top_logprobs_TK=torch.cat(top).double().cpu().numpy(),
        argmax_ids_T=torch.cat(argmax).cpu().numpy(),
    )


def _add(
    meter: FidelityMeter, rows: list[dict[str, Any]], collator: Collator, student: StudentRows
) -> None:
    """Hand the batch to the meter conversation by conversation."""
    start = 0
    for row in rows:
        teacher = collator.teacher_rows(row)
        num_tokens, num_stored = teacher.top_token_ids_TK.shape
        part = slice(start, start + num_tokens)
        start += num_tokens
        meter.add(
            teacher,
            StudentRows(
                student.sampled_logprobs_T[part],
                student.top_logprobs_TK[part, :num_stored],
                student.argmax_ids_T[part],
            ),
        )
