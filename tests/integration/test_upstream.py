"""One real server before another: `far` is a model of the second, by way of the first."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from benchmarks.serving._servers import Server, Setting, embedded_gguf, potstill, running
from potstill.processes import free_port
from tests.fixtures.waiting import eventually

KEY = "the-far-server's-key"
QUESTION = [{"role": "user", "content": "Name three colors."}]
GREEDY = {"messages": QUESTION, "temperature": 0, "max_tokens": 24}
ENDLESS = {"messages": QUESTION, "max_tokens": 400, "logit_bias": {"2": -100}, "stream": True}


class Pair:
    """The server in front and, on a port of its own, the far one, which comes and goes."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        (directory / "far").mkdir()
        self._stack = stack
        self._far_port = free_port()
        self._settings = {
            where: Setting(embedded_gguf(), at, num_parallel=4, threads=1)
            for where, at in (("far", directory / "far"), ("near", directory))
        }
        self.far = self.start_far()
        port = free_port()
        table = (
            f'{{base_url = "{self.far.base_url}", model = "student", '
            'api_key_variable = "FAR_KEY", max_retries = 1}'
        )
        near = potstill(self._settings["near"], port, **{"upstreams.far": table})
        self.near = stack.enter_context(running("near", near, port, directory / "log"))
        self.client = OpenAI(
            base_url=self.near.base_url, api_key="none", max_retries=0, timeout=120
        )
        self.far_client = OpenAI(base_url=self.far.base_url, api_key=KEY, max_retries=0)

    def start_far(self) -> Server:
        setting, port = self._settings["far"], self._far_port
        command = potstill(setting, port, playground="false")
        log_path = setting.directory / "log"
        return self._stack.enter_context(running("far", command, port, log_path, key=KEY))

    def num_active(self) -> float:
        """Ask the far server how many requests it is answering."""
        root = self.far.base_url.removesuffix("/v1")
        metrics = httpx.get(f"{root}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
        return sum(
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith("potstill_requests_active{")
        )


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[Pair]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAR_KEY", KEY)
        yield Pair(stack, tmp_path_factory.mktemp("pair"))


def test_the_upstream_answers_through_the_server(pair):
    direct = pair.far_client.chat.completions.create(model="student", **GREEDY)
    asked = {"model": "far", **GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = pair.client.chat.completions.create(**asked)
    assert whole.model == "far"
    assert whole.choices[0].message == direct.choices[0].message
    assert whole.system_fingerprint == direct.system_fingerprint
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    *chunks, last = pair.client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == direct.choices[0].message.content
    assert last.usage.completion_tokens == direct.usage.completion_tokens
    assert {chunk.model for chunk in chunks} == {"far"}


def test_text_embeddings_and_refusals_are_forwarded_too(pair):
    made = {
        client: client.completions.create(
            model=model, prompt="The sea is", temperature=0, max_tokens=8
        )
        for client, model in ((pair.client, "far"), (pair.far_client, "student"))
    }
    assert len({answer.choices[0].text for answer in made.values()}) == 1
    vectors = pair.client.embeddings.create(model="far", input=["rain", "bread"])
    assert [one.index for one in vectors.data] == [0, 1]
    long = [{"role": "user", "content": "rain " * 2000}]
    with pytest.raises(openai.BadRequestError) as refused:
        pair.client.chat.completions.create(model="far", messages=long)
    assert refused.value.code == "context_length_exceeded"


def test_a_disconnect_during_the_answer_is_forwarded(pair):
    stream = pair.client.chat.completions.create(model="far", **ENDLESS)
    next(iter(stream))
    assert pair.num_active() == 1
    stream.close()
    assert eventually(lambda: pair.num_active() == 0)


def test_only_the_answers_of_an_upstream_that_dies_are_lost(pair):
    stream = iter(pair.client.chat.completions.create(model="far", **ENDLESS))
    next(stream)
    pair.far.process.send_signal(signal.SIGKILL)
    pair.far.process.wait(10)
    with pytest.raises(openai.APIError):
        list(stream)
    with pytest.raises(openai.InternalServerError) as away:
        pair.client.chat.completions.create(model="far", **GREEDY)
    assert (away.value.status_code, away.value.code) == (503, "unavailable")
    root = pair.near.base_url.removesuffix("/v1")
    assert httpx.get(f"{root}/readyz").status_code == 200
    assert pair.client.chat.completions.create(model="student", **GREEDY).choices[0].message.content
    pair.far = pair.start_far()
    assert pair.client.chat.completions.create(model="far", **GREEDY).model == "far"
