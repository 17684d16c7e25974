"""The teacher behind an API: an OpenAI-compatible server with log-probabilities, or text alone.

In: token ids and sampling parameters, with the messages they come from for servers that do not
accept ids. Out: exact token ids with log-probabilities, as answers arrive; of a server that gives
text alone, that text and its tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import openai

from generate.teachers.end_tokens import read_end_token_ids
from generate.teachers.endpoint.api import HOPELESS, OVERLOADED, EndpointApi, WebPageError
from generate.teachers.endpoint.budget import Budget
from generate.teachers.endpoint.config import EndpointConfig
from generate.teachers.endpoint.dialects import TokenIdDialect
from generate.teachers.endpoint.loop_thread import LoopThread
from generate.teachers.endpoint.probe import WRONG_SHAPE, LogprobsMode, check_top_logprobs, probe
from generate.teachers.endpoint.text_dialects import TextDialect
from generate.teachers.protocol import (
    Failure,
    Requests,
    Sample,
    SampleRequest,
    ScoreRequest,
    ScoreRequests,
)
from potstill.chat import with_thinking
from potstill.errors import PotstillError, TeacherError, first_line
from potstill.thinking import SWITCHES
from potstill.token_scores import UnusableAnswerError

logger = logging.getLogger(__name__)

UNANSWERED_ROUNDS = 2
"""Number of successive failures, as a multiple of `max_concurrency`, after which the server counts
as down: otherwise an outage would fail every request."""


class EndpointTeacher:
    """A teacher on a server. One iterator at a time.

    Args:
        tokenizer: The teacher's, with a chat template.
        end_token_ids: Token ids that end a completion.
        thinks: How the switch of the tokenizer's chat template is set, for servers that render
            messages themselves; None leaves it as it is.

    Raises:
        ConfigError: The variable that should hold the key is not set.
        TeacherError: The server cannot be reached, or does not return log-probabilities with exact
            tokens.
    """

    def __init__(
        self,
        config: EndpointConfig,
        tokenizer: Any,  # noqa: ANN401
        end_token_ids: frozenset[int],
        *,
        thinks: bool | None = None,
    ) -> None:
        self.tokenizer: Any = tokenizer
        self.end_token_ids = end_token_ids
        self.max_num_seqs = config.max_concurrency
        self._config = config
        self._budget = Budget(config)
        self._num_unanswered = 0
        self._checked_top_logprobs: set[int] = set()
        self._api = EndpointApi(config, self._budget)
        self._loop = LoopThread("endpoint teacher")
        try:
            more = (
                {} if thinks is None else {"chat_template_kwargs": dict.fromkeys(SWITCHES, thinks)}
            )
            self._server = self._loop.run(probe(self._api, tokenizer, end_token_ids, more))
        except BaseException:
            self.close()
            raise
        dialect = self._server.dialect
        if isinstance(dialect, TextDialect) and not dialect.sampled_by:
            logger.warning(
                "%s takes no sampling parameters: temperature and top-p are its own", config.model
            )

    @property
    def logprobs_mode(self) -> LogprobsMode:
        """Whether log-probabilities are those before temperature and top-p, by measurement."""
        return self._server.logprobs_mode

    @property
    def spent(self) -> float:
        """Cost of this teacher's requests so far, in the configuration's currency."""
        return self._budget.spent

    def facts(self) -> dict[str, Any]:
        """Return the facts for the manifest.

        They contain neither the address nor the kind of requests: a resumed run may find the same
        model on another server.
        """
        return {"served_as": self._config.model, "logprobs_mode": self.logprobs_mode}

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions; yield each as soon as it has arrived.

        Closing the iterator cancels the requests in flight.

        Args:
            next_requests: The source of requests.
            top_logprobs: Number of log-probabilities per position; None for none.

        Raises:
            TeacherError: The server refuses requests or no longer responds; it gives fewer
                log-probabilities, or not those before temperature and top-p; the cost cap is
                reached.
        """
        dialect = self._server.dialect
        if top_logprobs is not None and self.logprobs_mode != "none":
            self._check_top_logprobs(top_logprobs)

        def worst(request: SampleRequest) -> float:
            num_prompt = dialect.worst_prompt_tokens(request)
            return self._budget.cost(num_prompt, request.sampling.max_tokens)

        def admit(request: SampleRequest) -> bool:
            self._check_mode(request, top_logprobs)
            return self._budget.hold(worst(request))

        def draw(request: SampleRequest) -> Coroutine[Any, Any, Sample | Failure]:
            return self._answer(
                request.request_id,
                dialect.path,
                lambda: dialect.body(request, top_logprobs),
                lambda answer: dialect.read(answer, request, top_logprobs),
                worst=worst(request),
            )

        return self._loop.results(
            next_requests,
            draw,
            max_in_flight=self.max_num_seqs,
            admit=admit,
            refused=self._cap_reached,
        )

    def score(
        self, next_requests: ScoreRequests, *, top_logprobs: int
    ) -> Iterator[Sample | Failure]:
        """Return the distributions that predict the tokens of given texts.

        Raises:
            TeacherError: As for `sample`, or the server cannot score token ids.
        """
        dialect = self._server.dialect
        if not isinstance(dialect, TokenIdDialect):
            raise TeacherError(
                "the teacher's server cannot score text",
                where=self._config.base_url,
                expected="a server that takes and returns token ids, such as vLLM",
                found=f"its {dialect.path} only",
            )
        self._check_top_logprobs(top_logprobs)

        def worst(request: ScoreRequest) -> float:
            return self._budget.cost(len(request.token_ids), 1)

        def score(request: ScoreRequest) -> Coroutine[Any, Any, Sample | Failure]:
            return self._answer(
                request.request_id,
                dialect.path,
                lambda: dialect.score_body(request, top_logprobs),
                lambda answer: dialect.read_score(answer, request, top_logprobs),
                worst=worst(request),
            )

        return self._loop.results(
            next_requests,
            score,
            max_in_flight=self.max_num_seqs,
            admit=lambda request: self._budget.hold(worst(request)),
            refused=self._cap_reached,
        )

    def close(self) -> None:
        """Close the connections and end the thread."""
        if not self._loop.closed:
            self._loop.run(self._api.close())
            self._loop.close()

    async def _answer(
        self,
        request_id: str,
        path: str,
        make_body: Callable[[], dict[str, Any]],
        read: Callable[[Mapping[str, Any]], Sample],
        *,
        worst: float,
    ) -> Sample | Failure:
        try:
            answer = await self._api.post(path, make_body, worst=worst)
        except UnusableAnswerError as error:
            return Failure(request_id, str(error))
        except HOPELESS as error:
            raise await self._api.explain(error) from error
        except WebPageError as error:
            if self._is_down():
                raise self._api.no_api() from error
            return Failure(request_id, str(error))
        except OVERLOADED as error:
            if self._is_down():
                raise await self._api.explain(error) from error
            return Failure(request_id, self._api.why(error))
        except openai.OpenAIError as error:
            return Failure(request_id, self._api.why(error))
        self._num_unanswered = 0
        return self._read(request_id, answer, read)

    def _read(
        self,
        request_id: str,
        answer: Any,  # noqa: ANN401
        read: Callable[[Any], Sample],
    ) -> Sample | Failure:
        try:
            return read(answer)
        except UnusableAnswerError as error:
            return Failure(request_id, str(error))
        except PotstillError:
            raise
        except WRONG_SHAPE as error:
            name = self._config.api_name
            return Failure(request_id, f"not an answer in {name}'s format: {type(error).__name__}")

    def _is_down(self) -> bool:
        """Count a request without an answer; return whether the server counts as down."""
        self._num_unanswered += 1
        return self._num_unanswered >= UNANSWERED_ROUNDS * self.max_num_seqs

    def _check_top_logprobs(self, top_logprobs: int) -> None:
        if top_logprobs not in self._checked_top_logprobs:
            self._loop.run(check_top_logprobs(self._api, self._server, top_logprobs))
            self._checked_top_logprobs.add(top_logprobs)

    def _check_mode(self, request: SampleRequest, top_logprobs: int | None) -> None:
        """Raise if processed log-probabilities would pass for the teacher's own."""
        plain = request.sampling.temperature == 1.0 and request.sampling.top_p == 1.0
        is_own = self.logprobs_mode in ("raw_logprobs", "none")
        if top_logprobs is not None and not plain and not is_own:
            raise TeacherError(
                "the server's log-probabilities are not known to be the teacher's own",
                where=self._config.base_url,
                expected="log-probabilities before temperature and top-p",
                found=self.logprobs_mode,
                hint="sample at temperature 1 and top_p 1, or start vLLM with "
                "--logprobs-mode raw_logprobs",
            )

    def _cap_reached(self) -> TeacherError:
        return TeacherError(
            "the cost cap is reached",
            where="max_cost",
            expected=f"at most {self._budget.cap:g}",
            found=f"{self.spent:.6g} spent, and the next request could cost more than is left",
            hint="raise max_cost and run again: finished conversations are kept",
        )


def connect(
    config: EndpointConfig, teacher_dir: Path, *, thinks: bool | None = None
) -> EndpointTeacher:
    """Load a served model's tokenizer and probe its server.

    Args:
        teacher_dir: The teacher's checkpoint; weights are not needed. Token ids are stored, and
            only its own tokenizer and chat template make the right ones. Of a server that gives
            text alone, the student's.
        thinks: How to set the switch of its chat template; None leaves it as it is.

    Raises:
        ConfigError: The variable that should hold the key is not set.
        TeacherError: The tokenizer cannot be loaded, or the server cannot teach.
    """
    from transformers import AutoTokenizer

    name = config.tokenizer or str(teacher_dir)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # The tokenizers library raises no narrower one.
        raise TeacherError(
            "the teacher's tokenizer cannot be loaded",
            where=name,
            found=first_line(error),
            hint="name a checkpoint directory, or a model on the Hugging Face hub",
        ) from error
    if tokenizer.chat_template is None:
        raise TeacherError("the teacher's tokenizer has no chat template", where=name)
    tokenizer = with_thinking(tokenizer, thinks)
    end_token_ids = read_end_token_ids(name, tokenizer)
    return EndpointTeacher(config, tokenizer, end_token_ids, thinks=thinks)
