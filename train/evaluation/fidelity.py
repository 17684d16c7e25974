"""Held-out fidelity of a student to the teacher's stored distributions.

In: a model and a split of conversations. Out: `Fidelity`; log-probabilities are
float32, sums float64.

Shape legend: T labeled tokens, C tokens of one chunk, K stored entries, D width, V vocabulary, N
least probable tokens.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from potstill.divergences import NUM_LOWEST, StudentRows, TeacherRows
from potstill.facts.shared import Fidelity
from potstill.fidelity import FidelityMeter
from potstill.progress import track
from train.data.batches import Collator, is_labeled, labeled_token_ids
from train.heads import Head, labeled_hidden_states, output_head
from train.students.checks import evaluating

CHUNK_TOKENS = 256
"""Tokens whose logits exist at once."""


@torch.no_grad()
def measure_fidelity(
    model: Any,  # noqa: ANN401  (untyped library)
    split: datasets.Dataset,
    collator: Collator,
    *,
    max_conversations: int,
    batch_size: int,
    label: str,
    drawn: bool,
) -> Fidelity:
    """Measure fidelity on the first conversations of a split.

    The model stays in the mode it is in. It computes in its weights' precision, or in autocast's if
    the caller has enabled it; the head's product is never autocast, so that bfloat16 does not round
    the logits.

    Args:
        model: A causal language model; of a PEFT model, its base model.
        split: The conversations.
        collator: Makes batches of them.
        max_conversations: Most conversations, from the first of the split.
        batch_size: Conversations in one forward pass.
        label: Label of the progress bar.
        drawn: `ConversationsFacts.tokens_are_draws`.
    """
    meter = FidelityMeter(drawn=drawn)
    split = split.select(range(min(max_conversations, len(split))))
    order = np.argsort(split["length"][:], kind="stable")
    head = output_head(model)
    with evaluating(model), track(label, len(split), "conversations") as progress:
        for start in range(0, len(order), batch_size):
            rows = [split[int(index)] for index in order[start : start + batch_size]]
            batch = collator(rows)
            on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
            hidden_TD = labeled_hidden_states(model, on_device)
            _add(meter, batch, _student_rows(head, hidden_TD, on_device))
            progress.advance(len(rows))
    return meter.result()


def _student_rows(head: Head, hidden_TD: Tensor, batch: dict[str, Tensor]) -> StudentRows:
    """Gather the parts of the student's distributions that the figures need, chunk by chunk."""
    chunks = zip(
        torch.split(hidden_TD.to(head.weight_VD.dtype), CHUNK_TOKENS),
        torch.split(labeled_token_ids(batch), CHUNK_TOKENS),
        torch.split(batch["top_token_ids"], CHUNK_TOKENS),
        strict=True,
    )
    return StudentRows.concatenate([_chunk_rows(head, *chunk) for chunk in chunks])


def _chunk_rows(
    head: Head, hidden_CD: Tensor, token_ids_C: Tensor, top_token_ids_CK: Tensor
) -> StudentRows:
    with torch.autocast(hidden_CD.device.type, enabled=False):
        logprobs_CV = torch.log_softmax(head.logits(hidden_CD), dim=-1)
    max_logprobs_C, argmax_ids_C = logprobs_CV.max(-1)
    num_lowest = min(NUM_LOWEST, logprobs_CV.shape[-1])
    return StudentRows(
        sampled_logprobs_T=_numpy(logprobs_CV.gather(-1, token_ids_C[:, None])[:, 0]),
        top_logprobs_TK=_numpy(logprobs_CV.gather(-1, top_token_ids_CK.clamp_min(0))),
        argmax_ids_T=argmax_ids_C.cpu().numpy(),
        max_logprobs_T=_numpy(max_logprobs_C),
        lowest_logprobs_TN=_numpy(logprobs_CV.topk(num_lowest, largest=False).values),
    )


def _add(meter: FidelityMeter, batch: dict[str, Tensor], student: StudentRows) -> None:
    """Add a padded batch to the meter, conversation by conversation."""
    teacher = TeacherRows(
        labeled_token_ids(batch).numpy(),
        batch["top_token_ids"].numpy(),
        _numpy(batch["top_logprobs"]),
        _numpy(batch["sampled_logprobs"]),
    )
    ends = is_labeled(batch).sum(-1).cumsum(0).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        meter.add(teacher[start:end], student[start:end])


def _numpy(tensor: Tensor) -> Any:  # noqa: ANN401
    return tensor.cpu().double().numpy()
