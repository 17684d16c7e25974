"""Completions, embeddings, responses, models, and llama.cpp's endpoints over HTTP."""

import base64
import hashlib
import json
import math
import struct
import threading
from types import SimpleNamespace

import llama_cpp
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.responses import Response, ResponseStreamEvent
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from serve.api.routes.completions import written
from serve.keys import Key, KeyEntry, Keyring
from tests.fixtures.server_sent import events
from tests.unit.serve.api.routes.test_chat import TOOLS


@pytest.fixture
def post(client):
    def post(path: str, **body) -> dict:
        response = client.post(path, json={"model": "a", **body})
        assert response.status_code == 200, response.text
        return response.json()

    return post


def complete(post, prompt: object = "Once upon", **more) -> dict:
    return post("/v1/completions", **{"prompt": prompt, "max_tokens": 6, "seed": 0} | more)


def test_prompts_may_be_texts_or_tokens_one_or_several(post):
    token_ids = post("/tokenize", content="Once upon")["tokens"]
    text = Completion.model_validate(complete(post)).choices[0].text
    assert complete(post, token_ids)["choices"][0]["text"] == text
    both = complete(post, ["Once upon", token_ids], n=2)["choices"]
    assert [choice["index"] for choice in both] == [0, 1, 2, 3]
    assert both[0]["text"] == both[2]["text"] == text
    assert both[1]["text"] == both[3]["text"] != text


def test_an_echo_has_the_prompts_own_log_probabilities(post):
    choice = complete(post, echo=True, logprobs=2)["choices"][0]
    shown = choice["logprobs"]
    assert choice["text"].startswith("Once upon")
    assert len({len(column) for column in shown.values()}) == 1
    assert (shown["token_logprobs"][0], shown["top_logprobs"][0]) == (None, None)
    assert all(logprob < 0 for logprob in shown["token_logprobs"][1:])
    assert "".join(shown["tokens"]).startswith("Once upon")
    for text, offset in zip(shown["tokens"], shown["text_offset"], strict=True):
        assert "".join(shown["tokens"])[offset:].startswith(text)
    for token, logprob, top in list(
        zip(shown["tokens"], shown["token_logprobs"], shown["top_logprobs"], strict=True)
    )[1:]:
        assert top[token] == logprob
        assert len(top) == (2 if logprob >= sorted(top.values())[-2] else 3)


def test_the_best_of_several_is_the_most_probable(post):
    every = complete(post, n=3, logprobs=0)["choices"]
    means = [
        sum(choice["logprobs"]["token_logprobs"]) / len(choice["logprobs"]["token_logprobs"])
        for choice in every
    ]
    best = complete(post, best_of=3)["choices"]
    assert [choice["text"] for choice in best] == [every[means.index(max(means))]["text"]]


def test_a_streamed_completion_equals_the_whole_one(client, post):
    body = {"model": "a", "prompt": "Once upon", "max_tokens": 6, "seed": 0, "stream": True}
    chunks = events(client.post("/v1/completions", json=body))
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == complete(post)["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_vectors_have_unit_length_in_either_encoding(post):
    whole = post("/v1/embeddings", input=["one", "two words"])
    CreateEmbeddingResponse.model_validate(whole)
    first, second = (entry["embedding"] for entry in whole["data"])
    assert first != second
    assert math.hypot(*first) == pytest.approx(1, abs=1e-5)
    packed = post("/v1/embeddings", input="one", encoding_format="base64")["data"][0]["embedding"]
    assert struct.unpack(f"<{len(first)}f", base64.b64decode(packed)) == pytest.approx(first)
    short = post("/v1/embeddings", input="one", dimensions=3)["data"][0]["embedding"]
    assert short == pytest.approx([value / math.hypot(*first[:3]) for value in first[:3]])


def test_embeddings_are_written_one_by_one(monkeypatch):
    """Nothing else runs while Python's encoder writes, which takes half a second for all."""
    data = [{"object": "embedding", "index": n, "embedding": [0.1] * 576} for n in range(2048)]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    embeddings = {"object": "list", "data": data, "model": "a", "usage": usage}
    lengths = []

    def dumps(value, **settings):
        text = json.dumps(value, **settings)
        lengths.append(len(text))
        return text

    monkeypatch.setattr("serve.api.routes.completions.json", SimpleNamespace(dumps=dumps))
    assert json.loads(written(embeddings)) == embeddings
    assert max(lengths) < 4_000


def test_a_response_equals_the_chat(post, chat):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    ]
    response = Response.model_validate(post("/v1/responses", input=items, temperature=0,
                                            max_output_tokens=8))  # fmt: skip
    assert response.output_text == chat(temperature=0)["choices"][0]["message"]["content"]
    assert response.status == "incomplete"
    assert response.usage.output_tokens == 8


@pytest.mark.parametrize(
    "more",
    [{}, {"tools": [{"type": "function", **TOOLS[0]["function"]}], "tool_choice": "required"}],
)
def test_a_streamed_response_has_the_events_of_openai(client, post, more):
    body = {"model": "a", "input": "Hi", "temperature": 0, "max_output_tokens": 60, **more}
    whole = post("/v1/responses", **body)
    assert [whole[name] for name in ("tools", "tool_choice")] == (
        list(more.values()) or [[], "auto"]
    )
    text = client.post("/v1/responses", json=body | {"stream": True}).text
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data")]
    adapter = TypeAdapter(ResponseStreamEvent)
    streamed = [adapter.validate_python(json.loads(line)) for line in lines]
    assert [event.sequence_number for event in streamed] == list(range(len(streamed)))
    assert streamed[-1].type == f"response.{whole['status']}"
    kind = "response.function_call_arguments.delta" if more else "response.output_text.delta"
    joined = "".join(event.delta for event in streamed if event.type == kind)
    item = whole["output"][0]
    assert joined == (item["arguments"] if more else item["content"][0]["text"])


def test_the_last_item_of_a_response_that_was_cut_off_is_incomplete(client, post):
    note = {"properties": {"note": {"type": "string", "minLength": 1000}}, "required": ["note"]}
    required = {
        "tools": [{"type": "function", "name": "write", "parameters": note}],
        "tool_choice": "required",
    }
    for more, kind in (({}, "message"), (required, "function_call")):
        body = {"input": "Hi", "ignore_eos": True, "max_output_tokens": 60, **more}
        response = post("/v1/responses", **body)
        assert [(item["type"], item["status"]) for item in response["output"]] == [
            (kind, "incomplete")
        ]
        text = client.post("/v1/responses", json={"model": "a", **body, "stream": True}).text
        sent = [json.loads(one[6:]) for one in text.splitlines() if one.startswith("data: ")]
        done = [one["item"]["status"] for one in sent if one["type"].endswith("output_item.done")]
        assert (done, sent[-1]["type"]) == (["incomplete"], "response.incomplete")


def test_a_response_has_the_log_probabilities_of_its_text(client, post, chat):
    wanted = chat(temperature=0, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    body = {"input": "Hi", "temperature": 0, "max_output_tokens": 8, "top_logprobs": 2}
    body["include"] = ["message.output_text.logprobs"]
    (part,) = post("/v1/responses", **body)["output"][0]["content"]
    assert part["logprobs"] == wanted
    text = client.post("/v1/responses", json={"model": "a", **body, "stream": True}).text
    sent = [json.loads(one[6:]) for one in text.splitlines() if one.startswith("data: ")]
    deltas = [one["logprobs"] for one in sent if one["type"] == "response.output_text.delta"]
    streamed = [entry for delta in deltas for entry in delta]
    assert streamed == wanted[: len(streamed)] != []
    (done,) = [one["logprobs"] for one in sent if one["type"] == "response.output_text.done"]
    assert done == wanted
    only = post("/v1/responses", **body | {"include": None, "top_logprobs": None})
    assert only["output"][0]["content"][0]["logprobs"] == []


def test_a_response_may_have_a_schema_and_a_required_tool(post):
    tool = {"type": "function", **TOOLS[0]["function"]}
    text = {"format": {"type": "json_schema", "name": "s", "schema": {"const": 1}}}
    body = {"input": "Hi", "tools": [tool], "tool_choice": "required", "text": text}
    (item,) = post("/v1/responses", **body, parallel_tool_calls=False)["output"]
    assert (item["type"], item["status"]) == ("function_call", "completed")


def test_stateful_parameters_are_refused(client):
    body = {"model": "a", "input": "Hi", "previous_response_id": "resp_1"}
    response = client.post("/v1/responses", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "previous_response_id"


def test_models_report_whether_they_are_reproducible(client):
    listed = client.get("/v1/models").json()["data"]
    assert [Model.model_validate(card).id for card in listed] == ["a", "b"]
    assert listed[0] == client.get("/v1/models/a").json()
    assert listed[0]["reproducible"] is True
    assert listed[0]["system_fingerprint"] == "fp_test"


def test_tokens_become_their_text_again(post, client, tiny_model):
    text = "This is a test string with unicode 媽 and emoji 🤗"
    pieces = post("/tokenize", content=text, with_pieces=True)["tokens"]
    written = b"".join(
        bytes(one["piece"]) if isinstance(one["piece"], list) else one["piece"].encode()
        for one in pieces
    )
    assert written.decode() == text
    token_ids = post("/tokenize", content=text)["tokens"]
    assert token_ids == [one["id"] for one in pieces]
    assert post("/detokenize", tokens=token_ids)["content"] == text
    started = post("/tokenize", content=text, add_special=True)["tokens"]
    assert started == [*tiny_model.start_tokens, *token_ids]
    assert client.post("/detokenize", json={"model": "a", "tokens": [10**6]}).status_code == 400


def test_llama_cpps_completion(post, client):
    answer = post("/completion", prompt="Once upon", n_predict=5, temperature=0, n_probs=3,
                  return_tokens=True)  # fmt: skip
    assert (answer["stop_type"], answer["tokens_predicted"]) == ("limit", 5)
    assert post("/detokenize", tokens=answer["tokens"])["content"] == answer["content"]
    assert [len(one["top_logprobs"]) for one in answer["completion_probabilities"]] == [3] * 5
    several = post("/completion", prompt=["Once upon", {"prompt_string": "Once upon"}],
                   n_predict=5, temperature=0)  # fmt: skip
    assert [one["content"] for one in several] == [answer["content"]] * 2
    gbnf = 'root ::= "yes"'
    bound = post("/completion", prompt="Hi", grammar=gbnf)
    assert (bound["content"], bound["generation_settings"]["grammar"]) == ("yes", gbnf)
    shaped = post("/completion", prompt="Hi", json_schema={"const": 7})
    assert (shaped["content"], shaped["generation_settings"]["grammar"]) == ("7", "")
    fields = post("/completion", prompt=[1, "Hi"], n_predict=2,
                  response_fields=["content", "generation_settings/n_predict"])  # fmt: skip
    assert fields["generation_settings/n_predict"] == 2
    assert len(fields) == 2
    body = {"model": "a", "prompt": "Once upon", "n_predict": 5, "temperature": 0, "stream": True}
    chunks = events(client.post("/completion", json=body))
    assert "".join(chunk["content"] for chunk in chunks) == answer["content"]
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_llama_cpps_probabilities_may_be_those_after_sampling(post):
    body = {"prompt": "Once upon", "n_predict": 4, "seed": 1, "n_probs": 3}
    body |= {"temperature": 0.5, "top_k": 3}
    raw = post("/completion", **body)["completion_probabilities"]
    drawn = post("/completion", **body, post_sampling_probs=True)["completion_probabilities"]
    for before, after in zip(raw, drawn, strict=True):
        weights = {one["id"]: math.exp(one["logprob"] / 0.5) for one in before["top_logprobs"]}
        expected = {
            token_id: weight / sum(weights.values()) for token_id, weight in weights.items()
        }
        assert {one["id"]: one["prob"] for one in after["top_probs"]} == pytest.approx(expected)
        assert after["id"] == before["id"]
        assert after["prob"] == pytest.approx(expected[after["id"]])


def test_llama_cpps_clients_get_completed_for_a_cut_response(post):
    body = {"input": "Hi", "max_output_tokens": 2}
    assert post("/v1/responses", **body)["status"] == "incomplete"
    assert post("/responses", **body)["status"] == "completed"


def test_llama_cpps_descriptions(client, post):
    assert client.get("/props").json()["total_slots"] == 4
    assert [slot["is_processing"] for slot in client.get("/slots").json()] == [False] * 4
    messages = [{"role": "user", "content": "Hi"}]
    assert "<|im_start|>user\nHi" in post("/apply-template", messages=messages)["prompt"]
    assert post("/chat/completions/input_tokens", messages=messages)["input_tokens"] > 5


def test_metrics_count_what_happened(client, chat):
    def value(name: str, **labels: str) -> float:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    route = {"route": "/v1/chat/completions", "status": "200"}
    names = [
        ("potstill_http_requests_total", route, 1),
        ("potstill_time_to_first_token_seconds_count", {"model": "a"}, 1),
        ("potstill_inter_token_latency_seconds_count", {"model": "a"}, 7),
        ("potstill_generated_tokens_total", {"model": "a"}, 8),
    ]
    before = [value(name, **labels) for name, labels, _ in names]
    # With log-probabilities each token is reported alone, even if it is part of a character.
    chat(ignore_eos=True, logprobs=True)
    after = [value(name, **labels) for name, labels, _ in names]
    gained = [after_ - before_ for after_, before_ in zip(after, before, strict=True)]
    assert gained == [expected for _, _, expected in names]


def test_one_key_learns_nothing_of_the_prompt_of_another(make_app):
    secret = "my pin is 481516: keep it for me, and repeat it whenever I ask for it"
    keys = [Key(name, KeyEntry(sha256=hashlib.sha256(name.encode()).hexdigest())) for name in "abc"]
    with TestClient(make_app(keyring=Keyring(keys))) as client:

        def num_cached(key: str, content: str) -> int:
            answer = client.post(
                "/v1/chat/completions",
                json={"model": "a", "messages": [{"role": "user", "content": content}]}
                | {"max_tokens": 1},
                headers={"Authorization": f"Bearer {key}"},
            ).json()
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        num_cached("a", secret)
        assert num_cached("a", secret) > 20
        assert num_cached("b", secret) == num_cached("c", "What do others ask?")


def test_dry_is_made_beside_the_engine(chat, monkeypatch):
    threads, make = [], llama_cpp.llama_sampler_init_dry

    def recorded(*given):
        threads.append(threading.current_thread().name)
        return make(*given)

    monkeypatch.setattr(llama_cpp, "llama_sampler_init_dry", recorded)
    chat(n=2, dry_multiplier=1.0, dry_sequence_breakers=["x"])
    assert [name.partition("_")[0] for name in threads] == ["slow"]


def test_the_description_of_the_api_is_made_beside_the_event_loop(make_app):
    app = make_app()
    threads = {}
    make = app.openapi

    def noted():
        threads["document"] = threading.get_ident()
        return make()

    app.openapi = noted

    @app.get("/loop")
    async def loop() -> None:
        threads["loop"] = threading.get_ident()

    with TestClient(app) as client:
        client.get("/loop")
        assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
    assert threads["document"] != threads["loop"]
