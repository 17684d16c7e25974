"""Raw log-probabilities of answers that a schema binds.

vLLM 0.32 masks the logits of tokens that a schema forbids before it computes log-probabilities, so
that its `raw_logprobs` are those of the allowed tokens alone. Here they are computed from the
logits before the mask: the teacher's own distribution, in which a forbidden token keeps its share.
"""

from __future__ import annotations

from typing import Any

Tensor = Any
"""torch's; torch is imported where it is used, because vLLM sets it up."""


def install(worker: Any) -> None:  # noqa: ANN401  (one of vLLM's workers)
    """Let a worker compute log-probabilities before the mask of a schema.

    Source: `vllm.v1.worker.gpu_model_runner.GPUModelRunner.sample_tokens` and
    `vllm.v1.sample.sampler.Sampler.forward` (vLLM 0.32).
    """
    from vllm.v1.worker import gpu_model_runner

    sampler = worker.model_runner.sampler
    mask, forward, compute = (
        gpu_model_runner.apply_grammar_bitmask,
        sampler.forward,
        sampler.compute_logprobs,
    )
    unmasked: list[Tensor] = []

    def keep_and_mask(scheduled: Any, grammar: Any, batch: Any, logits: Tensor) -> None:  # noqa: ANN401
        unmasked.append(logits.clone())
        mask(scheduled, grammar, batch, logits)

    def compute_logprobs(logits: Tensor) -> Tensor:
        return compute(unmasked[-1] if unmasked else logits)

    def forward_once(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        try:
            return forward(*args, **options)
        finally:
            unmasked.clear()  # Scores of prompts are computed by the same function.

    gpu_model_runner.apply_grammar_bitmask = keep_and_mask
    sampler.forward, sampler.compute_logprobs = forward_once, compute_logprobs
