"""vLLM's log-probabilities as the arrays they are, without a Python object per entry.

vLLM 0.32 hands its front end one pair of numpy arrays per step and turns them into lists token by
token (`vllm.v1.engine.logprobs.LogprobsProcessor`). `keep_arrays` replaces the two methods that do
so; `flat_logprobs=True` stays the public way to the same numbers, and a test holds both equal. On a
CPU it also puts `cpu_sampling` into the engine's sampler.

In: a request's output. Out: `TokenDistributions`. Knows nothing of how requests are made.

Shape legend: T tokens, K log-probabilities asked for, the token itself in front of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from generate.teachers.cpu_sampling import draw, gather_logprobs
from potstill.distributions import TokenDistributions

STEPS_PER_BLOCK = 64
"""Steps of a request whose arrays are joined to one: until then they are views that keep a step of
the whole batch alive."""
_VLLMS_OWN: dict[tuple[Any, str], Any] = {}


def keep_arrays() -> None:
    """Make vLLM keep arrays in this process, for requests with `flat_logprobs=False`.

    `completion.logprobs` is then a list of pairs of blocks, token ids [T, 1 + K] and
    log-probabilities [T, 1 + K], in order, and `output.prompt_logprobs` a None followed by such
    pairs.
    """
    from vllm.platforms import current_platform
    from vllm.v1.engine.logprobs import LogprobsProcessor

    replaced: list[tuple[Any, str, Any]] = [
        (LogprobsProcessor, "_update_sample_logprobs", _update_sample_logprobs),
        (LogprobsProcessor, "_update_prompt_logprobs", _update_prompt_logprobs),
    ]
    if current_platform.is_cpu():
        from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler
        from vllm.v1.sample.sampler import Sampler

        replaced.append((Sampler, "gather_logprobs", staticmethod(gather_logprobs)))
        replaced.append((TopKTopPSampler, "forward_cpu", _forward_cpu))
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
        return _split(*_joined(rows), top_logprobs)
    return _from_flat(rows, 0, top_logprobs)


def prompt_distributions(
    blocks: Any,  # noqa: ANN401
    start: int,
    top_logprobs: int,
) -> TokenDistributions:
    """Return the distributions that predict a prompt's tokens from position `start` ≥ 1 on."""
    if isinstance(blocks, list):
        ids, logprobs = _joined(blocks[1:])
        return _split(ids[start - 1 :], logprobs[start - 1 :], top_logprobs)
    return _from_flat(blocks, start, top_logprobs)


def _update_sample_logprobs(self: Any, logprobs_lists: Any) -> None:  # noqa: ANN401
    steps = self.logprobs
    steps.append((logprobs_lists[0], logprobs_lists[1]))
    if len(steps) >= STEPS_PER_BLOCK and len(steps[-STEPS_PER_BLOCK][1]) == 1:
        steps[-STEPS_PER_BLOCK:] = [_joined(steps[-STEPS_PER_BLOCK:])]


def _update_prompt_logprobs(self: Any, prompt_logprobs_tensors: Any) -> None:  # noqa: ANN401
    ids, logprobs, *_ = prompt_logprobs_tensors
    self.prompt_logprobs.append((np.asarray(ids), np.asarray(logprobs)))


def _forward_cpu(
    self: Any,  # noqa: ANN401
    logits: Any,  # noqa: ANN401
    generators: dict[int, Any],
    k: Any,  # noqa: ANN401
    p: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """As vLLM's own, but for another way to draw where nothing was cut from the distribution.

    A sampler keeps the method it was made with, so whether it is undone is asked here.
    """
    is_undone = type(self).forward_cpu is not _forward_cpu
    if is_undone or k is not None or p is not None or self.logprobs_mode != "raw_logprobs":
        return _VLLMS_OWN[type(self), "forward_cpu"](self, logits, generators, k, p)
    return draw(logits, generators), None


def _joined(blocks: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    ids, logprobs = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return ids, logprobs


def _split(ids: np.ndarray, logprobs: np.ndarray, top_logprobs: int) -> TokenDistributions:
    top = slice(1, 1 + top_logprobs)
    return TokenDistributions.from_padded(ids[:, top], logprobs[:, top], logprobs[:, 0])


def _from_flat(flat: Any, start: int, top_logprobs: int) -> TokenDistributions:  # noqa: ANN401
    """Read vLLM's FlatLogprobs: each position holds the token itself, then the top k by rank."""
    first_T = np.asarray(flat.start_indices[start:])
    index = first_T[:, None] + np.arange(1 + top_logprobs)
    return _split(np.asarray(flat.token_ids)[index], np.asarray(flat.logprobs)[index], top_logprobs)
