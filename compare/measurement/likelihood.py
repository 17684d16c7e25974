"""The log-probability of an answer's tokens under a GGUF file.

In: a loaded file, a prompt's token ids, a text or token ids. Out: nats.

Shape legend: T tokens of the answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from potstill.llama.context import Context, log_softmax
from potstill.llama.model import LlamaModel


def answer_ids(model: LlamaModel, text: str, *, finished: bool) -> list[int]:
    """Return an answer's tokens, with the one that ends it if it ended by itself."""
    return model.tokenize(text, parse_special=False) + ([model.end_of_turn] if finished else [])


def mean_logprob(context: Context, prompt_ids: Sequence[int], ids: Sequence[int]) -> float | None:
    """Return the mean log-probability of an answer's tokens after a prompt, in nats.

    Returns:
        None: The answer has no tokens.

    Raises:
        ContextLengthError: Both together are longer than the model's context.
    """
    return sum_logprob(context, prompt_ids, ids) / len(ids) if ids else None


def sum_logprob(
    context: Context, prompt_ids: Sequence[int], ids: Sequence[int], kept: int = 0
) -> float:
    """Return the log-probability of an answer's tokens after a prompt, in nats.

    Args:
        kept: Number of first tokens that are those of the call before, see `Context.logits`.

    Raises:
        ContextLengthError: Both together are longer than the model's context.
    """
    logprob = 0.0
    for logits_TV, wanted_T in predicted(context, prompt_ids, ids, kept):
        logprob += float(log_softmax(logits_TV)[np.arange(len(wanted_T)), wanted_T].sum())
    return logprob


def predicted(
    context: Context, prompt_ids: Sequence[int], ids: Sequence[int], kept: int = 0
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Yield the logits [T, V] that predict an answer's tokens, and these tokens [T], by batches.

    Raises:
        ContextLengthError: Both together are longer than the model's context.
    """
    tokens, done = [*prompt_ids, *ids], 0
    for logits_TV in context.logits(tokens[:-1], len(prompt_ids) - 1, kept):
        yield logits_TV, np.asarray(ids[done : done + len(logits_TV)], dtype=np.int64)
        done += len(logits_TV)
