import asyncio
import socket
import threading

import pytest

from generate.teachers.endpoint.api import EndpointApi
from generate.teachers.endpoint.budget import Budget
from generate.teachers.endpoint.config import EndpointConfig
from potstill.errors import ConfigError, TeacherError

KEY, SECRET = "POTSTILL_TEST_KEY", "a secret that no message may show"


def config_of(base_url: str, **more) -> EndpointConfig:
    settings = {"model": "toy", "tokenizer": "toy", "max_retries": 0, "prompt_price": 1e6, **more}
    return EndpointConfig(base_url=base_url, **settings)


def post(config: EndpointConfig, path: str = "/completions", worst: float = 5.0):
    """Return an answer or its error's description, and the budget."""
    budget = Budget(config)
    assert budget.hold(worst)

    async def ask():
        api = EndpointApi(config, budget)
        body = {"model": "toy", "prompt": [1], "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        try:
            return await api.post(path, lambda: body | {"seed": 0}, worst=worst)
        except Exception as error:
            return error, api.why(error), await api.explain(error)
        finally:
            await api.close()

    return asyncio.run(ask()), budget


def test_the_key_comes_from_the_environment_and_shows_nowhere(serving, monkeypatch):
    server = serving()
    config = config_of(server.base_url, api_key_variable=KEY)
    with pytest.raises(ConfigError, match=KEY):
        EndpointApi(config, Budget(config))
    monkeypatch.setenv(KEY, SECRET)
    server.faults.append(401)
    (_, why, explanation), _ = post(config)
    assert server.keys == [f"Bearer {SECRET}"]
    assert SECRET not in f"{why} {explanation} {config}"


def test_the_servers_own_words_are_not_repeated(serving):
    server = serving()
    server.faults.append(400)
    (error, why, explanation), _ = post(config_of(server.base_url))
    assert "SECRET PROMPT" in str(error)
    assert "SECRET PROMPT" not in f"{why} {explanation}"
    assert why == "HTTP 400 a_code"


def test_a_server_without_the_model_is_asked_for_its_models(serving):
    server = serving()
    server.model = "another"
    (_, _, explanation), _ = post(config_of(server.base_url))
    assert isinstance(explanation, TeacherError)
    assert "no model 'toy'" in str(explanation)
    assert explanation.expected == "another"


def test_an_address_where_nobody_is_costs_nothing():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = config_of(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        (_, why, explanation), budget = post(config)
    assert why == "no connection: ConnectError"
    assert "does not answer" in str(explanation)
    assert budget.spent == 0.0


@pytest.mark.parametrize(
    ("fault", "why"), [("drop", "no connection: RemoteProtocolError"), (None, "no answer within")]
)
def test_an_answer_that_was_lost_counts_as_paid(serving, fault, why):
    server, end = serving(), threading.Event()
    if fault is None:
        server.before = lambda _handler: end.wait(10)
    server.faults.append(fault)
    (_, found, _), budget = post(config_of(server.base_url, timeout_seconds=0.3))
    end.set()
    assert found.startswith(why)
    assert budget.spent == 5.0


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_costs_nothing(serving, status):
    server = serving()
    server.faults.append(status)
    _, budget = post(config_of(server.base_url))
    assert budget.spent == 0.0
    assert budget.hold(0.0)


@pytest.mark.parametrize(
    ("fault", "cost"),
    [
        (None, 1.0),
        (lambda answer: answer.pop("usage"), 5.0),
        (lambda answer: answer.update(usage=None), 5.0),
        (b"not json", 5.0),
    ],
)
def test_an_answer_costs_what_it_says_or_else_the_most_it_can(serving, fault, cost):
    server = serving()
    server.faults.append(fault)
    _, budget = post(config_of(server.base_url))
    assert budget.spent == cost


def test_a_cancelled_request_counts_as_paid(serving):
    server = serving()
    arrived, end = threading.Event(), threading.Event()

    def wait(_handler) -> None:
        arrived.set()
        end.wait(10)

    server.before = wait
    config = config_of(server.base_url)
    budget = Budget(config)
    assert budget.hold(5.0)

    async def ask() -> None:
        api = EndpointApi(config, budget)
        asking = asyncio.create_task(api.post("/completions", dict, worst=5.0))
        await asyncio.to_thread(arrived.wait, 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await api.close()

    asyncio.run(ask())
    end.set()
    assert budget.spent == 5.0
