"""Requests to one server, with retries by the `openai` client and a budget.

Anthropic's API differs in headers and bodies alone: its own client is made by the same generator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import httpx2
import openai

from generate.teachers.endpoint.budget import Budget
from generate.teachers.endpoint.config import EndpointConfig
from potstill.api_keys import read_api_key
from potstill.errors import PotstillError, TeacherError

CONNECT_SECONDS = 15.0
"""Longest wait for a connection, in seconds, much shorter than for an answer."""
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
OVERLOADED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)
"""Errors that do not depend on the request, after the client's retries."""
HOPELESS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""Errors that every further request would raise too."""

ANTHROPIC_VERSION = "2023-06-01"
"""Version of Anthropic's API, which every request names."""

_worst_cost: ContextVar[float] = ContextVar("worst_cost", default=0.0)


class WebPageError(Exception):
    """An answer that is a web page: the address is not that of an API."""


class _Client(openai.DefaultAsyncHttpxClient):
    """Counts attempts whose answer was lost as paid: the server may have produced it."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401
        try:
            return await super().send(request, **options)
        except NEVER_SENT:
            raise
        except httpx2.TransportError as error:
            if not self._budget.lose(_worst_cost.get()):
                # The client does not retry after an error of its own kind.
                raise openai.OpenAIError("the cost cap allows no further attempt") from error
            raise


class EndpointApi:
    """A server, used from within one event loop.

    Raises:
        ConfigError: The environment variable of the key is not set.
    """

    def __init__(self, config: EndpointConfig, budget: Budget) -> None:
        self.config = config
        self.budget = budget
        key = read_api_key(config.api_key_variable)
        self._headers = _anthropic_headers(key) if config.api == "anthropic" else {}
        self._client = openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=key,
            timeout=httpx2.Timeout(config.timeout_seconds, connect=CONNECT_SECONDS),
            max_retries=config.max_retries,
            http_client=_Client(budget),
        )

    async def post(
        self, path: str, make_body: Callable[[], dict[str, Any]], *, worst: float
    ) -> Any:  # noqa: ANN401  (JSON of somebody else's)
        """Send a request and return its answer's JSON; None if the answer is not JSON.

        Args:
            path: Below the base URL.
            make_body: Returns the request's JSON.
            worst: Highest cost; reserved in the budget by the caller, released here.

        Raises:
            OpenAIError: There is no answer, or it is an error.
            WebPageError: It is a web page.
        """
        _worst_cost.set(worst)
        cost = 0.0
        try:
            body = make_body()
            cost = worst  # until the usage is known
            try:
                answer = await self._client.post(
                    path, cast_to=object, body=body, options={"headers": self._headers}
                )
            except ValueError:  # The body of an answer that calls itself JSON.
                answer = None
            if _is_page(answer):
                cost = 0.0
                raise WebPageError("the answer is a web page")
            cost = self._cost(answer, worst)
        except openai.OpenAIError:
            cost = 0.0  # `_Client` counts lost attempts
            raise
        finally:
            self.budget.settle(worst, cost)
        return answer

    async def model_names(self) -> list[str] | None:
        """Return the names of the served models; None if the server does not list them."""
        try:
            models = self._client.models.list(extra_headers=self._headers)
            return [model.id async for model in models]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def why(self, error: openai.OpenAIError) -> str:
        """Return the reason for a missing answer, without text that may quote the prompt."""
        if isinstance(error, openai.APITimeoutError):
            return f"no answer within {self.config.timeout_seconds:g} s"
        if isinstance(error, openai.APIConnectionError):
            return f"no connection: {type(error.__cause__ or error).__name__}"
        if isinstance(error, openai.APIStatusError):
            named = error.code and not str(error.code).isdigit()
            detail = error.code if named else error.type
            return " ".join(filter(None, [f"HTTP {error.status_code}", detail]))
        return str(error)

    async def explain(self, error: openai.OpenAIError) -> PotstillError:
        """Return the error to raise for one that ends the work."""
        where = self.config.base_url
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return TeacherError(
                "the teacher's server refuses the key",
                where=where,
                found=self.why(error),
                hint="name the environment variable with the right key as api_key_variable",
            )
        names = None
        if isinstance(error, openai.APIStatusError):
            names = await self.model_names()
        if names is not None and self.config.model not in names:
            return TeacherError(
                f"the teacher's server has no model {self.config.model!r}",
                where=where,
                expected=" | ".join(names),
            )
        refused = isinstance(error, openai.APIStatusError)
        return TeacherError(
            f"the teacher's server {'answers with an error' if refused else 'does not answer'}",
            where=where,
            found=self.why(error),
            hint="check that the server runs, and that base_url ends as its documentation says, "
            "mostly in /v1",
        )

    def no_api(self) -> TeacherError:
        """Return the error to raise for an answer that is a web page."""
        return TeacherError(
            "the teacher's server answers with a web page instead of JSON",
            where=self.config.base_url,
            expected="the address of an API",
            found="HTML",
            hint="check that base_url ends as the API's documentation says, mostly in /v1",
        )

    def _cost(self, answer: Any, worst: float) -> float:  # noqa: ANN401
        try:
            return self.budget.cost(*_usage(answer["usage"]))
        except (LookupError, TypeError, ValueError):
            return worst


def _usage(usage: Any) -> tuple[int, int]:  # noqa: ANN401  (JSON of somebody else's)
    """Return the tokens of prompt and completion; of Anthropic's, cached ones at the full price."""
    if "prompt_tokens" in usage:
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    cached = (usage.get(f"cache_{kind}_input_tokens") or 0 for kind in ("creation", "read"))
    return int(usage["input_tokens"]) + sum(cached), int(usage["output_tokens"])


def _anthropic_headers(key: str) -> dict[str, Any]:
    return {
        "x-api-key": key,
        "anthropic-version": ANTHROPIC_VERSION,
        "Authorization": openai.Omit(),
    }


def _is_page(answer: Any) -> bool:  # noqa: ANN401
    """Return whether an answer is text that begins as HTML does."""
    return isinstance(answer, str) and answer.lstrip()[:14].lower().startswith(
        ("<!doctype", "<html")
    )
