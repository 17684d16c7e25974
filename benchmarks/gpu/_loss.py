"""The loss on a GPU: its gradient against float64, its time and memory beside its peers'.

Shapes: T tokens, K stored entries, D width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu._table import Row
from benchmarks.train._loss_peers import PEERS, Loss, Problem, make_problem
from train.config import KDConfig
from train.heads import Head
from train.losses import mix_of
from train.losses.chunked import Targets, distillation_loss

LARGEST_ERROR = {"float32": 1e-4, "bfloat16": 0.04}
"""Of the loss and of its gradients' norm, relative to float64. A bfloat16 number has 8 bits."""
SOFTCAP = 30.0
LARGEST_GROWTH = 1.2
"""Of the loss's own memory from the smaller number of tokens to the larger."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the checks."""

    vocabularies: tuple[int, ...] = (49_152, 151_936)
    width: int = 896
    exact_tokens: int = 128
    tokens: tuple[int, ...] = (8192, 32_768)
    top_k: int = 64
    rounds: int = 3
    peers: tuple[str, ...] = ("potstill", "full logits", "TRL", "Liger", "Liger, compiled")


def synchronize(device: str) -> None:
    """Wait until the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()


def exactness(device: str, sizes: Sizes) -> Iterator[Row]:
    """Compare loss and gradients with full logits in float64."""
    cases = [*product(sizes.vocabularies, LARGEST_ERROR, (None, SOFTCAP), (False, True), (False,))]
    cases += [(sizes.vocabularies[0], dtype, None, True, True) for dtype in LARGEST_ERROR]
    for vocab_size, dtype, softcap, trained, compiled in cases:
        problem = make_problem(
            sizes.exact_tokens, sizes.width, vocab_size, sizes.top_k, device=device
        )
        error = largest_error(problem, dtype, softcap, trained, compiled=compiled)
        head = "trained" if trained else "frozen"
        name = f"loss, V {vocab_size:,}, {dtype}, {head}, {'soft-cap' if softcap else 'no cap'}"
        name += ", compiled" * compiled
        limit = LARGEST_ERROR[dtype]
        yield Row(name, f"{error:.1e} off float64", f"<= {limit:.0e}", error <= limit)


def largest_error(
    problem: Problem, dtype: str, softcap: float | None, trained: bool, *, compiled: bool = False
) -> float:
    """Return the largest relative error of the loss, and of the gradients by their norm."""
    ours = torch.compile(_chunked) if compiled else _chunked
    results = []
    for wide in (False, True):
        precision = torch.float64 if wide else torch.float32
        hidden_TD, weight_VD = (
            one.clone().to(precision) for one in (problem.hidden_TD, problem.weight_VD)
        )
        hidden_TD.requires_grad_()
        weight_VD.requires_grad_(trained)
        head = Head(weight_VD, softcap=softcap)
        with torch.autocast(
            hidden_TD.device.type, torch.bfloat16, enabled=not wide and dtype == "bfloat16"
        ):
            loss = _plain if wide else ours
            total = loss(hidden_TD, head, problem)
        total.backward()
        gradients = [one.grad for one in (hidden_TD, weight_VD) if one.grad is not None]
        results.append([total.detach(), *gradients])
    pairs = zip(*results, strict=True)
    return max(float((ours - exact).norm() / exact.norm()) for ours, exact in pairs)


def _chunked(hidden_TD: Tensor, head: Head, problem: Problem) -> Tensor:
    mix = mix_of(KDConfig(weight=1.0, chunk_tokens=64))
    ids_TK, logprobs_TK = problem.top_ids_TK, problem.top_logprobs_TK
    targets = Targets(ids_TK[:, 0], logprobs_TK[:, 0], ids_TK, logprobs_TK)
    return distillation_loss(hidden_TD, head, targets, mix).total


def _plain(hidden_TD: Tensor, head: Head, problem: Problem) -> Tensor:
    """Return forward KL over the stored tokens and a bucket for the rest, on full logits."""
    logits_TV = hidden_TD @ head.weight_VD.T
    if head.softcap is not None:
        logits_TV = head.softcap * torch.tanh(logits_TV / head.softcap)
    logq_TV = logits_TV.log_softmax(-1)
    logp_TK = problem.top_logprobs_TK.double()
    logq_TK = logq_TV.gather(-1, problem.top_ids_TK)
    rest = torch.full_like(logq_TV, 0.0).scatter_(-1, problem.top_ids_TK, -torch.inf)
    logq_rest_T = (logq_TV + rest).logsumexp(-1)
    p_rest_T = 1.0 - logp_TK.exp().sum(-1)
    of_rest_T = p_rest_T * (p_rest_T.log() - logq_rest_T)
    return (logp_TK.exp() * (logp_TK - logq_TK)).sum() + of_rest_T.sum()


def cost(device: str, sizes: Sizes) -> Iterator[Row]:
    """Measure time and memory of the loss and its peers, frozen head, bfloat16."""
    ours: list[float] = []
    for num_tokens in sizes.tokens:
        problem = make_problem(
            num_tokens, sizes.width, sizes.vocabularies[-1], sizes.top_k, device=device
        )
        for peer in sizes.peers:
            name = f"loss of {num_tokens:,} tokens, {peer}"
            try:
                seconds, peak_bytes = _measured(PEERS[peer](), problem, device, sizes.rounds)
            except (ImportError, RuntimeError) as error:  # Out of memory, or no compiler.
                yield Row(name, f"not run: {next(iter(str(error).splitlines()), '')}"[:60])
                continue
            if peer == "potstill":
                # The gradient of the hidden states, in float32, is what the caller wants.
                ours.append(peak_bytes - 4 * problem.hidden_TD.numel())
            yield Row(name, f"{seconds * 1e3:,.1f} ms {peak_bytes / 1e6:,.0f} MB")
    if device != "cpu":
        growth = ours[-1] / ours[0]
        yield Row(
            "memory of the loss, more tokens / fewer",
            f"{growth:.2f}",
            f"<= {LARGEST_GROWTH}",
            growth <= LARGEST_GROWTH,
        )


def _measured(loss: Loss, problem: Problem, device: str, rounds: int) -> tuple[float, float]:
    seconds, before = [], 0
    for _ in range(1 + rounds):
        given = replace(problem, hidden_TD=problem.hidden_TD.clone().requires_grad_())
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        synchronize(device)
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            total = loss(given)
        total.backward()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = 0 if device == "cpu" else torch.cuda.max_memory_allocated() - before
    return median(seconds[1:]), peak
