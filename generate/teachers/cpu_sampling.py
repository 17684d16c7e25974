"""A faster sampler for vLLM on a CPU, with fewer passes over the vocabulary.

vLLM 0.32 adds Gumbel noise to every logit, sorts the whole vocabulary for the most probable tokens
and counts ranks that potstill does not read. Here a token is drawn with one random number per
request, and only the blocks of tokens that can contain one of the most probable are sorted. Both
split the vocabulary into blocks of strided columns, so that sums and maxima of neighboring blocks
are computed together.

Shape legend: T positions of different requests, V vocabulary, B blocks, K requested tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCK_COLUMNS = 16
"""Of the sizes tried (8 to 128) the fastest for 128 of 49,152 values."""

Tensor = Any
"""torch's; torch is imported where it is used, because vLLM sets it up."""


def install(worker: Any) -> None:  # noqa: ANN401
    """Replace the sampler of one of vLLM's CPU workers, for requests without top-k and top-p.

    Log-probabilities must be the raw ones (`logprobs_mode`).

    Source: `vllm.v1.sample.ops.topk_topp_sampler.TopKTopPSampler.forward_cpu` (vLLM 0.32).
    """
    sampler = worker.model_runner.sampler
    original = sampler.topk_topp_sampler.forward

    def forward(logits: Tensor, generators: Mapping[int, Any], k: Any, p: Any) -> Any:  # noqa: ANN401
        if k is not None or p is not None:
            return original(logits, generators, k, p)
        return draw(logits, generators), None

    sampler.topk_topp_sampler.forward = forward
    sampler.gather_logprobs = gather_logprobs


def draw(logits_TV: Tensor, generators: Mapping[int, Any]) -> Tensor:
    """Draw a token id [T] from softmax(logits) of each position; logits are overwritten.

    By inversion of the cumulative distribution: blocks of columns first, then the columns of the
    block that was hit (Devroye 1986, "Non-Uniform Random Variate Generation", chapter III.2).

    Args:
        generators: Of the positions whose requests have a seed: each gives one number for a draw.
    """
    import torch

    num_tokens, vocab_size = logits_TV.shape
    uniform_T1 = torch.rand(num_tokens, 1, dtype=torch.float64)
    for position, generator in generators.items():
        uniform_T1[position] = torch.rand(1, dtype=torch.float64, generator=generator)
    weights_TV: Tensor = torch.softmax(logits_TV, dim=-1, dtype=torch.float32, out=logits_TV)
    num_blocks = vocab_size // BLOCK_COLUMNS
    inside = num_blocks * BLOCK_COLUMNS
    sums_TB = torch.cat((_blocks(weights_TV).sum(1), weights_TV[:, inside:]), dim=1).double()
    block_T1, share_T1 = _pick(sums_TB, uniform_T1)
    # The columns after the last whole block are blocks of one.
    columns_TC = block_T1 + torch.arange(BLOCK_COLUMNS) * num_blocks
    is_single_T1 = block_T1 >= num_blocks
    columns_TC = torch.where(is_single_T1, inside + block_T1 - num_blocks, columns_TC)
    hit_T1, _ = _pick(weights_TV.gather(1, columns_TC).double(), share_T1)
    return columns_TC.gather(1, hit_T1).squeeze(1)


def _blocks(values_TV: Tensor) -> Tensor:
    """Return a view [T, BLOCK_COLUMNS, B] of the columns that fill whole blocks."""
    num_blocks = values_TV.shape[1] // BLOCK_COLUMNS
    return values_TV[:, : num_blocks * BLOCK_COLUMNS].unflatten(1, (BLOCK_COLUMNS, num_blocks))


def _pick(weights_TN: Tensor, uniform_T1: Tensor) -> tuple[Tensor, Tensor]:
    """Return which weight the share `uniform` of their sum falls on, and its share within it."""
    import torch

    ends_TN = weights_TN.cumsum(1)
    target_T1 = uniform_T1 * ends_TN[:, -1:]
    # A weight of zero is never picked: its end equals its predecessor's.
    index_T1 = torch.searchsorted(ends_TN, target_T1, right=True).clamp_(max=ends_TN.shape[1] - 1)
    weight_T1 = weights_TN.gather(1, index_T1)
    start_T1 = ends_TN.gather(1, index_T1) - weight_T1
    return index_T1, ((target_T1 - start_T1) / weight_T1).clamp_(0, 1 - 2**-53)


def gather_logprobs(logprobs: Tensor, num_logprobs: int, token_ids: Tensor) -> Tensor:
    """Return vLLM's LogprobsTensors of the tokens and the most probable ones, ranks left at 0.

    Called with vLLM's names: logprobs [T, V], token_ids [T].

    Source: `vllm.v1.sample.sampler.Sampler.gather_logprobs` (vLLM 0.32).
    """
    import torch
    from vllm.v1.outputs import LogprobsTensors

    token_ids_T1 = token_ids.unsqueeze(-1)
    values, indices = top_values(logprobs, num_logprobs)
    return LogprobsTensors(
        torch.cat((token_ids_T1, indices), dim=1).to(torch.int32),
        torch.cat((logprobs.gather(-1, token_ids_T1), values), dim=1),
        torch.zeros(len(token_ids), dtype=torch.int64),
    )


def top_values(values_TV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the greatest k values [T, k] in descending order and their columns, like `torch.topk`.

    The greatest k values are in the k blocks of columns with the greatest maxima: only these are
    sorted. Among equal values at the border the choice may differ from that of `torch.topk`.
    """
    import torch

    num_blocks = values_TV.shape[1] // BLOCK_COLUMNS
    if num_blocks <= k:
        values, columns = values_TV.topk(k)
        return values, columns
    blocks = _blocks(values_TV)
    chosen = blocks.amax(1).topk(k, sorted=False).indices[:, None, :]
    first_columns = torch.arange(BLOCK_COLUMNS)[:, None] * num_blocks
    candidates = blocks.gather(2, chosen.expand(-1, BLOCK_COLUMNS, -1)).flatten(1)
    columns = (chosen + first_columns).flatten(1)
    rest = torch.arange(num_blocks * BLOCK_COLUMNS, values_TV.shape[1])
    candidates = torch.cat((candidates, values_TV[:, rest]), dim=1)
    columns = torch.cat((columns, rest.expand(len(columns), -1)), dim=1)
    values, places = candidates.topk(k)
    return values, columns.gather(1, places)
