"""A server in the test's process that answers as vLLM, potstill or OpenAI do, and fails on demand.

Its model is a table: the next token's distribution depends on the last token alone, so that a row
that has slipped by one is another row.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from generate.teachers.endpoint.config import EndpointConfig
from generate.teachers.endpoint.teacher import EndpointTeacher
from generate.teachers.protocol import SampleRequest, ScoreRequest
from potstill.chat import render_prompt
from potstill.schema import Message, SamplingParams
from tests.fixtures.feeding import taking
from tests.fixtures.json_handler import JsonHandler

SPECIALS = ["<|end|>", "<|user|>", "<|assistant|>"]
END = 0
TEMPLATE = (
    "{% for one in messages %}<|{{ one.role }}|>{{ one.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPENAI_PARAMETERS = {
    *("model", "messages", "temperature", "top_p", "max_tokens", "seed", "presence_penalty"),
    *("frequency_penalty", "logprobs", "top_logprobs"),
}


@pytest.fixture(scope="session")
def toy_tokenizer():
    """Byte-level BPE with merges, of the real library, with a chat template."""
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the rain in Spain, the grüße 你好, stays in the plain"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIALS[END])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class ToyServer:
    """An OpenAI-compatible server.

    Attributes:
        asked: Paths and bodies of all requests so far.
        keys: Their Authorization headers.
        faults: One for each request to come: a status, "drop", bytes to send as JSON, a function of
            the answer that changes it, or None.
        before: Called with the handler before each answer.
        num_in_flight: Requests being answered now.
    """

    def __init__(self, tokenizer, kind: str, *, max_logprobs=20, processed=False, ends_after=3):
        self.tokenizer, self.kind, self.model = tokenizer, kind, "toy"
        self.max_logprobs, self.processed, self.ends_after = max_logprobs, processed, ends_after
        self.clamps = False
        self.asked: list[tuple[str, dict]] = []
        self.keys: list[str | None] = []
        self.faults: deque = deque()
        self.before: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.num_in_flight = self.most_in_flight = 0
        self._logits_V = np.random.default_rng(0).normal(0, 2, len(tokenizer))
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _handler(self))
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def logprobs_V(self, last_token_id: int, temperature: float = 1.0, top_p: float = 1.0):
        """Return the next token's log-probabilities, after temperature and top-p."""
        logits_V = np.roll(self._logits_V, last_token_id) / temperature
        logprobs_V = logits_V - np.log(np.exp(logits_V).sum())
        order_V = np.argsort(-logprobs_V)
        before_V = np.exp(logprobs_V[order_V]).cumsum() - np.exp(logprobs_V[order_V])
        logprobs_V[order_V[before_V >= top_p]] = -np.inf
        return logprobs_V - np.log(np.exp(logprobs_V).sum())

    def check(self, prompt_ids, sample, top_logprobs: int) -> None:
        """Check that a sample holds the model's own distributions along its tokens."""
        assert sample.signal.counts_T.tolist() == [top_logprobs] * len(sample.token_ids)
        context = [*prompt_ids, *sample.token_ids][len(prompt_ids) - 1 :]
        for index, (last, token_id) in enumerate(zip(context, sample.token_ids, strict=False)):
            logprobs_V = self.logprobs_V(last)
            best_K = np.argsort(-logprobs_V)[:top_logprobs]
            row = slice(index * top_logprobs, (index + 1) * top_logprobs)
            assert sample.signal.top_token_ids_N[row].tolist() == best_K.tolist()
            assert sample.signal.top_logprobs_N[row] == pytest.approx(logprobs_V[best_K], abs=1e-5)
            expected = pytest.approx(logprobs_V[token_id], abs=1e-5)
            assert sample.signal.sampled_logprobs_T[index] == expected

    def num_asked(self) -> int:
        """Return how many requests for an answer came."""
        return sum(path != "/v1/models" for path, _ in self.asked)

    def answer(self, path: str, body: dict) -> tuple[int, dict]:
        """Return status and JSON."""
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        if path != "/v1/completions" * (self.kind == "vllm") and path != "/v1/chat/completions":
            return 404, _error("not_found_error")
        if body["model"] != self.model:
            return 404, _error("model_not_found")
        if self.kind == "openai" and not body.keys() <= OPENAI_PARAMETERS:
            return 400, _error("unknown_parameter")
        is_chat = "messages" in body
        num_top = body.get("top_logprobs" if is_chat else "logprobs")
        if (num_top or 0) > self.max_logprobs:
            if not self.clamps:
                return 400, _error("too_many_logprobs")
            num_top = self.max_logprobs
        return 200, self._chat(body, num_top) if is_chat else self._completion(body, num_top)

    def _completion(self, body: dict, num_top: int | None) -> dict:
        prompt = body["prompt"]
        if body.get("echo"):
            rows = [None, *(self._row(last, body, num_top) for last in prompt[:-1])]
            ids, reason = prompt, "length"
        else:
            ids, rows, reason = self._draw(prompt, body, num_top)
        name = "token_id:{}".format
        logprobs = {
            "tokens": [name(one) for one in ids],
            "token_logprobs": [
                None if row is None else row[one] for one, row in zip(ids, rows, strict=True)
            ],
            "top_logprobs": [
                None if row is None else {name(one): row[one] for one in [token_id, *_top(row)]}
                for token_id, row in zip(ids, rows, strict=True)
            ],
        }
        choice = {
            "index": 0,
            "text": "",
            "token_ids": ids,
            "prompt_token_ids": prompt,
            "finish_reason": reason,
            "logprobs": None if num_top is None else logprobs,
        }
        return {"choices": [choice], "usage": self._usage(prompt, ids)}

    def _chat(self, body: dict, num_top: int) -> dict:
        messages = [Message(role=one["role"], content=one["content"]) for one in body["messages"]]
        prompt = render_prompt(self.tokenizer, messages)
        ids, rows, reason = self._draw(prompt, body, num_top)
        if self.kind == "openai" and reason == "stop":
            ids, rows = ids[:-1], rows[:-1]
        content = [
            self._entry(one, row) | {"top_logprobs": [self._entry(each, row) for each in _top(row)]}
            for one, row in zip(ids, rows, strict=True)
        ]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reason,
            "logprobs": {"content": content},
        }
        return {"choices": [choice], "usage": self._usage(prompt, ids)}

    def _entry(self, token_id: int, row: dict) -> dict:
        piece = self.tokenizer.convert_ids_to_tokens(token_id)
        if token_id >= len(SPECIALS):
            piece = bytes(_BYTES[letter] for letter in piece)
        else:
            piece = piece.encode()
        entry = {"token": piece.decode(errors="replace"), "bytes": list(piece)}
        entry["logprob"] = row[token_id]
        return entry if self.kind == "openai" else entry | {"id": token_id}

    def _draw(self, prompt: list[int], body: dict, num_top: int | None):
        generator, ids, rows = np.random.default_rng(body["seed"]), [], []
        while len(ids) < body["max_tokens"]:
            last = (prompt + ids)[-1]
            rows.append(self._row(last, body, num_top))
            probabilities_V = np.exp(self.logprobs_V(last, body["temperature"], body["top_p"]))
            probabilities_V[: len(SPECIALS)] = 0
            if len(ids) == self.ends_after:
                return [*ids, END], rows, "stop"
            drawn = generator.choice(
                len(probabilities_V), p=probabilities_V / probabilities_V.sum()
            )
            ids.append(int(drawn))
        return ids, rows, "length"

    def _row(self, last: int, body: dict, num_top: int | None) -> dict:
        settings = (body["temperature"], body["top_p"]) if self.processed else ()
        logprobs_V = np.maximum(self.logprobs_V(last, *settings), -9999.0)
        row = dict(enumerate(logprobs_V.tolist()))
        return row | {"top": np.argsort(-logprobs_V)[: num_top or 0].tolist()}

    def _usage(self, prompt, ids) -> dict:
        return {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}


def _top(row: dict) -> list[int]:
    return row["top"]


def _error(code: str) -> dict:
    return {"error": {"message": "as you said: SECRET PROMPT", "type": "error", "code": code}}


_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


class _Http(ThreadingHTTPServer):
    request_queue_size = 64
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        pass


def _handler(server: ToyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self._reply(*server.answer(self.path, {}))

        def do_POST(self) -> None:
            body = self.read()
            with server._lock:
                server.asked.append((self.path, body))
                server.keys.append(self.headers["Authorization"])
                fault = server.faults.popleft() if server.faults else None
                server.num_in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.num_in_flight)
            try:
                if server.before is not None:
                    server.before(self)
                status, answer = server.answer(self.path, body)
            finally:
                with server._lock:
                    server.num_in_flight -= 1
            if fault == "drop":
                self.close_connection = True
            elif isinstance(fault, int):
                self._reply(fault, _error("a_code"))
            elif isinstance(fault, bytes):
                self._reply(200, fault)
            else:
                if fault is not None:
                    fault(answer)
                self._reply(status, answer)

        def _reply(self, status: int, value: dict | bytes) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(content)

    return Handler


@pytest.fixture
def serving(toy_tokenizer):
    """Return a function that starts a server of a kind."""
    servers = []

    def start(kind: str = "vllm", **options) -> ToyServer:
        servers.append(ToyServer(toy_tokenizer, kind, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def teaching(toy_tokenizer):
    """Return a function that connects a teacher to a server."""
    teachers = []

    def connect(server: ToyServer, **config) -> EndpointTeacher:
        settings = {"base_url": server.base_url, "model": "toy", **config}
        teacher = EndpointTeacher(EndpointConfig(**settings), toy_tokenizer, frozenset({END}))
        teachers.append(teacher)
        server.asked.clear()
        server.keys.clear()
        return teacher

    yield connect
    for teacher in teachers:
        teacher.close()


@pytest.fixture
def request_of(toy_tokenizer):
    """Return a function that makes a request from a user's question."""

    def make(name: str, *contents: str, max_tokens: int = 8, **sampling) -> SampleRequest:
        roles = ["user", "assistant"] * len(contents or ("",))
        messages = tuple(
            Message(role=role, content=content)
            for role, content in zip(roles, contents or (name,), strict=False)
        )
        settings = {"temperature": 1.0, "top_p": 1.0, "seed": 7, **sampling}
        return SampleRequest(
            name,
            tuple(render_prompt(toy_tokenizer, messages)),
            SamplingParams(max_tokens=max_tokens, **settings),
            messages,
        )

    return make


@pytest.fixture
def score_of():
    def make(name: str, token_ids, start: int) -> ScoreRequest:
        return ScoreRequest(name, tuple(token_ids), start)

    return make


@pytest.fixture(name="taking")
def taking_fixture():
    return taking
