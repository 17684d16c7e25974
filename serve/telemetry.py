"""OpenTelemetry spans and metrics of chats, sent to a collector over OTLP.

Names are those of OpenTelemetry's semantic conventions for generative AI (gen_ai.*, version 1.37).
Off by default (`serve.otlp_endpoint`). What users and models write is sent only where
`serve.otlp_content` says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.backends.protocol import VARIANT_HEADER, Caller, ChatBackend
from serve.wire.chat import AnswerMessage, ChatCompletion, ChatRequest
from serve.wire.chunks import NO_USAGE
from serve.wire.shared import JsonObject

NAME = "potstill"
PARENT = "traceparent"
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": NAME}
REQUEST_ATTRIBUTES = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}
"""Attributes of a span by the parameter of a chat."""
MAX_CONTENT_BYTES = 32 * 1024
"""Of one side of a chat; OpenTelemetry keeps up to 2,048 spans."""
MAX_INTEGER = 2**63
"""Beyond it a number cannot be sent, and would take its whole batch with it."""
EXPORT_SECONDS = 3.0
"""How long a batch may take, with further attempts: a server that ends waits for the last one."""
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4**power for power in range(14))
"""Bounds of buckets, as the conventions have them."""


class Telemetry:
    """Sends a span and figures of each chat; a watcher of the application.

    Args:
        has_content: Whether messages are sent, too.
    """

    def __init__(self, endpoint: str, *, has_content: bool) -> None:
        base_url = endpoint.rstrip("/")
        resource = Resource.create({"service.name": NAME})
        self._traces = TracerProvider(resource=resource)
        self._traces.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(f"{base_url}/v1/traces", timeout=EXPORT_SECONDS))
        )
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(f"{base_url}/v1/metrics", timeout=EXPORT_SECONDS)
        )
        self._meters = MeterProvider(resource=resource, metric_readers=[reader])
        self._tracer = self._traces.get_tracer(NAME)
        self._callers = TraceContextTextMapPropagator()
        self._has_content = has_content
        meter = self._meters.get_meter(NAME)

        def histogram(name: str, unit: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.{name}", unit, text, explicit_bucket_boundaries_advisory=bounds
            )

        self.duration = histogram(
            "server.request.duration", "s", "From a request to its end.", SECONDS
        )
        self.first_piece = histogram(
            "server.time_to_first_token", "s", "From a request to the first piece.", SECONDS
        )
        self.per_token = histogram(
            "server.time_per_output_token", "s", "Between tokens after the first.", TOKEN_SECONDS
        )
        self.tokens = histogram(
            "client.token.usage", "{token}", "Tokens of prompts and answers.", TOKENS
        )

    def watch(self, request: ChatRequest, caller: Caller, backend: ChatBackend) -> ChatSpan:
        """Begin the span of a chat, within the caller's trace if it names one."""
        model = backend.card["id"]
        attributes = CHAT | {"gen_ai.request.model": model}
        for name, attribute in REQUEST_ATTRIBUTES.items():
            value = getattr(request, name, None)
            if value is not None and abs(value) < MAX_INTEGER:
                attributes[attribute] = value
        span = self._tracer.start_span(
            f"chat {model}",
            # OpenTelemetry quotes the other headers of traces in its warnings.
            context=self._callers.extract({PARENT: caller.headers.get(PARENT, "")}),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )
        if self._has_content:
            messages = [one.model_dump(mode="json", exclude_unset=True) for one in request.messages]
            span.set_attribute("gen_ai.input.messages", _content(map(_parts, messages)))
        return ChatSpan(self, span, model, has_content=self._has_content)

    def close(self) -> None:
        """Send what is left."""
        self._traces.shutdown()
        self._meters.shutdown()


class ChatSpan:
    """The span of one chat, which becomes figures at its end."""

    def __init__(
        self, telemetry: Telemetry, span: trace.Span, model: str, *, has_content: bool
    ) -> None:
        self._telemetry, self._span, self._has_content = telemetry, span, has_content
        self._labels: dict[str, Any] = CHAT | {"gen_ai.request.model": model}
        self._started = time.perf_counter()
        self._first: float | None = None

    def piece(self) -> None:
        """Note a piece of a stream."""
        if self._first is None:
            self._first = time.perf_counter() - self._started

    def end(
        self, completion: ChatCompletion | None, headers: Mapping[str, str], error: str | None
    ) -> None:
        """End the span."""
        seconds = time.perf_counter() - self._started
        if variant := headers.get(VARIANT_HEADER):
            self._span.set_attribute("potstill.variant", variant)
            self._labels["potstill.variant"] = variant
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
            self._labels["error.type"] = error
        if completion is not None:
            self._take(completion, seconds)
        self._telemetry.duration.record(seconds, self._labels)
        self._span.end()

    def _take(self, completion: ChatCompletion, seconds: float) -> None:
        # Upstream servers may leave out the usage, or send null.
        usage, choices = completion.get("usage") or NO_USAGE, completion["choices"]
        num_prompt, num_answer = usage["prompt_tokens"], usage["completion_tokens"]
        self._labels["gen_ai.response.model"] = completion["model"]
        self._span.set_attributes(
            {
                "gen_ai.response.id": completion["id"],
                "gen_ai.response.model": completion["model"],
                "gen_ai.response.finish_reasons": [one["finish_reason"] for one in choices],
                "gen_ai.usage.input_tokens": num_prompt,
                "gen_ai.usage.output_tokens": num_answer,
            }
        )
        for kind, number in (("input", num_prompt), ("output", num_answer)):
            self._telemetry.tokens.record(number, self._labels | {"gen_ai.token.type": kind})
        if self._first is not None:
            self._telemetry.first_piece.record(self._first, self._labels)
            if num_answer > 1:
                between = (seconds - self._first) / (num_answer - 1)
                self._telemetry.per_token.record(between, self._labels)
        if self._has_content:
            said = (
                {**_parts(one["message"]), "finish_reason": one["finish_reason"]} for one in choices
            )
            self._span.set_attribute("gen_ai.output.messages", _content(said))


def _parts(message: Mapping[str, Any] | AnswerMessage) -> JsonObject:
    """Return a message of OpenAI's API as the conventions spell it."""
    content = message.get("content")
    pieces = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if message["role"] == "tool":
        text = "".join(piece.get("text", "") for piece in pieces)
        answered = {"id": message.get("tool_call_id", ""), "response": text}
        return {"role": "tool", "parts": [{"type": "tool_call_response", **answered}]}
    parts = [
        {"type": "text", "content": piece["text"]} for piece in pieces if piece["type"] == "text"
    ]
    parts = [one for one in parts if one["content"]]
    if thinking := message.get("reasoning_content"):
        parts.insert(0, {"type": "reasoning", "content": str(thinking)})
    calls = [
        {"type": "tool_call", "id": call.get("id"), **call["function"]}
        for call in message.get("tool_calls") or ()
    ]
    return {"role": message["role"], "parts": [*parts, *calls]}


def _content(messages: Iterable[JsonObject]) -> str:
    """Return messages as JSON; none where they would fill the memory while no collector answers."""
    text = json.dumps([*messages])
    return text if len(text) <= MAX_CONTENT_BYTES else "[]"
