"""vLLM's log-probabilities as the arrays they are, without a Python object per entry.

vLLM 0.32 hands its front end one pair of numpy arrays per step and turns them into lists token by
token (`vllm.v1.engine.logprobs.LogprobsProcessor`). `keep_arrays` replaces the two methods that do
so; `flat_logprobs=True` stays the public way to the same numbers, and a test holds both equal. On a
CPU it also replaces how the engine finds the most probable tokens (`vllm.v1.sample.sampler`), which
counts ranks that nobody here reads and sorts the whole vocabulary: a fifth of a small model's time.

In: a request's output. Out: `TokenDistributions`. Knows nothing of how requests are made.

Shape legend: T tokens, K log-probabilities asked for, the token itself in front of them, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from potstill.distributions import TokenDistributions

BLOCK_COLUMNS = 16
"""Of the sizes tried (8 to 128) the fastest for 128 of 49,152 values."""
_VLLMS_OWN: dict[tuple[Any, str], Any] = {}


def keep_arrays() -> None:
    """Make vLLM keep arrays in this process, for requests with `flat_logprobs=False`.

    `completion.logprobs` is then a list of pairs of blocks, token ids [T, 1 + K] and
    log-probabilities [T, 1 + K], one for each step, and `output.prompt_logprobs` a None followed by
    such pairs.
    """
    from vllm.platforms import current_platform
    from vllm.v1.engine.logprobs import LogprobsProcessor

    replaced: list[tuple[Any, str, Any]] = [
        (LogprobsProcessor, "_update_sample_logprobs", _update_sample_logprobs),
        (LogprobsProcessor, "_update_prompt_logprobs", _update_prompt_logprobs),
    ]
    if current_platform.is_cpu():
        from vllm.v1.sample.sampler import Sampler

        replaced.append((Sampler, "gather_logprobs", staticmethod(_gather_logprobs)))
    for owner, name, method in replaced:
        _VLLMS_OWN.setdefault((owner, name), owner.__dict__[name])
        setattr(owner, name, method)


@contextmanager
def vllms_own_objects() -> Iterator[None]:
    """Undo `keep_arrays` for a while, to compare both."""
    for (owner, name), method in _VLLMS_OWN.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        keep_arrays()


def sampled_distributions(rows: Any, top_logprobs: int) -> TokenDistributions:  # noqa: ANN401
    """Return the distributions of a completion, from arrays or from vLLM's FlatLogprobs."""
    if isinstance(rows, list):
        ids, logprobs = (np.concatenate(column) for column in zip(*rows, strict=True))
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
    # Copies, because these are views that would keep the whole batch's step alive.
    self.logprobs.append((logprobs_lists[0].copy(), logprobs_lists[1].copy()))


def _update_prompt_logprobs(self: Any, prompt_logprobs_tensors: Any) -> None:  # noqa: ANN401
    ids, logprobs, *_ = prompt_logprobs_tensors
    self.prompt_logprobs.append((np.asarray(ids), np.asarray(logprobs)))


def _gather_logprobs(logprobs: Any, num_logprobs: int, token_ids: Any) -> Any:  # noqa: ANN401
    """As vLLM's own, without the tokens' ranks."""
    import torch
    from vllm.v1.outputs import LogprobsTensors

    token_ids = token_ids.unsqueeze(-1)
    values, indices = top_values(logprobs, num_logprobs)
    return LogprobsTensors(
        torch.cat((token_ids, indices), dim=1).to(torch.int32),
        torch.cat((logprobs.gather(-1, token_ids), values), dim=1),
        torch.zeros(len(token_ids), dtype=torch.int64),
    )


def top_values(values_TV: Any, k: int) -> tuple[Any, Any]:  # noqa: ANN401  (torch tensors)
    """Return the greatest k values of each row, falling, and their columns, as `torch.topk` does.

    What belongs to the greatest k lies in one of the k blocks of columns with the greatest maxima:
    only these are sorted. Of equal values at the border others may be taken than by `torch.topk`.
    """
    import torch

    num_blocks = values_TV.shape[1] // BLOCK_COLUMNS
    if num_blocks <= k:
        values, columns = values_TV.topk(k)
        return values, columns
    # A block's columns lie far apart, so that the maxima of neighbours are taken side by side.
    blocks = values_TV[:, : num_blocks * BLOCK_COLUMNS].unflatten(1, (BLOCK_COLUMNS, num_blocks))
    chosen = blocks.amax(1).topk(k, sorted=False).indices[:, None, :]
    first_columns = torch.arange(BLOCK_COLUMNS)[:, None] * num_blocks
    candidates = blocks.gather(2, chosen.expand(-1, BLOCK_COLUMNS, -1)).flatten(1)
    columns = (chosen + first_columns).flatten(1)
    rest = torch.arange(num_blocks * BLOCK_COLUMNS, values_TV.shape[1])
    candidates = torch.cat((candidates, values_TV[:, rest]), dim=1)
    columns = torch.cat((columns, rest.expand(len(columns), -1)), dim=1)
    values, places = candidates.topk(k)
    return values, columns.gather(1, places)


def _split(ids: np.ndarray, logprobs: np.ndarray, top_logprobs: int) -> TokenDistributions:
    top = slice(1, 1 + top_logprobs)
    return TokenDistributions.from_padded(ids[:, top], logprobs[:, top], logprobs[:, 0])


def _from_flat(flat: Any, start: int, top_logprobs: int) -> TokenDistributions:  # noqa: ANN401
    """Read vLLM's FlatLogprobs: each position holds the token itself, then the top k by rank."""
    first_T = np.asarray(flat.start_indices[start:])
    index = first_T[:, None] + np.arange(1 + top_logprobs)
    return _split(np.asarray(flat.token_ids)[index], np.asarray(flat.logprobs)[index], top_logprobs)
