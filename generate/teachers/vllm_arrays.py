"""vLLM's log-probabilities as the arrays they are, without a Python object per entry.

vLLM 0.32 hands its front end one pair of numpy arrays per step and turns them into lists token by
token (`vllm.v1.engine.logprobs.LogprobsProcessor`). `keep_arrays` replaces the two methods that do
so; `flat_logprobs=True` stays the public way to the same numbers, and a test holds both equal.

In: a request's output. Out: `TokenDistributions`. Knows nothing of how requests are made.

Shape legend: T tokens, K log-probabilities asked for, the token itself in front of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from potstill.distributions import TokenDistributions


def keep_arrays() -> None:
    """Make vLLM keep arrays in this process, for requests with `flat_logprobs=False`.

    `completion.logprobs` is then a list of (token ids [1 + K], log-probabilities [1 + K]) rows, and
    `output.prompt_logprobs` a None followed by such pairs of [T, 1 + K] blocks.
    """
    from vllm.v1.engine.logprobs import LogprobsProcessor

    for name, method in _METHODS.items():
        _VLLMS_OWN.setdefault(name, getattr(LogprobsProcessor, name))
        setattr(LogprobsProcessor, name, method)


@contextmanager
def vllms_own_objects() -> Iterator[None]:
    """Undo `keep_arrays` for a while, to compare both."""
    from vllm.v1.engine.logprobs import LogprobsProcessor

    for name, method in _VLLMS_OWN.items():
        setattr(LogprobsProcessor, name, method)
    try:
        yield
    finally:
        keep_arrays()


def sampled_distributions(rows: Any, top_logprobs: int) -> TokenDistributions:  # noqa: ANN401
    """Return the distributions of a completion, from arrays or from vLLM's FlatLogprobs."""
    if isinstance(rows, list):
        ids, logprobs = (np.stack(column) for column in zip(*rows, strict=True))
        return _split(ids, logprobs, top_logprobs)
    return _from_flat(rows, 0, top_logprobs)


def prompt_distributions(
    blocks: Any,  # noqa: ANN401
    start: int,
    top_logprobs: int,
) -> TokenDistributions:
    """Return the distributions that predict a prompt's tokens from position `start` ≥ 1 on."""
    if isinstance(blocks, list):
        ids, logprobs = (np.concatenate(column) for column in zip(*blocks[1:], strict=True))
        return _split(ids[start - 1 :], logprobs[start - 1 :], top_logprobs)
    return _from_flat(blocks, start, top_logprobs)


def _update_sample_logprobs(self: Any, logprobs_lists: Any) -> None:  # noqa: ANN401
    for ids, logprobs in zip(logprobs_lists[0], logprobs_lists[1], strict=True):
        # Copies, because a row is a view that would keep the whole batch's step alive.
        self.logprobs.append((ids.copy(), logprobs.copy()))


def _update_prompt_logprobs(self: Any, prompt_logprobs_tensors: Any) -> None:  # noqa: ANN401
    ids, logprobs, *_ = prompt_logprobs_tensors
    self.prompt_logprobs.append((np.asarray(ids), np.asarray(logprobs)))


_METHODS = {
    "_update_sample_logprobs": _update_sample_logprobs,
    "_update_prompt_logprobs": _update_prompt_logprobs,
}
_VLLMS_OWN: dict[str, Any] = {}


def _split(ids: np.ndarray, logprobs: np.ndarray, top_logprobs: int) -> TokenDistributions:
    top = slice(1, 1 + top_logprobs)
    return TokenDistributions.from_padded(ids[:, top], logprobs[:, top], logprobs[:, 0])


def _from_flat(flat: Any, start: int, top_logprobs: int) -> TokenDistributions:  # noqa: ANN401
    """Read vLLM's FlatLogprobs: each position holds the token itself, then the top k by rank."""
    first_T = np.asarray(flat.start_indices[start:])
    index = first_T[:, None] + np.arange(1 + top_logprobs)
    return _split(np.asarray(flat.token_ids)[index], np.asarray(flat.logprobs)[index], top_logprobs)
