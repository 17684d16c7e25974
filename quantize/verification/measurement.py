"""The figures of a GGUF file, as llama.cpp's perplexity tool defines them.

Shape legend: T predicted tokens of all conversations in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.facts.gguf import FileMeasurement
from potstill.fidelity import ratio_with_standard_error


def measurement_of(
    answer: dict[str, Any], compared_T: NDArray[Any], sequences: Sequence[dict[str, Any]]
) -> FileMeasurement:
    """Summarize the measurements of a file.

    Args:
        answer: The figures of the whole file.
        compared_T: The measurements of each token (`inspection.COMPARED`).
        sequences: The held-out conversations that the tokens belong to, in order.

    Source: llama.cpp tools/perplexity/perplexity.cpp, kl_divergence (commit 0c1e57098): linear
        percentiles, the same RMS and ratio. Unlike there, tokens with a reference probability
        below e^-16 are included, and standard errors do not treat a conversation's tokens as
        independent.
    """
    kl_T = compared_T["kl_nats"]
    counts = np.array([len(sequence["target_ids"]) for sequence in sequences])
    sums = np.add.reduceat(kl_T, np.cumsum(counts) - counts)
    kl_nats, standard_error_nats = ratio_with_standard_error(sums, counts.astype(np.float64))
    median, p99, p999 = np.percentile(kl_T, [50, 99, 99.9]).tolist()
    logprob_T, reference_T = compared_T["logprob"], compared_T["reference_logprob"]
    delta_p_T = np.exp(logprob_T) - np.exp(reference_T)
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(-logprob_T.mean()))
        perplexity_ratio = float(np.exp((reference_T - logprob_T).mean()))
    return FileMeasurement(
        num_parameters=answer["num_parameters"],
        bits_per_weight=round(8 * answer["tensor_bytes"] / answer["num_parameters"], 3),
        kl_to_checkpoint_nats=kl_nats,
        kl_standard_error_nats=standard_error_nats,
        kl_median_nats=median,
        kl_p99_nats=p99,
        kl_p999_nats=p999,
        kl_max_nats=float(kl_T.max()),
        top1_agreement_with_checkpoint=float(compared_T["same_top"].mean()),
        mean_delta_p=float(delta_p_T.mean()),
        rms_delta_p=float(np.sqrt((delta_p_T**2).mean())),
        perplexity=perplexity,
        perplexity_ratio=perplexity_ratio,
        prompt_tokens_per_second=round(answer["prompt_tokens_per_second"], 2),
        decode_tokens_per_second=round(answer["decode_tokens_per_second"], 2),
        batch_decode_tokens_per_second=round(answer["batch_decode_tokens_per_second"], 2),
        peak_memory_bytes=answer["peak_memory_bytes"],
    )
