"""How close a GGUF file's next-token distributions are to the teacher's stored ones.

In: a GGUF file and held-out rows with the teacher's log-probabilities. Out: `Fidelity`, the same
figures that training reports for checkpoints. Knows nothing of stages or of text.

Shape legend: T completion tokens, K stored log-probabilities per token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compare.gguf_model import GgufModel
from potstill.errors import ManifestMismatchError
from potstill.fidelity import Fidelity, FidelityMeter, StudentRows, TeacherRows


def measure_fidelity(
    gguf_path: Path,
    rows: Sequence[dict[str, Any]],
    num_threads: int | None,
    on_conversation: Callable[[], None],
) -> Fidelity:
    """Compare a GGUF file with the teacher's stored log-probabilities.

    Args:
        gguf_path: The file, of any model with the teacher's tokenizer.
        rows: Held-out conversations, as stored.
        num_threads: CPU threads; None takes as many as the process may use.
        on_conversation: Called after each one.

    Raises:
        BackendError: llama.cpp cannot run the file.
        ManifestMismatchError: The file has fewer tokens than the teacher used.
    """
    meter = FidelityMeter()
    longest = max(len(row["prompt_token_ids"]) + len(row["completion_token_ids"]) for row in rows)
    with GgufModel(gguf_path, longest, num_threads) as model:
        for row in rows:
            teacher = TeacherRows.from_row(row)
            _require_vocabulary(gguf_path, model.vocab_size, teacher)
            meter.add(teacher, student_rows(model, row["prompt_token_ids"], teacher))
            on_conversation()
    return meter.result()


def student_rows(
    model: GgufModel, prompt_token_ids: Sequence[int], teacher: TeacherRows
) -> StudentRows:
    """Run a model over a stored conversation and gather its distribution at the teacher's ids.

    The logits that follow the prompt's last token predict the completion's first token.
    """
    completion = teacher.token_ids_T
    tokens = [*prompt_token_ids, *completion[:-1].tolist()]
    sampled, top, argmax = [], [], []
    done = 0
    for logits_TV in model.logits(tokens, start=len(prompt_token_ids) - 1):
        chunk = slice(done, done + len(logits_TV))
        logprobs_TV = log_softmax(logits_TV)
        ids_TK = np.maximum(teacher.top_token_ids_TK[chunk], 0)
        top.append(np.take_along_axis(logprobs_TV, ids_TK, axis=-1))
        sampled.append(np.take_along_axis(logprobs_TV, completion[chunk, None], axis=-1)[:, 0])
        argmax.append(logprobs_TV.argmax(-1))
        done = chunk.stop
    return StudentRows(
        sampled_logprobs_T=np.concatenate(sampled),
        top_logprobs_TK=np.concatenate(top),
        argmax_ids_T=np.concatenate(argmax).astype(np.int64),
    )


def log_softmax(logits_TV: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log-probabilities [T, V] in nats, in double precision."""
    shifted = logits_TV.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


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
