import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from potstill.errors import ConfigError
from serve.config import ServeConfig
from serve.exchange_log import ExchangeLog
from serve.wire.chat import ChatCompletion


def answer(text: str = "Hi!") -> ChatCompletion:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "student",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {},
    }


def request(text: str = "Hello") -> dict:
    return {"model": "student", "messages": [{"role": "user", "content": text}], "temperature": 0.3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.jsonl"


def test_an_exchange_is_a_line_with_all_that_was_sent(path):
    record = ExchangeLog(path)
    record.append(request(), answer())
    record.append(request("Grüße\u2028\n"), answer("东京"))
    first, second = (json.loads(line) for line in path.read_text().split("\n")[:-1])
    assert first == {"created": 7, "model": "student", "request": request(), "response": answer()}
    assert second["request"] == request("Grüße\u2028\n")


def test_the_log_is_private(path):
    ExchangeLog(path).append(request(), answer())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lone_surrogates_can_be_logged(path):
    ExchangeLog(path).append({**request(), "metadata": "\ud83d"}, answer())
    assert json.loads(path.read_text())["request"]["metadata"] == "\ud83d"


def test_lines_of_several_servers_stay_whole(path):
    texts = [f"{number} " * 5000 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: ExchangeLog(path).append(request(text), answer()), texts))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["request"]["messages"][0]["content"] for line in lines) == sorted(texts)


def test_a_log_that_cannot_be_written_is_refused_at_once(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "record.jsonl"):
        with pytest.raises(ConfigError, match="requests cannot be recorded") as caught:
            ExchangeLog(path)
        assert str(path) in str(caught.value.found)


def test_nothing_is_recorded_by_default():
    assert ServeConfig().record_path is None
    assert ServeConfig(record_path="").record_path is None
    assert ServeConfig(record_path="a.jsonl").record_path == Path("a.jsonl")


def test_a_log_that_was_moved_away_is_started_anew(path):
    record = ExchangeLog(path)
    record.append(request("one"), answer())
    path.rename(path.with_name("yesterday.jsonl"))
    record.append(request("two"), answer())
    assert json.loads(path.read_text())["request"] == request("two")


def test_a_failed_write_is_logged_once_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "gone").mkdir()
    record = ExchangeLog(tmp_path / "gone" / "record.jsonl")
    (tmp_path / "gone" / "record.jsonl").unlink()
    (tmp_path / "gone").rmdir()
    record.append(request("a secret"), answer())
    record.append(request("a secret"), answer())
    assert caplog.text.count("requests are not recorded") == 1
    assert "secret" not in caplog.text


def test_a_full_disk_leaves_no_half_line(path, monkeypatch, caplog):
    record = ExchangeLog(path)
    record.append(request(), answer())
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:20]))
    record.append(request(), answer())
    assert path.read_bytes() == before
    assert "No space left" in caplog.text


def test_each_outage_is_logged(tmp_path, caplog):
    (tmp_path / "disk").mkdir()
    record = ExchangeLog(tmp_path / "disk" / "record.jsonl")
    for number in (1, 2):
        (tmp_path / "disk").rename(tmp_path / "away")
        record.append(request(), answer())
        record.append(request(), answer())
        assert caplog.text.count("requests are not recorded") == number
        (tmp_path / "away").rename(tmp_path / "disk")
        record.append(request(), answer())
    assert len((tmp_path / "disk" / "record.jsonl").read_text().splitlines()) == 2
