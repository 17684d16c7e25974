"""The teacher of the on-policy phase on a server, outside the trainer's memory.

In: token ids of the student's answers. Out: the teacher's most probable tokens at each of them.

Shape legend: T tokens of all answers, K top-k.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import torch

from potstill.api_keys import read_api_key
from potstill.distributions import TokenDistributions
from potstill.errors import TrainingError, first_line
from potstill.token_scores import (
    PATH,
    UnusableAnswerError,
    only_choice,
    read_distributions,
    score_body,
)
from train.config import ServedTeacherConfig
from train.losses.chunked import Targets

WRONG_SHAPE = (LookupError, TypeError, ValueError, AttributeError)
"""Errors of reading an answer that is not one of vLLM's."""
PROBE = [0, 1]
"""Token ids that every vocabulary has."""


class ServedTeacher:
    """A server that gives log-probabilities of token ids, such as vLLM.

    Raises:
        ConfigError: The variable that should hold the key is not set.
    """

    def __init__(self, config: ServedTeacherConfig) -> None:
        self._config = config
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=read_api_key(config.api_key_variable),
            max_retries=config.max_retries,
            timeout=config.timeout_seconds,
        )

    def check(self) -> None:
        """Score a short text, so that a server that cannot is found before training.

        Raises:
            TrainingError: The server cannot be reached, or does not score token ids.
        """
        self.distributions(PROBE, 1)

    def distributions(self, token_ids: Sequence[int], start: int) -> TokenDistributions:
        """Return the distributions that predict tokens, from `start` on.

        Raises:
            TrainingError: The server cannot be reached, or does not score token ids.
        """
        top_logprobs = self._config.top_logprobs
        body = score_body(self._config.model, token_ids, top_logprobs)
        try:
            answer: Any = self._client.post(PATH, body=body, cast_to=object)
            return read_distributions(only_choice(answer), token_ids, start, top_logprobs)
        except (openai.OpenAIError, UnusableAnswerError, *WRONG_SHAPE) as error:
            raise TrainingError(
                "the teacher's server does not score the student's answers",
                where=f"train.on_policy.teacher.base_url = {self._config.base_url}",
                expected=f"log-probabilities of token ids from {PATH} with echo",
                found=first_line(error),
                hint="serve the teacher with vLLM and --max-logprobs "
                f"{top_logprobs}, then run the same command again",
            ) from error

    def targets(self, answers: Sequence[tuple[Sequence[int], int]], num_rows: int) -> Targets:
        """Return the teacher's signal along answers, one after another.

        Args:
            answers: Token ids of prompt and answer, and where the answer begins.
            num_rows: Of the student's vocabulary; the teacher's rows beyond it are padding.

        Raises:
            TrainingError: As `distributions`.
        """
        with ThreadPoolExecutor(self._config.max_concurrency) as pool:
            scored = list(pool.map(lambda one: self.distributions(*one), answers))
        signal = TokenDistributions.concatenate(scored)
        top_token_ids_TK, top_logprobs_TK = signal.padded()
        top_token_ids_TK[top_token_ids_TK >= num_rows] = -1
        token_ids = np.concatenate([np.asarray(ids[start:]) for ids, start in answers])
        return Targets(
            token_ids_T=torch.as_tensor(token_ids).long(),
            sampled_logprobs_T=torch.as_tensor(signal.sampled_logprobs_T),
            top_token_ids_TK=torch.as_tensor(top_token_ids_TK).long(),
            top_logprobs_TK=torch.as_tensor(top_logprobs_TK),
        )
