"""Failures in what servers really write: their record and their storage."""

import asyncio
import json
import stat
import time

import pytest
from sqlalchemy import insert

from generate.imports.reading import read_requests
from potstill.errors import ConfigError
from serve.config import ServeConfig
from serve.exchange_log import ExchangeLog
from serve.recorded import write_failures
from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.records import AnswerRecord, Place, Said
from serve.storage.storage import opened
from serve.wire.chat import ChatMessage
from tests.fixtures.served import run_of_gguf

CASCADES = {"careful": {"student": "student", "teacher": "teacher", "most_tokens": 50}}
EXPERIMENTS = {
    "trial": {
        "variants": {"student": {"weight": 1}, "teacher": {"weight": 1}},
        "guardrails": {"slow_seconds": 5.0, "long_tokens": 100},
    }
}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr("serve.storage.storage.COMMIT_PATIENCE_SECONDS", 30.0)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    return run_of_gguf(tmp_path / "run", path)


@pytest.fixture
def collect(run, tmp_path):
    """Collect failures; return the questions by kind."""

    def collect(config, since=0.0, most=100, recent=0):
        path = tmp_path / "found.jsonl"
        counts = write_failures(config, run, path, since, most, recent)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert sum(counts.values()) == len(rows)
        found = {}
        for row in rows:
            kind = row["source"].removeprefix("update/")
            found.setdefault(kind, []).append(row["messages"][-1]["content"])
        assert {kind: len(texts) for kind, texts in found.items()} == counts
        readable = list(read_requests([str(path)]))
        assert [one.messages[-1].content for one in readable] == [
            text for texts in found.values() for text in texts
        ]
        return found

    return collect


def completion(model, text="Yes.", reason="stop", created=1_000, **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": created, "model": model,
        "choices": [{**choice, "finish_reason": reason}], "usage": usage,
    }  # fmt: skip


def request(text, model="student"):
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record.jsonl"
    return path, ExchangeLog(path)


def test_what_a_cascade_escalates_and_what_is_cut_off_is_found_in_the_record(record, collect):
    path, log = record
    log.append(request("Hard?", "careful"), completion("teacher"))
    log.append(request("Easy?", "careful"), completion("student"))
    log.append(request("Long?"), completion("student", reason="length"))
    log.append(request("Fine?"), completion("student"))
    log.append(request("Teacher's?", "teacher"), completion("teacher", reason="length"))
    config = ServeConfig(record_path=path, cascades=CASCADES)
    assert collect(config) == {"escalated": ["Hard?"], "cut off": ["Long?"]}
    assert collect(config, recent=1)["recent"] == ["Fine?"], "the newest"


def test_requests_before_the_version_was_served_are_left_to_it(record, collect):
    path, log = record
    log.append(request("Old?"), completion("student", reason="length", created=1_000))
    log.append(request("New?"), completion("student", reason="length", created=3_000))
    assert collect(ServeConfig(record_path=path), since=2_000.0) == {"cut off": ["New?"]}


def test_a_request_counts_once_and_the_newest_are_kept(record, collect):
    path, log = record
    for number in (1, 2, 3, 2):
        log.append(request(f"{number}?"), completion("student", reason="length"))
    assert collect(ServeConfig(record_path=path), most=2) == {"cut off": ["3?", "2?"]}


def test_lines_that_are_no_chats_are_skipped(record, collect, caplog):
    path, log = record
    log.append(request("Long?"), completion("student", reason="length"))
    hostile = ["", "[", "[]", "7", '{"request": 1, "response": 2}', "\udcff", "[" * 99_999]
    hostile += ['{"request": {"messages": {}}, "response": {"model": "student"}}']
    hostile += ['{"request": {"messages": [1]}, "response": {"model": [], "choices": [{}]}}']
    with path.open("a", errors="surrogateescape") as stream:
        stream.write("\n".join(hostile) + "\n")
    assert collect(ServeConfig(record_path=path)) == {"cut off": ["Long?"]}
    assert f"{len(hostile)} lines are no recorded chats" in caplog.text


def answer(number, model="student", **changes):
    values = {
        "id": f"a{number}", "model": model, "created": time.time(), "seconds": 0.5,
        "outcome": "whole", "messages": [ChatMessage(role="user", content=f"{number}?")],
        "conversation": f"c{number}", "prompt": f"p{number}", "said": Said("Yes.", "stop", 3, 4),
    }  # fmt: skip
    return AnswerRecord(**values | changes)


def place(variant="student", **changes):
    return Place(experiment="trial", variant=variant, user="u", **changes)


def test_what_people_judges_and_guardrails_found_is_in_the_storage(run, collect):
    answers = [
        answer(1),
        answer(2),
        answer(3, "teacher"),
        answer(4),
        answer(5, "teacher", place=place("teacher")),
        answer(6, place=place(shadow_of="a5"), outcome="failed", said=Said()),
        answer(7, outcome="failed", said=Said()),
        answer(8, place=place(), seconds=9.0),
        answer(9, place=place(), said=Said("Yes.", "stop", 3, 400)),
        answer(10, said=Said("Yes", "length", 3, 4)),
        answer(11, "teacher", place=place("teacher")),
        answer(12, place=place()),
    ]
    opinions = {
        tables.feedback: [("a1", 0.0), ("a2", 1.0), ("a3", 0.0)],
        tables.votes: [("a4", "a3", 0.0), ("a2", "a3", 0.5)],
        tables.judgments: [("a11", 0.0, 1), ("a12", 0.0, 2)],
    }

    def judge(connection):
        for response_id, score in opinions[tables.feedback]:
            row = {"response_id": response_id, "score": score, "created": 1.0}
            connection.execute(insert(tables.feedback).values(row))
        for first, second, score in opinions[tables.votes]:
            row = {"first_id": first, "second_id": second, "score": score, "is_blind": True}
            connection.execute(insert(tables.votes).values(row | {"created": 1.0}))
        for number, is_valid in ((1, True), (2, False)):
            row = {"number": number, "experiment": "trial", "judge": "j", "is_valid": is_valid}
            connection.execute(insert(tables.batches).values(row | {"created": 1.0}))
        for pair_id, score, batch in opinions[tables.judgments]:
            row = {"pair_id": pair_id, "score": score, "batch": batch, "experiment": "trial"}
            connection.execute(insert(tables.judgments).values(row | {"judge": "j"}))

    with opened(StorageConfig(), run.traffic_path) as storage:

        async def store():
            for one in answers:
                await storage.record(one)
            await storage.write(judge)

        asyncio.run(store())
    assert collect(ServeConfig(experiments=EXPERIMENTS)) == {
        "rated": ["1?"],
        "outvoted": ["4?"],
        "lost": ["11?"],
        "failed": ["7?", "5?"],
        "cut off": ["10?"],
        "slow": ["8?"],
        "long": ["9?"],
    }


def test_without_failures_there_is_nothing_to_learn_from(run, record, collect):
    path, log = record
    with pytest.raises(ConfigError, match="no failure of the student is recorded"):
        collect(ServeConfig())
    log.append(request("Fine?"), completion("student"))
    with pytest.raises(ConfigError, match=r"1 recorded requests(.|\n)*--recent"):
        collect(ServeConfig(record_path=path))
    assert not run.traffic_path.exists(), "looking makes none"
