"""How close a GGUF file's next-token distributions are to the teacher's stored ones.

In: a GGUF file and held-out conversations with the teacher's log-probabilities. Out: `Fidelity`,
the same figures that training reports for checkpoints.

Shape legend: L positions, T tokens of the teacher's, K stored log-probabilities per token,
V vocabulary, N least probable tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from potstill.divergences import NUM_LOWEST, StudentRows, TeacherRows
from potstill.errors import ManifestMismatchError
from potstill.facts.shared import Fidelity
from potstill.fidelity import FidelityMeter
from potstill.llama.context import Context, log_softmax, measuring
from potstill.schema import Conversation


def measure_fidelity(
    gguf_path: Path,
    held_out: Sequence[Conversation],
    num_threads: int | None,
    on_conversation: Callable[[], None],
    *,
    drawn: bool,
    adapter_path: Path | None = None,
) -> Fidelity:
    """Compare a GGUF file with the teacher's stored log-probabilities.

    Args:
        gguf_path: The file, of any model with the teacher's tokenizer.
        held_out: Conversations with the teacher's signal.
        num_threads: CPU threads; None takes as many as the process may use.
        on_conversation: Called after each one.
        drawn: `ConversationsFacts.tokens_are_draws`.
        adapter_path: The adapter that makes the model of the file; None: none.

    Raises:
        ArtifactError: llama.cpp cannot load the file.
        BackendError: llama.cpp cannot run it.
        ManifestMismatchError: The file has fewer tokens than the teacher used.
    """
    meter = FidelityMeter(drawn=drawn)
    longest = max(len(conversation.token_ids) for conversation in held_out)
    with measuring(gguf_path, longest, num_threads, adapter_path) as context:
        for conversation in held_out:
            teacher = TeacherRows.of(conversation)
            _require_vocabulary(gguf_path, context.model.vocab_size, teacher)
            meter.add(teacher, student_rows(context, conversation, teacher))
            on_conversation()
    return meter.result()


def fidelity_to_itself(held_out: Sequence[Conversation]) -> Fidelity:
    """Return the teacher's fidelity to itself: perfect by definition, with its entropy."""
    num_tokens = sum(len(one.signal.sampled_logprobs_T) for one in held_out)
    nats = -sum(float(one.signal.sampled_logprobs_T.sum()) for one in held_out) / num_tokens
    return Fidelity(
        kl_nats=0.0,
        kl_standard_error=0.0,
        top1_agreement=1.0,
        nats_per_token=nats,
        num_tokens=num_tokens,
        kl_upper_bound_nats=0.0,
        kl_estimate_nats=0.0,
        reverse_kl_nats=0.0,
        acceptance_lower_bound=1.0,
        acceptance_upper_bound=1.0,
        acceptance_estimate=1.0,
    )


def student_rows(context: Context, conversation: Conversation, teacher: TeacherRows) -> StudentRows:
    """Run a model over a stored conversation and gather its distribution at the teacher's ids.

    The logits that follow a token predict the next one; those of the user's turns are left out.
    """
    predicting_T = conversation.positions_T - 1
    first = position = int(predicting_T[0])
    tokens = conversation.token_ids[: predicting_T[-1] + 1].tolist()
    parts, done = [], 0
    for logits_LV in context.logits(tokens, start=first):
        end = int(np.searchsorted(predicting_T, position + len(logits_LV)))
        logits_TV = logits_LV[predicting_T[done:end] - position]
        parts.append(_chunk_rows(log_softmax(logits_TV), teacher[done:end]))
        done, position = end, position + len(logits_LV)
    return StudentRows.concatenate(parts)


def _chunk_rows(logprobs_TV: NDArray[np.float64], teacher: TeacherRows) -> StudentRows:
    num_lowest = min(NUM_LOWEST, logprobs_TV.shape[1])
    lowest_TN = np.partition(logprobs_TV, num_lowest - 1, axis=-1)[:, :num_lowest]
    ids_TK = np.maximum(teacher.top_token_ids_TK, 0)
    return StudentRows(
        sampled_logprobs_T=np.take_along_axis(logprobs_TV, teacher.token_ids_T[:, None], -1)[:, 0],
        top_logprobs_TK=np.take_along_axis(logprobs_TV, ids_TK, -1),
        argmax_ids_T=logprobs_TV.argmax(-1).astype(np.int64),
        max_logprobs_T=logprobs_TV.max(-1),
        lowest_logprobs_TN=np.sort(lowest_TN, -1),
    )


def _require_vocabulary(gguf_path: Path, vocab_size: int, teacher: TeacherRows) -> None:
    largest = int(max(teacher.token_ids_T.max(), teacher.top_token_ids_TK.max()))
    if largest >= vocab_size:
        raise ManifestMismatchError(
            "the model file has another tokenizer than the teacher",
            where=gguf_path,
            expected=f"more than {largest} tokens",
            found=vocab_size,
            hint="make the gguf stage again with --force",
        )
