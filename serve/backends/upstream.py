"""A model of another server with OpenAI's API: requests are forwarded under its name there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import httpx2
import openai

from potstill.api_keys import NO_KEY, read_api_key
from potstill.errors import BackendUnavailableError, ContextLengthError, PotstillError
from potstill.json_text import parse_json
from serve.backends.bounded_answers import UnusableAnswerError, bounded_client
from serve.backends.config import UpstreamConfig
from serve.backends.foreign_answers import PIECE, WHOLE
from serve.backends.places import Place, Places, Room
from serve.backends.protocol import Caller
from serve.chat.task import ServedTask
from serve.errors import (
    InvalidRequestError,
    QueueFullError,
    RequestTimeoutError,
    UnsupportedParameterError,
    UpstreamError,
)
from serve.keys import Reservation
from serve.metrics import Metrics, Stopwatch
from serve.wire.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from serve.wire.chunks import thinking_in
from serve.wire.completions import Completion, CompletionRequest
from serve.wire.embeddings import EmbeddingList, EmbeddingRequest
from serve.wire.models import ModelCard, model_card
from serve.wire.shared import JsonObject

Answer = TypeVar("Answer")
Chunk = TypeVar("Chunk")

OPENAIS_OWN_HEADERS = ("OpenAI-Organization", "OpenAI-Project")
"""The client takes them from the environment; other servers must not get them."""
REFUSED = frozenset({400, 413, 422})
"""Statuses of an invalid request. For a prompt that is too long, OpenAI sends a code of its own,
and vLLM a `param`."""
UNABLE = frozenset({404, 405, 501})
"""Statuses that, without an error in OpenAI's shape, mean that the route does not exist."""
BUSY = frozenset({502, 503, 504})
CHARACTERS_PER_TOKEN = 4
PROMPT_PARTS = ("messages", "prompt", "input", "tools", "response_format", "chat_template_kwargs")
"""Parameters that servers write into the prompt."""
MAX_MESSAGE_CHARACTERS = 1000
"""How much of the server's error message a client gets."""
TEMPLATE_ARGUMENTS = frozenset(
    {"add_generation_prompt", "chat_template", "continue_final_message", "conversation"}
    | {"documents", "messages", "tokenize", "tools"}
)
"""What some servers take from `chat_template_kwargs` and is no variable of the template."""
PIECES_PER_TURN = 32
"""Pieces of a stream after which others have their turn: a fast server's are all there already."""


class UpstreamBackend:
    """One name of a model on another server, which need not be running yet.

    Args:
        task: Instructions, tools and schema for chats that leave them out.
        api_key: The server's key. None: as `api_key_variable` says.
        max_queue: Choices that may wait, besides those in progress there.
        has_owners: True where requests come from several keys, none of which may take all; it may
            change.

    Raises:
        ConfigError: The variable with the server's key is not set.
    """

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        metrics: Metrics,
        *,
        task: ServedTask | None = None,
        api_key: str | None = None,
        max_queue: int = 64,
        has_owners: object = False,
    ) -> None:
        self.name = name
        self._context_tokens = config.context_tokens
        self.places = Places(Room(config.max_parallel, max_queue, has_owners))
        self._task = task and task.without_grammars()
        self._model = config.model or name
        self._parameters = frozenset(config.parameters)
        self._metrics = metrics.time(name)
        self._created = int(time.time())
        self._client = _client(config, api_key or read_api_key(config.api_key_variable))
        self.is_ready = False

    @property
    def card(self) -> ModelCard:
        """The model as OpenAI lists it."""
        card = model_card(self.name, self._created, owned_by="upstream")
        return card if self._task is None else {**card, "task": self._task.card}

    async def start(self) -> None:
        """Accept requests; whether the server does shows with each of them."""
        self.is_ready = True

    async def stop(self) -> None:
        """Close the connections; unfinished answers fail."""
        self.is_ready = False
        await self._client.close()

    async def chat(
        self, request: ChatRequest, caller: Caller
    ) -> UpstreamReply[ChatCompletion, ChatCompletionChunk]:
        """Forward a chat.

        Raises:
            InvalidRequestError: A value cannot be used, here or by the server.
            BackendError: The server is unavailable, busy or broken.
        """
        if self._task is not None:
            request = self._task.applied(request)
        request.check()
        if taken := TEMPLATE_ARGUMENTS & (request.chat_template_kwargs or {}).keys():
            raise InvalidRequestError(
                "chat_template_kwargs must not set variables that the server sets",
                where=min(taken),
            )
        return await self._ask("/chat/completions", request, caller)

    async def complete_text(
        self, request: CompletionRequest, caller: Caller
    ) -> UpstreamReply[Completion, Completion]:
        """Forward a request for text without a template; raises as `chat` does."""
        request.check()
        return await self._ask("/completions", request, caller)

    async def embed(self, request: EmbeddingRequest, caller: Caller) -> EmbeddingList:
        """Forward texts to embed; raises as `chat` does."""
        body = self._body(request)
        reservation = caller.reserve(_prompt_tokens(body))
        with reservation.given_back_on_error():
            place = await self.places.take(caller.owner)
        try:
            with reservation.given_back_on_refusal():
                answer = await self.post("/embeddings", body)
        finally:
            self.places.leave(place)
        reservation.settle(_num_tokens(answer) or _prompt_tokens(body))
        return cast(EmbeddingList, answer)

    async def post(self, path: str, body: JsonObject) -> JsonObject:
        """Return the whole answer to a body, under the model's name here."""
        with self._translated():
            response = await self._client.post(path, cast_to=httpx2.Response, body=body)
            answer = parse_json(response.text)
        return WHOLE[path](answer) | {"model": self.name}

    async def stream(self, path: str, body: JsonObject) -> openai.AsyncStream[object]:
        """Return the stream of an answer once it has begun."""
        with self._translated():
            return await self._client.post(
                path, cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
            )

    async def pieces(
        self, path: str, stream: openai.AsyncStream[object]
    ) -> AsyncIterator[JsonObject]:
        """Yield the chunks of an answer, under the model's name here."""
        unfinished: set[int] = set()
        num_pieces = 0
        with self._translated():
            async for piece in stream:
                renamed = PIECE[path](piece) | {"model": self.name}
                choices = renamed["choices"]
                ended = {one["index"] for one in choices if one["finish_reason"]}
                unfinished |= {one["index"] for one in choices}
                unfinished -= ended
                yield renamed
                num_pieces += 1
                if num_pieces % PIECES_PER_TURN == 0:
                    await asyncio.sleep(0)
        if unfinished:
            raise UpstreamError(
                "the model's server ended its answer before it was complete", where="model"
            )

    async def _ask(
        self, path: str, request: ChatRequest | CompletionRequest, caller: Caller
    ) -> UpstreamReply[Any, Any]:
        body = self._body(request)
        if body.get("max_tokens") == -1 or body.get("max_completion_tokens") is not None:
            # The other name takes precedence; not every server has it so.
            body.pop("max_tokens", None)
        # Other servers refuse the options of a stream without one.
        options = body.pop("stream_options", None) or {}
        if request.stream:
            body["stream_options"] = {**options, "include_usage": True}
        stream = None
        stopwatch = self._metrics.start()
        num_choices = max(body.get("n") or 1, body.get("best_of") or 1)
        if isinstance(request, CompletionRequest):
            num_choices *= len(request.prompts)
        reservation = caller.reserve(self._most_tokens(request, body, num_choices))
        with reservation.given_back_on_error():
            place = await self.places.take(caller.owner, num_choices)
        if request.stream:
            # A refusal is then raised here, and not in the middle of an answer.
            try:
                with reservation.given_back_on_refusal():
                    stream = await self.stream(path, body)
            except BaseException as error:
                self.places.leave(place)
                if not isinstance(error, PotstillError):
                    # The client has left; the server reads the prompt all the same.
                    reservation.settle(_prompt_tokens(body))
                raise
        return UpstreamReply(self, path, body, reservation, stopwatch, place, stream)

    def _most_tokens(
        self, request: ChatRequest | CompletionRequest, body: JsonObject, num_choices: int
    ) -> int:
        """Estimate the most tokens that an answer may use, prompt included."""
        num_prompt = _prompt_tokens(body)
        limit = request.max_new_tokens
        room = max(0, self._context_tokens - num_prompt)
        return num_prompt + num_choices * (room if limit is None else limit)

    def _body(self, request: ChatRequest | CompletionRequest | EmbeddingRequest) -> JsonObject:
        unknown = (request.model_extra or {}).keys() - self._parameters
        given = request.model_dump(
            mode="json", by_alias=True, exclude_unset=True, exclude=set(unknown)
        )
        return given | {"model": self._model}

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise the client's exceptions as this server's errors."""
        try:
            yield
        except openai.APITimeoutError as error:
            raise RequestTimeoutError(
                "the model's server did not answer in time", where="model"
            ) from error
        except openai.APIConnectionError as error:
            raise BackendUnavailableError(
                "the model's server cannot be reached", where="model", hint="try again later"
            ) from error
        except openai.APIStatusError as error:
            raise _refusal(error, self._client.api_key) from error
        except UnusableAnswerError as error:
            raise UpstreamError(
                "the answer of the model's server cannot be used", where="model", found=error
            ) from error
        except (openai.APIError, ValueError, RecursionError) as error:
            raise UpstreamError("the model's server has failed", where="model") from error


@dataclass
class UpstreamReply(Generic[Answer, Chunk]):
    """A reply of the other server, to `body`; `open_stream` where it is streamed."""

    backend: UpstreamBackend
    path: str
    body: JsonObject
    reservation: Reservation
    stopwatch: Stopwatch
    place: Place
    open_stream: openai.AsyncStream[object] | None = None
    head: JsonObject = field(init=False)
    """Of its own: another server may give all of its answers the same id."""
    _closing: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        """Give the answer an id."""
        kind = "chatcmpl" if self.path == "/chat/completions" else "cmpl"
        self.head = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time())}

    async def complete(self) -> Answer:
        """Wait for the whole answer; raises as `UpstreamBackend.chat` does."""
        try:
            with self.reservation.given_back_on_refusal():
                answer = await self.backend.post(self.path, self.body)
        finally:
            self.backend.places.leave(self.place)
        self.stopwatch.stop()
        num_written = sum(map(_written_tokens, answer["choices"]))
        # Not every server says what it used.
        self.reservation.settle(_num_tokens(answer) or _prompt_tokens(self.body) + num_written)
        return cast(Answer, answer | self.head)

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield the answer as it is generated; raises as `UpstreamBackend.chat` does."""
        if self.open_stream is None:
            raise RuntimeError("the request does not ask for a stream")
        # The server reads the prompt, also of an answer that is cut off before its usage comes.
        num_tokens = _prompt_tokens(self.body)
        try:
            async for piece in self.backend.pieces(self.path, self.open_stream):
                for choice in piece["choices"]:
                    num_new = _written_tokens(choice)
                    self.stopwatch.tick(choice["index"], int(num_new > 0))
                    num_tokens += num_new
                num_tokens = _num_tokens(piece) or num_tokens
                yield cast(Chunk, piece | self.head)
            self.stopwatch.stop()
        finally:
            self.backend.places.leave(self.place)
            self.reservation.settle(num_tokens)

    def cancel(self) -> None:
        """Close the connection, on which the server stops too."""
        self.backend.places.leave(self.place)
        if self.open_stream is not None and not self.open_stream.response.is_closed:
            self._closing = asyncio.ensure_future(self.open_stream.close())


def _client(config: UpstreamConfig, api_key: str) -> openai.AsyncOpenAI:
    timeout = httpx2.Timeout(config.read_timeout_seconds, connect=config.connect_timeout_seconds)
    headers = dict.fromkeys(OPENAIS_OWN_HEADERS, cast(str, openai.omit))
    return openai.AsyncOpenAI(
        base_url=config.base_url,
        api_key=api_key,
        default_headers=headers | {"Accept-Encoding": "identity"},
        http_client=bounded_client(config.max_answer_bytes, timeout=timeout),
        max_retries=config.max_retries,
    )


def _refusal(error: openai.APIStatusError, key: str) -> PotstillError:
    """Return the error for a refusal, with the server's message where the client can act on it.

    Args:
        key: This server's key there, which a client does not get, also where a message quotes it.
    """
    details: Mapping[str, Any] = error.body if isinstance(error.body, dict) else {}
    message = _words(details.get("message"), key) or "the model's server refuses this request"
    place = _words(details.get("param"), key)
    status = error.status_code
    if status in REFUSED:
        if details.get("code") == "context_length_exceeded" or place == "input_tokens":
            return ContextLengthError(message, where=place)
        return InvalidRequestError(message, where=place)
    if status in UNABLE and "message" not in details:
        return UnsupportedParameterError("the model's server does not support this", where="model")
    if status == 429:
        busy = QueueFullError("the model's server accepts no more requests now", where="model")
        seconds = error.response.headers.get("retry-after", "")
        # A header may have any length.
        busy.retry_after_seconds = int(seconds[:4]) if seconds.isdecimal() else 1
        return busy
    if status in BUSY:
        return BackendUnavailableError("the model's server is not available", where="model")
    return UpstreamError("the model's server has failed", where="model", found=f"status {status}")


def _words(given: object, key: str) -> str | None:
    """Return a text of an error as far as a client gets it; None for anything else."""
    if not isinstance(given, str):
        return None
    return (given if key == NO_KEY else given.replace(key, "…"))[:MAX_MESSAGE_CHARACTERS]


def _prompt_tokens(body: JsonObject) -> int:
    """Estimate the tokens of a prompt."""
    given = [one for name in PROMPT_PARTS if (one := body.get(name))]
    return sum(len(str(one)) for one in given) // CHARACTERS_PER_TOKEN


def _num_tokens(answer: JsonObject) -> int:
    """Return how many tokens the server says that it used; 0 if it does not."""
    usage = answer.get("usage") or {}
    total, *parts = (
        int(usage.get(f"{part}_tokens") or 0) for part in ("total", "prompt", "completion")
    )
    return max(total, sum(parts))


def _written_tokens(choice: JsonObject) -> int:
    """Estimate the tokens of a choice or a piece of it, which has at least one if it has a text."""
    said = choice.get("delta") or choice.get("message") or {}
    parts = (choice.get("text"), said.get("content"), thinking_in(said), said.get("tool_calls"))
    num_characters = sum(len(str(one)) for one in parts if one)
    return max(int(num_characters > 0), num_characters // CHARACTERS_PER_TOKEN)
