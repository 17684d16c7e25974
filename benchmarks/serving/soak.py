"""Hours of mixed requests: `python benchmarks/serving/soak.py --minutes 60`.

Clients of two keys send what clients send, in random order, more of it than the server can answer
at once: short and long chats, whole and streamed, some of which hang up in the middle, read slowly
or not at all; chats with an experiment whose other side answers too; texts, vectors, grammars; and
what is malformed, oversized or too long. Checked are

- every text, against what a server that answers one request at a time says at temperature 0,
- every refusal, against the status it has to have,
- the memory of the server and its children, which must not grow,
- that a key with few clients waits no longer than one with many,
- that shadows answer without a failure,
- that no slot is taken in the end.

Usage: soak.py [--minutes M] [--gguf FILE] [--seed N]; the exit code is 1 if anything is wrong. The
file has to be of a type whose answers do not depend on the load: Q4_0, Q4_1 or Q8_0.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp

from benchmarks.serving._load import events, session
from benchmarks.serving._servers import MODEL, Server, Setting, embedded_gguf, potstill, running
from potstill.processes import free_port

NUM_PARALLEL, MAX_QUEUE, CONTEXT_TOKENS, MAX_BODY_BYTES = 8, 64, 512, 1 << 16
NUM_CLIENTS = {"many": 10, "few": 2}
"""Of each key."""
SHORT, LONG = 8, 64
SAMPLE_SECONDS = 1.0
GROWTH_BYTES = 32 << 20
"""More than the usual variation of a server's memory, and less than any relevant leak in an
hour."""
EXPERIMENT = "shadowed"
"""Name of an experiment between the model and itself."""
UNFAIR = 1.25
"""How much longer than the other key's chats those of the key with few clients may take."""
FEWEST_TIMES = 20
"""Chats of a key whose mean time counts."""
TOPICS = (
    "rain",
    "bread",
    "the sea",
    "bees",
    "winter",
    "trains",
    "maps",
    "coffee",
    "music",
    "bridges",
)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@dataclass
class Report:
    """The results of a soak test."""

    counts: Counter[str] = field(default_factory=Counter)
    """Requests by kind."""
    wrong: list[str] = field(default_factory=list)
    """Descriptions of failures."""
    memory_bytes: list[int] = field(default_factory=list)
    """Of the server and its children, without mapped files; one sample every SAMPLE_SECONDS."""

    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {key: [] for key in NUM_CLIENTS}
    )
    """Of whole chats, by key."""

    @property
    def is_fair(self) -> bool:
        """Whether the key with few clients waits no longer than the one with many."""
        few, many = self.seconds["few"], self.seconds["many"]
        if min(len(few), len(many)) < FEWEST_TIMES:
            return True
        return fmean(few) <= UNFAIR * fmean(many)

    @property
    def growth_bytes(self) -> int:
        """How much more memory was taken at most in the last fifth than in the second."""
        fifth = len(self.memory_bytes) // 5
        return max(self.memory_bytes[-fifth:]) - max(self.memory_bytes[fifth : 2 * fifth])


def chat(topic: str, num_tokens: int, **more: object) -> dict[str, Any]:
    """Return a chat whose answer is always the same."""
    content = f"Tell me about {topic}. What is it like?"
    messages = [{"role": "user", "content": content}]
    settings = {"model": MODEL, "temperature": 0.0, "max_tokens": num_tokens}
    return {**settings, "messages": messages, **more}


class Clients:
    """The clients of one key.

    Args:
        expected: What the server says alone, by topic and number of tokens.
    """

    def __init__(
        self,
        key: str,
        http: aiohttp.ClientSession,
        base_url: str,
        expected: dict[tuple[str, int], str],
        report: Report,
    ) -> None:
        self._key = key
        self._http = http
        self._base_url = base_url
        self._expected = expected
        self.report = report
        self._kinds: list[tuple[Callable[[random.Random], Awaitable[str | None]], int]] = [
            (self._whole, 4),
            (self._stream, 6),
            (self._slow_reader, 2),
            (self._no_reader, 1),
            (self._experiment, 3),
            (self._hang_up, 4),
            (self._hang_up_at_once, 2),
            (self._completion, 2),
            (self._vectors, 1),
            (self._constrained, 1),
            (self._malformed, 3),
            (self._oversized, 1),
            (self._too_long, 1),
        ]

    async def work(self, seconds: float, seed: int) -> None:
        """Act as one client."""
        rng = random.Random(seed)
        kinds, weights = zip(*self._kinds, strict=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            (kind,) = rng.choices(kinds, weights)
            name = kind.__name__.removeprefix("_")
            try:
                wrong = await kind(rng)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                wrong = repr(error)
            self.report.counts[name] += 1
            if wrong:
                self.report.wrong.append(f"{name}: {wrong}")

    async def warm_up(self) -> None:
        """Let the server start the processes that read grammars: they take memory once."""
        await self._constrained(random.Random(0))

    def _any_chat(self, rng: random.Random) -> tuple[str, int]:
        return rng.choice(list(self._expected))

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        async with self._http.post(f"{self._base_url}{path}", json=body) as got:
            return got.status, await got.json()

    async def _whole(self, rng: random.Random) -> str | None:
        begin = time.monotonic()
        wrong = await self._chat(rng, MODEL)
        self.report.seconds[self._key].append(time.monotonic() - begin)
        return wrong

    async def _experiment(self, rng: random.Random) -> str | None:
        return await self._chat(rng, EXPERIMENT)

    async def _chat(self, rng: random.Random, model: str) -> str | None:
        asked = self._any_chat(rng)
        status, answer = await self.post("/chat/completions", chat(*asked, model=model))
        if status != 200:
            return f"status {status}"
        return self._unlike(asked, answer["choices"][0]["message"]["content"])

    async def _slow_reader(self, rng: random.Random) -> str | None:
        return await self._stream(rng, pause_seconds=rng.uniform(0.01, 0.2))

    async def _no_reader(self, rng: random.Random) -> str | None:
        bulky = chat(rng.choice(TOPICS), LONG, stream=True, logprobs=True, top_logprobs=20)
        async with self._http.post(f"{self._base_url}/chat/completions", json=bulky) as got:
            await asyncio.sleep(rng.uniform(0.5, 5.0))
            return None if got.status == 200 else f"status {got.status}"

    async def _stream(
        self, rng: random.Random, num_pieces: int | None = None, pause_seconds: float = 0.0
    ) -> str | None:
        asked = self._any_chat(rng)
        text, reason = "", None
        async with self._http.post(
            f"{self._base_url}/chat/completions", json=chat(*asked, stream=True)
        ) as got:
            if got.status != 200:
                return f"status {got.status}"
            async for event in events(got):
                if "error" in event:
                    return str(event["error"]["code"])
                for choice in event["choices"]:
                    text += choice["delta"].get("content") or ""
                    reason = choice["finish_reason"] or reason
                if pause_seconds:
                    await asyncio.sleep(pause_seconds)
                if num_pieces is not None and (num_pieces := num_pieces - 1) <= 0:
                    return self._unlike(asked, text, is_whole=False)
        return self._unlike(asked, text) if reason else "the stream has no end"

    async def _hang_up(self, rng: random.Random) -> str | None:
        return await self._stream(rng, num_pieces=rng.randrange(1, 12))

    async def _hang_up_at_once(self, rng: random.Random) -> str | None:
        asked = self.post("/chat/completions", chat(rng.choice(TOPICS), 400, n=2))
        try:
            await asyncio.wait_for(asked, rng.uniform(0.001, 0.5))
        except TimeoutError:
            return None
        return None

    async def _completion(self, rng: random.Random) -> str | None:
        prompts = [f"{topic} is" for topic in rng.sample(TOPICS, 2)]
        body = {"model": MODEL, "prompt": prompts, "max_tokens": SHORT, "logprobs": 3}
        status, answer = await self.post("/completions", body)
        return None if status == 200 and len(answer["choices"]) == 2 else f"status {status}"

    async def _vectors(self, rng: random.Random) -> str | None:
        body = {"model": MODEL, "input": rng.sample(TOPICS, 3)}
        status, answer = await self.post("/embeddings", body)
        return None if status == 200 and len(answer["data"]) == 3 else f"status {status}"

    async def _constrained(self, rng: random.Random) -> str | None:
        wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
        body = chat(rng.choice(TOPICS), LONG, response_format=wanted)
        status, answer = await self.post("/chat/completions", body)
        if status != 200:
            return f"status {status}"
        (choice,) = answer["choices"]
        if choice["finish_reason"] == "stop":
            json.loads(choice["message"]["content"])
        return None

    async def _malformed(self, rng: random.Random) -> str | None:
        body = rng.choice(
            [
                b"{",
                b"\xff\xfe",
                b"[]",
                json.dumps(chat("rain", 1) | {"temperature": "hot"}).encode(),
                json.dumps(chat("rain", 1) | {"messages": []}).encode(),
                json.dumps(chat("rain", 1) | {"logit_bias": [[-1, 999]] * 5000}).encode(),
                json.dumps(chat("rain", 1) | {"grammar": "root ::= ("}).encode(),
            ]
        )
        headers = {"Content-Type": "application/json"}
        url = f"{self._base_url}/chat/completions"
        async with self._http.post(url, data=body, headers=headers) as got:
            return None if got.status == 400 else f"status {got.status}"

    async def _oversized(self, _rng: random.Random) -> str | None:
        body = chat("x" * MAX_BODY_BYTES, 1)
        try:
            status, _ = await self.post("/chat/completions", body)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return None  # refused before it was sent to its end
        return None if status == 413 else f"status {status}"

    async def _too_long(self, _rng: random.Random) -> str | None:
        status, answer = await self.post("/chat/completions", chat("rain " * CONTEXT_TOKENS, 1))
        expected = (400, "context_length_exceeded")
        found = (status, answer["error"]["code"])
        return None if found == expected else f"{found}"

    def _unlike(self, asked: tuple[str, int], text: str, *, is_whole: bool = True) -> str | None:
        expected = self._expected[asked]
        same = text == expected if is_whole else expected.startswith(text)
        return None if same else f"{asked} should be {expected!r}, and is {text!r}"


async def soak(server: Server, seconds: float, seed: int = 0) -> Report:
    """Run clients for `seconds`; return the report."""
    report = Report()
    async with AsyncExitStack() as stack:
        sessions = {key: await stack.enter_async_context(session(key)) for key in NUM_CLIENTS}
        http = sessions["many"]
        alone = Clients("many", http, server.base_url, {}, report)
        expected = await lonely_answers(alone)
        await alone.warm_up()
        watching = asyncio.create_task(_watch(server.process.pid, report))
        await asyncio.gather(
            *(
                Clients(key, sessions[key], server.base_url, expected, report).work(
                    seconds, seed + number
                )
                for number, key in enumerate(
                    key for key, num_clients in NUM_CLIENTS.items() for _ in range(num_clients)
                )
            )
        )
        watching.cancel()
        if not await _all_slots_free(http, server.base_url):
            report.wrong.append("a slot is still taken")
        if await lonely_answers(alone) != expected:
            report.wrong.append("the server no longer says what it said before")
        async with http.get(f"{server.base_url}/experiments/{EXPERIMENT}") as got:
            shadow = (await got.json())["shadow"]
        if shadow["failed"] or not shadow["pairs"]:
            report.wrong.append(f"shadows: {shadow}")
    if not report.is_fair:
        report.wrong.append("the key with few clients waits longer")
    if report.growth_bytes > GROWTH_BYTES:
        report.wrong.append(f"memory has grown by {report.growth_bytes >> 20} MiB")
    return report


async def lonely_answers(clients: Clients) -> dict[tuple[str, int], str]:
    """Send all requests one after the other."""
    answers = {}
    for topic in TOPICS:
        for num_tokens in (SHORT, LONG):
            status, answer = await clients.post("/chat/completions", chat(topic, num_tokens))
            assert status == 200
            answers[topic, num_tokens] = answer["choices"][0]["message"]["content"]
    return answers


def settings(setting: Setting) -> dict[str, object]:
    """Return potstill's settings besides those of every benchmark; write its file of keys."""
    keys_path = setting.directory / "keys.toml"
    hashes = {key: hashlib.sha256(key.encode()).hexdigest() for key in NUM_CLIENTS}
    keys_path.write_text(
        "".join(
            f'[keys.{key}]\nsha256 = "{digest}"\nadmin = {str(key == "many").lower()}\n'
            for key, digest in hashes.items()
        )
    )
    variants = f'{{student = {{model = "{MODEL}", weight = 1}}, teacher = {{weight = 1}}}}'
    return {
        "max_queue": MAX_QUEUE,
        "max_body_bytes": MAX_BODY_BYTES,
        "keys_path": keys_path,
        "paths": f'{{teacher = "{setting.gguf_path}"}}',
        "experiments": f"{{{EXPERIMENT} = {{variants = {variants}}}}}",
        "storage": f'{{url = "sqlite:///{setting.directory / "traffic.sqlite"}"}}',
    }


async def _watch(pid: int, report: Report) -> None:
    while True:
        report.memory_bytes.append(sum(map(_anonymous_bytes, _family(pid))))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _all_slots_free(http: aiohttp.ClientSession, base_url: str) -> bool:
    root = base_url.removesuffix("/v1")
    for _ in range(50):
        async with http.get(f"{root}/slots") as got:
            if not any(slot["is_processing"] for slot in await got.json()):
                return True
        await asyncio.sleep(0.2)
    return False


def _family(pid: int) -> list[int]:
    """Return a process with its descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(c) for task in tasks for c in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(child))]


def _anonymous_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if "RssAnon" in line)


def main() -> int:
    """Soak and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--gguf", type=Path, default=embedded_gguf())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        setting = Setting(
            given.gguf,
            Path(name),
            num_parallel=NUM_PARALLEL,
            context_tokens=CONTEXT_TOKENS,
            threads=given.threads,
        )
        port = free_port()
        command = potstill(setting, port, **settings(setting))
        with running("potstill", command, port, Path(name) / "log") as server:
            report = asyncio.run(soak(server, 60 * given.minutes, given.seed))
    print(f"{given.gguf.name}, {given.minutes:g} minutes, {sum(report.counts.values())} requests")
    for kind, count in sorted(report.counts.items()):
        print(f"  {kind}: {count}")
    for key, times in report.seconds.items():
        print(f"{key}: {len(times)} whole chats, {fmean(times):.2f} s each on average")
    first, last = report.memory_bytes[len(report.memory_bytes) // 5], report.memory_bytes[-1]
    print(f"memory: {first / 2**20:.1f} MiB at a fifth, {last / 2**20:.1f} MiB in the end")
    print(f"{len(report.wrong)} wrong", *report.wrong[:20], sep="\n  ")
    return int(bool(report.wrong))


if __name__ == "__main__":
    raise SystemExit(main())
