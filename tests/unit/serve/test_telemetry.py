"""Spans and metrics of real answers, as a real OTLP collector gets them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from serve.backends.protocol import VARIANT_HEADER, Caller
from serve.telemetry import MAX_CONTENT_BYTES, Telemetry
from serve.wire.chat import ChatRequest

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
HEADERS = {"traceparent": PARENT, "content-type": "application/json"}
SECRET = "Xylophone"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def got(self, path: str, kind: type) -> list:
        return [kind.FromString(body) for sent_to, body in self.requests if sent_to == path]

    def spans(self) -> list:
        requests = self.got("/v1/traces", ExportTraceServiceRequest)
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> dict:
        """The last points of each metric, by its name."""
        requests = self.got("/v1/metrics", ExportMetricsServiceRequest)
        return {
            metric.name: list(metric.histogram.data_points)
            for request in requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def collector():
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, args=(0.02,), daemon=True).start()
        yield collector
        collector.shutdown()


@pytest.fixture
def asked(make_app, collector):
    """Send requests, and return the collector once it has all that they left."""

    def ask(*requests: dict, has_content: bool = False) -> Collector:
        telemetry = Telemetry(collector.url, has_content=has_content)
        with TestClient(make_app(watcher=telemetry)) as client:
            for request in requests:
                path = request.pop("path", "/v1/chat/completions")
                headers = HEADERS | request.pop("headers", {})
                client.post(path, content=json.dumps({"model": "a"} | request), headers=headers)
        telemetry.close()
        return collector

    return ask


def attributes(item) -> dict:
    def plain(value):
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(one) for one in found.values] if kind == "array_value" else found

    return {one.key: plain(one.value) for one in item.attributes}


def question(text: str = "Hi", **more) -> dict:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}


def test_a_chat_is_a_span_in_its_callers_trace(asked):
    (span,) = asked(question(temperature=0.5, seed=3)).spans()
    assert span.name == "chat a"
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    found = attributes(span)
    assert found.pop("gen_ai.response.id").startswith("chatcmpl-")
    assert found.pop("gen_ai.usage.input_tokens") > 1
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "potstill",
        "gen_ai.request.model": "a",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.response.model": "a",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.output_tokens": 4,
    }


def test_other_apis_and_streams_are_spans_too(asked):
    collector = asked(
        {"path": "/v1/responses", "input": "Hi", "max_output_tokens": 4},
        {"path": "/v1/messages", **question()},
        question(stream=True),
    )
    assert [attributes(one)["gen_ai.usage.output_tokens"] for one in collector.spans()] == [4] * 3
    metrics = collector.metrics()
    assert [one.count for one in metrics["gen_ai.server.request.duration"]] == [3]
    tokens = {
        attributes(one)["gen_ai.token.type"]: one.sum
        for one in metrics["gen_ai.client.token.usage"]
    }
    assert tokens["output"] == 12
    # Only a stream shows when its first token comes.
    assert [one.count for one in metrics["gen_ai.server.time_to_first_token"]] == [1]
    assert [one.count for one in metrics["gen_ai.server.time_per_output_token"]] == [1]


def test_a_failure_is_named(asked):
    collector = asked(question("word " * 2000))
    (span,) = collector.spans()
    assert attributes(span)["error.type"] == "ContextLengthError"
    assert span.status.code == span.status.STATUS_CODE_ERROR
    (duration,) = collector.metrics()["gen_ai.server.request.duration"]
    assert attributes(duration)["error.type"] == "ContextLengthError"


def test_the_variant_of_an_experiment_is_an_attribute_of_span_and_figures(collector):
    telemetry = Telemetry(collector.url, has_content=False)
    request = ChatRequest.model_validate({"model": "a"} | question())
    followed = telemetry.watch(request, Caller(), SimpleNamespace(card={"id": "a"}))
    followed.end(None, {VARIANT_HEADER: "teacher"}, None)
    telemetry.close()
    (span,) = collector.spans()
    assert attributes(span)["potstill.variant"] == "teacher"
    (point,) = collector.metrics()["gen_ai.server.request.duration"]
    assert attributes(point)["potstill.variant"] == "teacher"


def test_nothing_that_was_written_is_sent_unless_asked_for(asked):
    collector = asked(question(SECRET), question(SECRET, stream=True))
    assert collector.spans()
    assert not any(SECRET.encode() in body for _, body in collector.requests)


def test_content_is_sent_as_messages_of_the_conventions(asked):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": SECRET}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ]
    (span,) = asked({"messages": messages, "max_tokens": 4}, has_content=True).spans()
    found = attributes(span)
    assert json.loads(found["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "done"}]},
    ]
    (said,) = json.loads(found["gen_ai.output.messages"])
    assert said["role"] == "assistant"
    assert said["finish_reason"] == "length"
    assert said["parts"][0]["content"]


def test_a_number_that_cannot_be_sent_is_left_out(asked):
    collector = asked(question(seed=10**30), question())
    huge, other = map(attributes, collector.spans())
    assert "gen_ai.request.seed" not in huge
    assert other["gen_ai.request.max_tokens"] == 4


def test_what_a_clients_headers_say_is_not_logged(asked, caplog):
    baggage = b"a=b," + b",".join([f"{SECRET} \x9b2J".encode("latin-1")] * 100)
    (span,) = asked(question(headers={"baggage": baggage, "tracestate": SECRET})).spans()
    assert span.trace_id.hex() == TRACE_ID
    assert SECRET not in caplog.text


def test_long_content_is_left_out(asked):
    (span,) = asked(question("word " * MAX_CONTENT_BYTES), has_content=True).spans()
    assert attributes(span)["gen_ai.input.messages"] == "[]"


@pytest.mark.slow
def test_a_server_ends_soon_where_no_collector_answers(make_app):
    telemetry = Telemetry("http://127.0.0.1:9", has_content=False)
    with TestClient(make_app(watcher=telemetry)) as client:
        assert client.post("/v1/chat/completions", json={"model": "a"} | question()).is_success
    closing = threading.Thread(target=telemetry.close)
    closing.start()
    closing.join(15)
    assert not closing.is_alive()
