"""From logits to a token: one llama.cpp sampler chain per request.

In: sampling parameters, and a context that has just decoded. Out: token ids, log-probabilities.
Knows nothing of scheduling, text or HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import llama_cpp
import numpy as np
import numpy.typing as npt

from serve.engine.context import DecodeContext

NUM_SEEDS = 2**32 - 1
"""llama.cpp seeds are 32 bits wide, and the greatest value means "random" there."""

REPEAT_WINDOW_TOKENS = 64
"""How far `repeat_penalty` looks back, in prompt and completion; llama.cpp's own default."""


@dataclass(frozen=True)
class SamplerParams:
    """How to draw a token. The defaults draw from the model's own distribution.

    Names and meanings are those of llama.cpp's server; the order is told at `Sampler`.
    """

    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    """Number of most probable tokens to draw from; 0 means all."""
    min_p: float = 0.0
    """Least probability of a token, as a share of the most probable one's."""
    typical_p: float = 1.0
    """Probability mass of the tokens whose surprise is nearest to the entropy; 1 is off."""
    top_n_sigma: float = -1.0
    """Keeps logits within so many standard deviations of the greatest; 0 and less are off."""
    xtc_probability: float = 0.0
    """Chance, per token, that the most probable choices are left out; 0 is off."""
    xtc_threshold: float = 0.1
    """Least probability of the choices that XTC leaves out; the least probable of them stays."""
    mirostat: int = 0
    """1 or 2 draws with that version of Mirostat instead of the truncations; 0 is off."""
    mirostat_tau: float = 5.0
    """Mirostat's target surprise, in bits."""
    mirostat_eta: float = 0.1
    """Mirostat's learning rate."""
    repeat_penalty: float = 1.0
    """Divides the logit of tokens seen lately in prompt and completion; 1 is off."""
    repeat_last_n: int = REPEAT_WINDOW_TOKENS
    """How many tokens back `repeat_penalty` looks; -1 is all of the context, 0 none."""
    dry_multiplier: float = 0.0
    """Strength of DRY, the penalty on tokens that would prolong a repetition; 0 is off."""
    dry_base: float = 1.75
    """By what DRY's penalty grows with each token of the repetition."""
    dry_allowed_length: int = 2
    """Longest repetition, in tokens, that DRY lets pass."""
    dry_penalty_last_n: int = -1
    """How many tokens back DRY looks, prompt included; -1 is all of the context, 0 none."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """Texts at which a repetition ends."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of a token that the completion has already."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token once per occurrence in the completion."""
    seed: int | None = None
    """Any integer, 0 included, makes sampling repeatable; None draws a seed."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the raw logits, by token id."""


@dataclass(frozen=True)
class SampledLogprob:
    """The model's raw log-probabilities, in nats, where one token was sampled."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most probable token ids with their log-probabilities, most probable first."""


class Sampler:
    """A sampler chain with the state of one completion.

    The order is: bias, penalties, temperature, top-k, top-p, min-p, draw. Temperature comes before
    the truncations, as in vLLM and transformers, so that equal parameters mean the same everywhere.
    """

    def __init__(
        self,
        params: SamplerParams,
        prompt_token_ids: Sequence[int],
        vocab_size: int,
        max_new_tokens: int,
    ) -> None:
        chain_params = llama_cpp.llama_sampler_chain_default_params()
        self._chain = llama_cpp.llama_sampler_chain_init(chain_params)
        if params.logit_bias:
            self._add_logit_bias(params.logit_bias, vocab_size)
        if params.repeat_penalty != 1.0:
            penalty = llama_cpp.llama_sampler_init_penalties(
                vocab_size, REPEAT_WINDOW_TOKENS, params.repeat_penalty, 0.0, 0.0
            )
            for token_id in prompt_token_ids[-REPEAT_WINDOW_TOKENS:]:
                llama_cpp.llama_sampler_accept(penalty, token_id)
            self._add(penalty)
        if params.presence_penalty or params.frequency_penalty:
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    vocab_size,
                    max_new_tokens,
                    1.0,
                    params.frequency_penalty,
                    params.presence_penalty,
                )
            )
        self._add_draw(params)

    def close(self) -> None:
        """Free the chain."""
        llama_cpp.llama_sampler_free(self._chain)

    def sample(self, context: DecodeContext, index: int) -> int:
        """Draw the token that follows the batch token at `index`, and count it as drawn."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, index))

    def _add(self, sampler: object) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def _add_logit_bias(self, biases: Mapping[int, float], vocab_size: int) -> None:
        array = (llama_cpp.llama_logit_bias * len(biases))(*biases.items())
        self._add(llama_cpp.llama_sampler_init_logit_bias(vocab_size, len(biases), array))

    def _add_draw(self, params: SamplerParams) -> None:
        if params.temperature == 0.0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if params.temperature != 1.0:
            self._add(llama_cpp.llama_sampler_init_temp(params.temperature))
        if params.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1.0:
            self._add(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0.0:
            self._add(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
        seed = secrets.randbelow(NUM_SEEDS) if params.seed is None else params.seed % NUM_SEEDS
        self._add(llama_cpp.llama_sampler_init_dist(seed))


def sampled_logprob(
    logits_V: npt.NDArray[np.float32], token_id: int, num_top: int
) -> SampledLogprob:
    """Read log-probabilities off raw logits: log p_i = z_i - log(sum_j exp(z_j)), in float64.

    Args:
        logits_V: [V] before any bias, penalty or temperature.
        token_id: The token that was sampled.
        num_top: How many of the most probable tokens to list, less than V.
    """
    shifted_V = logits_V.astype(np.float64) - logits_V.max()
    logprobs_V = shifted_V - np.log(np.exp(shifted_V).sum())
    candidates = np.argpartition(-logprobs_V, num_top)[:num_top].tolist()
    ranked = sorted(((i, float(logprobs_V[i])) for i in candidates), key=lambda pair: -pair[1])
    return SampledLogprob(token_id, float(logprobs_V[token_id]), tuple(ranked))
