"""A server's log-probabilities of given token ids: vLLM's `/completions`, which echoes the prompt.

In: token ids. Out: JSON bodies of requests; from JSON answers, distributions.

Source: `CompletionRequest` and `OpenAIServingCompletion._create_completion_logprobs` of
vllm/entrypoints/openai/completion (0.32).

Shape legend: T token, K top-k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from potstill.distributions import TokenDistributions

PATH = "/completions"
TOKEN_ID_PREFIX = "token_id:"


class UnusableAnswerError(Exception):
    """A server's answer that cannot be used; the message has no text of it."""


def token_ids_body(model: str, token_ids: Sequence[int]) -> dict[str, Any]:
    """Return the part of a request's JSON that makes the server take and return token ids."""
    return {
        "model": model,
        "prompt": list(token_ids),
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def score_body(model: str, token_ids: Sequence[int], top_logprobs: int) -> dict[str, Any]:
    """Return the JSON of a request for the log-probabilities of the prompt itself."""
    settings = {"echo": True, "max_tokens": 0, "temperature": 1.0, "logprobs": top_logprobs}
    return token_ids_body(model, token_ids) | settings


def only_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the choice of an answer that must have one."""
    (choice,) = answer["choices"]
    return choice  # type: ignore[no-any-return]


def read_distributions(
    choice: Mapping[str, Any], token_ids: Sequence[int], start: int, top_logprobs: int
) -> TokenDistributions:
    """Return the distributions that predict tokens, from `start` on.

    Args:
        choice: Of an answer, which must be about `token_ids`.

    Raises:
        UnusableAnswerError: There are no log-probabilities, or those of other tokens.
    """
    logprobs = choice.get("logprobs")
    if logprobs is None:
        raise UnusableAnswerError("the server returns no log-probabilities")
    if list(map(_token_id, logprobs["tokens"])) != list(token_ids):
        raise UnusableAnswerError("log-probabilities and token ids do not match")
    rows = [
        {_token_id(token): float(logprob) for token, logprob in row.items()}
        for row in logprobs["top_logprobs"][start:]
    ]
    return sorted_distributions(logprobs["token_logprobs"][start:], rows, top_logprobs)


def sorted_distributions(
    sampled_logprobs: Sequence[float], rows: Sequence[Mapping[int, float]], top_logprobs: int
) -> TokenDistributions:
    """Sort each row by probability and cut it to the top k: servers put the sampled token first."""
    shape = len(rows), top_logprobs
    token_ids_TK = np.full(shape, -1, np.int32)
    logprobs_TK = np.full(shape, -np.inf, np.float32)
    for index, row in enumerate(rows):
        best = sorted(row.items(), key=itemgetter(1), reverse=True)[:top_logprobs]
        token_ids_TK[index, : len(best)] = [token_id for token_id, _ in best]
        logprobs_TK[index, : len(best)] = [logprob for _, logprob in best]
    sampled_logprobs_T = np.asarray(sampled_logprobs, np.float32)
    return TokenDistributions.from_padded(token_ids_TK, logprobs_TK, sampled_logprobs_T)


def _token_id(token: str) -> int:
    """Parse vLLM's `token_id:17`."""
    if not token.startswith(TOKEN_ID_PREFIX):
        raise UnusableAnswerError("the server writes tokens as text, not as ids")
    return int(token.removeprefix(TOKEN_ID_PREFIX))
