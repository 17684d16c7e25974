"""From logits to a token: one chain of llama.cpp's samplers per request."""

from __future__ import annotations

import ctypes
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import llama_cpp
import numpy as np
import numpy.typing as npt

from potstill.errors import BackendError
from serve.engine.draw import LEAST_TOP_P, Draw
from serve.engine.model import GgufModel
from serve.errors import InvalidRequestError

NUM_SEEDS = 2**32 - 1
"""llama.cpp seeds are 32 bits wide, and the greatest value means "random" there."""

REPEAT_WINDOW_TOKENS = 64
"""How many tokens `repeat_penalty` looks back in prompt and completion; llama.cpp's default."""

MIROSTAT_NUM_FITTED_TOKENS = 100
"""How many of the most probable tokens the first Mirostat fits its exponent to, as in its paper and
in llama.cpp's server."""

LEAST_TEMPERATURE = 1e-6
"""Below it logits would overflow, and the most probable token is practically certain."""


@dataclass(frozen=True)
class SamplerParams:
    """How to draw a token. The defaults draw from the model's own distribution.

    Names and meanings are those of llama.cpp's server; `Sampler` documents the order.
    """

    temperature: float = 1.0
    """0 (less than 1e-6) takes the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    """Number of most probable tokens to draw from; 0 means all."""
    min_p: float = 0.0
    """Least probability of a token, as a share of the most probable one's."""
    typical_p: float = 1.0
    """Probability mass of the tokens whose surprise is nearest to the entropy; 1 is off."""
    top_n_sigma: float = -1.0
    """Keeps logits within this many standard deviations of the greatest; 0 and less are off."""
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
    """Subtracted from the logit of a token that the completion already contains."""
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


class Candidates:
    """llama.cpp's array of candidate tokens, refilled for each choice."""

    def __init__(self, vocab_size: int) -> None:
        self._ids_V = np.arange(vocab_size, dtype=np.int32)
        self._rows_V = np.zeros(
            vocab_size, [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        )
        self._data = self._rows_V.ctypes.data_as(llama_cpp.llama_token_data_p)
        self._array = llama_cpp.llama_token_data_array()

    def choose(
        self, chain: object, logits_V: npt.NDArray[np.float32], *, has_forbidden: bool
    ) -> int:
        """Return the token id that a chain of samplers chooses.

        Args:
            has_forbidden: Whether logits may be minus infinity. Such tokens are no candidates: XTC
                keeps the least probable one.

        Raises:
            InvalidRequestError: Penalties leave no token.
        """
        ids: npt.NDArray[np.integer] = self._ids_V
        count = len(logits_V)
        if has_forbidden:
            ids = np.flatnonzero(logits_V > -math.inf)
            logits_V, count = logits_V[ids], len(ids)
        self._rows_V["id"][:count] = ids
        self._rows_V["logit"][:count] = logits_V
        array = self._array
        array.data, array.size, array.selected, array.sorted = self._data, count, -1, False
        llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise InvalidRequestError(
                "the penalties leave no token that may come next", where="dry_multiplier"
            )
        return int(array.data[array.selected].id)

    def drawn(self, num_top: int) -> SampledLogprob:
        """Return the distribution that the last choice was drawn from."""
        array = self._array
        rows = np.ctypeslib.as_array(array.data, (array.size,))
        likely = rows[np.argpartition(-rows["p"], min(num_top, len(rows) - 1))[:num_top]]
        ranked = sorted(((int(r["id"]), float(r["p"])) for r in likely), key=lambda p: -p[1])
        chosen = array.data[array.selected]
        top = tuple((token_id, math.log(p)) for token_id, p in ranked if p > 0.0)
        chosen_logprob = math.log(chosen.p) if chosen.p > 0.0 else -math.inf
        return SampledLogprob(int(chosen.id), chosen_logprob, top)


class Dry:
    """DRY for the parameters of a request, to be copied for each of its choices.

    Making one takes up to two seconds, because llama.cpp compares each breaker with all tokens: do
    it beside the engine.
    """

    def __init__(self, params: SamplerParams, model: GgufModel, window: int) -> None:
        breakers = [text.encode() for text in params.dry_sequence_breakers]
        self._sampler = llama_cpp.llama_sampler_init_dry(
            model.vocab,
            params.dry_multiplier,
            params.dry_base,
            params.dry_allowed_length,
            window,
            (ctypes.c_char_p * len(breakers))(*breakers),
            len(breakers),
        )

    def __del__(self) -> None:
        llama_cpp.llama_sampler_free(self._sampler)

    @classmethod
    def of(cls, params: SamplerParams, model: GgufModel, context_tokens: int) -> Dry | None:
        """Return it for a request; None where DRY is off."""
        window = _window(params.dry_penalty_last_n, context_tokens)
        return cls(params, model, window) if params.dry_multiplier and window else None

    def copy(self) -> object:
        """Return a sampler of llama.cpp's, which the caller frees."""
        return llama_cpp.llama_sampler_clone(self._sampler)


class Sampler:
    """The choice of each token of one completion, and its state: penalties, random numbers.

    The order is: bias, grammar, penalties, DRY, temperature, top-n-sigma, top-k, typical, top-p,
    min-p, XTC, draw. Temperature comes before the truncations, as in vLLM and transformers, so that
    equal parameters mean the same everywhere. Mirostat takes the place of all after temperature.

    Args:
        context_tokens: Bounds how far back penalties may look.
        num_drawn: Number of most probable tokens in `drawn` after a choice; None leaves it empty.
        dry: What `Dry.of` returns for the parameters, if it was made before.
    """

    def __init__(
        self,
        params: SamplerParams,
        model: GgufModel,
        candidates: Candidates,
        prompt_token_ids: Sequence[int],
        *,
        context_tokens: int,
        ignore_eos: bool = False,
        num_drawn: int | None = None,
        dry: Dry | None = None,
    ) -> None:
        self.drawn: SampledLogprob | None = None
        """The distribution that the last choice was drawn from, if it was asked for."""
        self._num_drawn = num_drawn
        self._candidates = candidates
        biases = dict(params.logit_bias)
        if ignore_eos:
            biases |= dict.fromkeys(model.end_tokens, -math.inf)
        self._bias_ids = np.fromiter(biases, np.int64, len(biases))
        self._biases = np.fromiter(biases.values(), np.float32, len(biases))
        self._forbids = bool(np.isneginf(self._biases).any())
        history, fresh = _penalties(params, model, context_tokens, dry)
        self._chain: object | None = None
        self._draw: Draw | None = None
        self._is_greedy = params.temperature < LEAST_TEMPERATURE
        if self._is_greedy and not history and not fresh:
            return
        if num_drawn is None and not history and not fresh and _is_plain(params):
            self._draw = Draw(params.temperature, params.top_p, _seed(params))
            return
        for sampler, window in history:
            for token_id in prompt_token_ids[-window:]:
                llama_cpp.llama_sampler_accept(sampler, token_id)
        draw = [llama_cpp.llama_sampler_init_greedy()] if self._is_greedy else _draw(params, model)
        chain_params = llama_cpp.llama_sampler_chain_default_params()
        self._chain = llama_cpp.llama_sampler_chain_init(chain_params)
        for sampler in (*(sampler for sampler, _ in history), *fresh, *draw):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def close(self) -> None:
        """Free the chain."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def choose(
        self, logits_V: npt.NDArray[np.float32], allowed_V: npt.NDArray[np.bool_] | None = None
    ) -> int:
        """Choose the next token; call `accept` if it is used.

        Args:
            logits_V: [V] raw logits.
            allowed_V: [V] tokens to choose from; None allows all.

        Raises:
            InvalidRequestError: The biases forbid all tokens that are left.
            BackendError: The logits are not numbers.
        """
        raw_V = logits_V
        has_forbidden = self._forbids or allowed_V is not None
        if has_forbidden or len(self._bias_ids):
            logits_V = logits_V.copy()
            logits_V[self._bias_ids] += self._biases
            if allowed_V is not None:
                logits_V[~allowed_V] = -math.inf
        best = int(logits_V.argmax())
        if not math.isfinite(logits_V[best]):
            if math.isfinite(raw_V.max()):
                raise InvalidRequestError(
                    "logit_bias forbids all tokens that may come next", where="logit_bias"
                )
            raise BackendError(
                "the model's logits cannot be sampled",
                expected="finite numbers",
                found=f"{logits_V[best]} at token {best}",
                hint="the model file is damaged, or was trained or quantized into overflow",
            )
        token_id = best
        if self._draw is not None:
            token_id = self._draw.choose(logits_V, best)
        elif self._chain is not None:
            token_id = self._candidates.choose(self._chain, logits_V, has_forbidden=has_forbidden)
        if self._num_drawn is not None and self._is_greedy:
            self.drawn = SampledLogprob(token_id, 0.0, ((token_id, 0.0),))
        elif self._num_drawn is not None:
            self.drawn = self._candidates.drawn(self._num_drawn)
        return token_id

    def accept(self, token_id: int) -> None:
        """Count a token as part of the completion."""
        if self._chain is not None:
            llama_cpp.llama_sampler_accept(self._chain, token_id)


def _window(num_tokens: int, context_tokens: int) -> int:
    return context_tokens if num_tokens < 0 else min(num_tokens, context_tokens)


def _penalties(
    params: SamplerParams, model: GgufModel, context_tokens: int, dry: Dry | None
) -> tuple[list[tuple[object, int]], list[object]]:
    """Return the penalties on prompt and completion, with their windows, and on the completion."""
    history: list[tuple[object, int]] = []
    fresh: list[object] = []
    repeat_window = _window(params.repeat_last_n, context_tokens)
    if params.repeat_penalty != 1.0 and repeat_window:
        repeat = llama_cpp.llama_sampler_init_penalties(
            model.vocab_size, repeat_window, params.repeat_penalty, 0.0, 0.0
        )
        history.append((repeat, repeat_window))
    if params.presence_penalty or params.frequency_penalty:
        fresh.append(
            llama_cpp.llama_sampler_init_penalties(
                model.vocab_size,
                context_tokens,
                1.0,
                params.frequency_penalty,
                params.presence_penalty,
            )
        )
    if (dry := dry or Dry.of(params, model, context_tokens)) is not None:
        history.append((dry.copy(), _window(params.dry_penalty_last_n, context_tokens)))
    return history, fresh


def _is_plain(params: SamplerParams) -> bool:
    """Return whether only temperature and top-p decide among the biased logits."""
    return not (
        params.top_p < LEAST_TOP_P
        or params.mirostat
        or params.top_k > 0
        or params.min_p > 0.0
        or params.typical_p < 1.0
        or params.top_n_sigma > 0.0
        or params.xtc_probability > 0.0
    )


def _seed(params: SamplerParams) -> int:
    return secrets.randbelow(NUM_SEEDS) if params.seed is None else params.seed % NUM_SEEDS


def _draw(params: SamplerParams, model: GgufModel) -> list[object]:
    """Return the samplers that choose among the penalized logits at random."""
    seed = _seed(params)
    chain = []
    if params.temperature != 1.0:
        chain.append(llama_cpp.llama_sampler_init_temp(params.temperature))
    if params.mirostat == 1:
        mirostat = llama_cpp.llama_sampler_init_mirostat(
            model.vocab_size,
            seed,
            params.mirostat_tau,
            params.mirostat_eta,
            MIROSTAT_NUM_FITTED_TOKENS,
        )
        return [*chain, mirostat]
    if params.mirostat == 2:
        tau, eta = params.mirostat_tau, params.mirostat_eta
        return [*chain, llama_cpp.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    if params.top_n_sigma > 0.0:
        chain.append(llama_cpp.llama_sampler_init_top_n_sigma(params.top_n_sigma))
    if params.top_k > 0:
        chain.append(llama_cpp.llama_sampler_init_top_k(params.top_k))
    if params.typical_p < 1.0:
        chain.append(llama_cpp.llama_sampler_init_typical(params.typical_p, 1))
    if params.top_p < 1.0:
        chain.append(llama_cpp.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0.0:
        chain.append(llama_cpp.llama_sampler_init_min_p(params.min_p, 1))
    if params.xtc_probability > 0.0:
        chain.append(
            llama_cpp.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 1, seed)
        )
    return [*chain, llama_cpp.llama_sampler_init_dist(seed)]


def sampled_logprob(
    logits_V: npt.NDArray[np.float32], token_id: int, num_top: int
) -> SampledLogprob:
    """Return log-probabilities from raw logits: log p_i = z_i - log(sum_j exp(z_j)), in float64.

    Args:
        logits_V: [V] before any bias, penalty or temperature.
        token_id: The token that was sampled.
        num_top: How many of the most probable tokens to list, less than V.
    """
    greatest = float(logits_V.max())
    log_sum = greatest + math.log(np.exp(np.subtract(logits_V, greatest, dtype=np.float64)).sum())
    candidates_K = np.argpartition(logits_V, -num_top)[len(logits_V) - num_top :].tolist()
    ranked = sorted(((i, float(logits_V[i]) - log_sum) for i in candidates_K), key=lambda p: -p[1])
    return SampledLogprob(token_id, float(logits_V[token_id]) - log_sum, tuple(ranked))
