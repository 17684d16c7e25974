"""Written values are in both databases, and text that must not be stored is not."""

import asyncio
import sqlite3
import stat
import time
import traceback
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError

from potstill import former_names
from potstill.config import validate_tables
from potstill.errors import ArtifactError, BackendUnavailableError, ConfigError, SchemaVersionError
from serve.backends.config import UpstreamConfig
from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.records import NOTHING, Said
from serve.storage.redaction import NOT_REDACTED
from serve.storage.storage import opened
from serve.wire.chat import ChatMessage
from tests.fixtures.waiting import eventually

from .conftest import place, record

DAY = 86_400


def stored(storage, *columns):
    query = select(*columns).order_by(tables.answers.c.number)
    return asyncio.run(storage.read(lambda connection: connection.execute(query).all()))


def save(storage, *records) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(storage.record(one) for one in records))

    asyncio.run(all_of_them())


def texts(storage):
    return stored(storage, tables.answers.c.messages, tables.answers.c.answer)


def test_an_id_that_cannot_be_stored_is_unknown(open_storage):
    # PostgreSQL has no texts with a null character.
    assert asyncio.run(open_storage().answer("a\0")) is None


def test_answers_come_back_as_they_were(open_storage):
    storage = open_storage()
    save(storage, record(1, place=place(shares={"student": 1.0})), record(2))
    columns = tables.answers.c
    assert stored(storage, columns.id, columns.experiment, columns.user) == [
        ("a1", "e", "u"), ("a2", None, None),
    ]  # fmt: skip
    assert texts(storage)[0] == ('[{"role": "user", "content": "Question 1"}]', "Answer 1")
    found = asyncio.run(storage.answer("a1"))
    assert (found.model, found.conversation, found.prompt) == ("student", "c1", "p1")
    assert asyncio.run(storage.answer("a3")) is None


def test_an_answer_is_stored_once_and_a_user_assigned_once(open_storage):
    storage = open_storage()
    first = record(1, place=place(shares={"student": 1.0}))
    save(storage, first, first, record(2, place=place("teacher", shares={"teacher": 1.0})))
    assert len(texts(storage)) == 2
    query = select(tables.users.c.variant)
    assert asyncio.run(storage.read(lambda one: one.scalars(query).all())) == ["student"]


def test_commits_are_visible_to_the_next_process(open_storage):
    first = open_storage()
    save(first, record(1))
    salt, hashed = first.salt, first.hashed("user", "me")
    first.close()
    second = open_storage()
    assert len(texts(second)) == 1
    assert (second.salt, second.hashed("user", "me")) == (salt, hashed)


def test_pending_writes_are_finished_on_close(open_storage):
    storage = open_storage()
    for number in range(500):
        storage.record_soon(record(number))
    storage.close()
    assert len(texts(open_storage())) == 500


def test_texts_are_redacted(open_storage):
    storage = open_storage(redact={**StorageConfig().redact, "name": "Bob"})
    asked = "I am Bob, bob.b+x@mail.example.org, card 4111 1111 1111 1111, room 12."
    messages = [ChatMessage(role="user", content=asked)]
    save(storage, record(1, messages=messages, said=Said("Hi Bob\0!", "stop", 1, 1)))
    (kept,) = texts(storage)
    assert kept.messages == (
        '[{"role": "user", "content": "I am [name], [email], card [number], room 12."}]'
    )
    assert kept.answer == "Hi [name]\ufffd!"


def test_redaction_of_a_hostile_text_comes_to_an_end(open_storage):
    storage = open_storage()
    for character in ("a", "1", "a.", "1 "):  # quadratic would be hours
        assert storage.redacted(character * 200_000) not in (None, NOT_REDACTED)


def test_what_takes_too_long_to_redact_is_not_stored(open_storage, monkeypatch):
    monkeypatch.setattr("serve.storage.redaction.SECONDS", 0.05)
    storage = open_storage(redact={"words": r"(a|aa)+$"})
    assert storage.redacted("a" * 200 + "b") == NOT_REDACTED


def test_many_slow_texts_take_as_long_as_one(open_storage, monkeypatch):
    monkeypatch.setattr("serve.storage.redaction.SECONDS", 0.2)
    storage = open_storage(redact={"words": r"(a|aa)+$"})
    slow = [ChatMessage(role="user", content="a" * 200 + "b") for _ in range(50)]
    started = time.process_time()
    save(storage, replace(record(1), messages=slow))
    assert time.process_time() - started < 5
    assert texts(storage)[0][0].count(NOT_REDACTED) == 50


def test_slow_texts_of_one_key_do_not_delay_those_of_others(open_storage, monkeypatch):
    monkeypatch.setattr("serve.storage.redaction.SECONDS", 0.5)
    storage = open_storage(redact={"words": r"(a|aa)+$"})
    slow = [ChatMessage(role="user", content="a" * 200 + "b")]
    greedy = [record(number, messages=slow, owner="greedy") for number in range(30)]
    started = time.process_time()
    save(storage, *greedy, record(30, owner="modest"))
    assert time.process_time() - started < 10
    kept = [row.messages for row in texts(storage)]
    assert all(NOT_REDACTED in one for one in kept[:30])
    assert "Question 30" in kept[30]


def test_answers_that_wait_for_a_locked_database_take_little_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("serve.storage.writer.MAX_WAITING_BYTES", 1_000_000)
    sizes = [100_000] * 8 + [10] * 3
    path = tmp_path / "traffic.sqlite"
    with opened(StorageConfig(), path) as storage:
        save(storage, record(0))
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            for number, size in enumerate(sizes, 1):
                words = ChatMessage(role="user", content="a" * size)
                storage.record_soon(record(number, messages=[words], place=place()))
            other.rollback()
        save(storage, record(12))
        kept = texts(storage)
        numbers = stored(storage, tables.answers.c.id, tables.answers.c.prompt_tokens)
    # Each may take an eighth of what is left, so that large ones leave room for small ones.
    expected = [False] + [False] * 2 + [True] * 6 + [False] * 3 + [False]
    assert [row.messages is None for row in kept] == expected
    assert [row.answer is None for row in kept] == expected
    assert numbers == [(f"a{number}", 3) for number in range(13)]
    assert "stored without its texts" in caplog.text


def test_messages_are_the_same_only_with_equal_calls_and_thinking(open_storage):
    storage = open_storage()
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    more = [{}, {"tool_calls": None}, {"tool_calls": [call]}, {"name": "a"}, {"reasoning": "a"}]
    hashes = [
        storage.prompt_hashes("", [ChatMessage(role="assistant", content="Hi", **one)])[1]
        for one in more
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_texts_can_be_left_out(open_storage):
    storage = open_storage(text=False)
    save(storage, record(1))
    assert texts(storage) == [(None, None)]
    assert storage.redacted("x") is None


def test_a_shadow_keeps_the_messages_once(open_storage):
    storage = open_storage()
    save(storage, record(1, place=place()), record(2, place=place("teacher", shadow_of="a1")))
    assert [row.messages is None for row in texts(storage)] == [False, True]


def test_old_texts_are_erased_and_counts_stay(open_storage):
    storage = open_storage(retention_days=2)
    old = time.time() - 3 * DAY
    save(storage, record(1, created=old), record(2))
    comment = {"response_id": "a1", "created": old, "score": 1.0, "comment": "thanks"}

    async def rate() -> None:
        await storage.write(lambda one: one.execute(insert(tables.feedback).values(comment)))

    asyncio.run(rate())
    storage.close()
    again = open_storage(retention_days=2)

    def kept() -> list:
        return stored(again, tables.answers.c.answer, tables.answers.c.completion_tokens)

    assert eventually(lambda: kept()[0].answer is None)
    assert kept() == [(None, 4), ("Answer 2", 4)]
    said = asyncio.run(again.read(lambda one: one.execute(select(tables.feedback)).one()))
    assert (said.score, said.comment) == (1.0, None)


def test_prompts_without_an_answer_are_erased_too(open_storage):
    storage, old = open_storage(retention_days=2, max_answers=2), time.time() - 3 * DAY
    unanswered = {"outcome": "cancelled", "said": NOTHING, "place": place()}

    async def clean_up() -> None:
        await storage.write(storage._retention.clean_up)

    save(storage, record(1, created=old, **unanswered), record(2, **unanswered))
    asyncio.run(clean_up())
    first, second = texts(storage)
    assert first.messages is None
    assert "Question 2" in second.messages
    save(storage, record(3), record(4))
    asyncio.run(clean_up())
    assert [row.messages is None for row in texts(storage)] == [True, True, False, False]


def test_an_erased_text_is_in_no_file(tmp_path):
    config, path = StorageConfig(retention_days=2), tmp_path / "traffic.sqlite"

    def has_text() -> bool:
        return any(b"Question 1" in one.read_bytes() for one in tmp_path.iterdir())

    with opened(config, path) as storage:
        save(storage, record(1, created=time.time() - 3 * DAY))
        assert has_text()
    with opened(config, path):
        assert eventually(lambda: not has_text())


def test_a_clock_that_jumps_erases_nothing_and_keeps_nothing(open_storage, monkeypatch):
    storage, now = open_storage(retention_days=2), time.time()
    save(storage, record(1), record(2, created=now + 1000 * DAY))
    monkeypatch.setattr(time, "time", lambda: now + 1000 * DAY)

    async def clean_up() -> None:
        await storage.write(storage._retention.clean_up)

    asyncio.run(clean_up())
    assert [row.answer for row in texts(storage)] == ["Answer 1", "Answer 2"]
    (first,), (second,) = stored(storage, tables.answers.c.created)
    assert abs(second - first) < 60


def test_the_newest_answers_are_kept(open_storage):
    storage = open_storage(max_answers=2)
    votes = {"created": 1.0, "first_id": "a1", "second_id": "a1", "score": 1, "is_blind": True}
    ratings = [
        {"response_id": f"a{number}", "created": time.time(), "score": 1.0, "comment": "thanks"}
        for number in (0, 2, 4)
    ]
    save(storage, record(0), record(1), record(2, place=place()), record(3), record(4))

    async def clean_up() -> None:
        await storage.write(lambda one: one.execute(insert(tables.votes).values(votes)))
        await storage.write(lambda one: one.execute(insert(tables.feedback).values(ratings)))
        for _ in range(2):
            await storage.write(storage._retention.clean_up)

    asyncio.run(clean_up())
    assert stored(storage, tables.answers.c.id, tables.answers.c.answer) == [
        ("a1", None), ("a2", None), ("a3", "Answer 3"), ("a4", "Answer 4"),
    ]  # fmt: skip
    query = select(tables.feedback.c.response_id, tables.feedback.c.comment)
    kept = asyncio.run(storage.read(lambda one: one.execute(query).all()))
    assert sorted(kept) == [("a2", None), ("a4", "thanks")]


def test_texts_can_be_kept_forever():
    assert StorageConfig(retention_days=0).retention_days is None
    assert StorageConfig().retention_days == 30


def test_tables_of_another_version_are_refused(open_storage):
    storage = open_storage()
    change = update(tables.facts).where(tables.facts.c.name == "version").values(value="7")

    async def work() -> None:
        await storage.write(lambda connection: connection.execute(change))

    asyncio.run(work())
    with pytest.raises(SchemaVersionError, match="version 1"):
        open_storage()


def test_a_failing_job_fails_alone(open_storage):
    storage = open_storage()

    def bad(connection) -> None:
        connection.execute(insert(tables.votes).values(first_id="only"))

    async def work() -> list[object]:
        jobs = [storage.record(record(1)), storage.write(bad), storage.record(record(2))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    results = asyncio.run(work())
    assert isinstance(results[1], Exception)
    assert len(texts(storage)) == 2


def test_an_error_of_the_database_does_not_show_what_was_to_be_stored(open_storage):
    storage = open_storage()
    rating = {"response_id": "a1", "score": 1.0, "comment": "what a user wrote"}

    async def work() -> None:
        await storage.write(lambda one: one.execute(insert(tables.feedback).values(rating)))

    with pytest.raises(IntegrityError) as caught:
        asyncio.run(work())
    assert "what a user wrote" not in str(caught.value).partition("DETAIL")[0]


def test_a_closed_storage_refuses_writes(open_storage):
    storage = open_storage()
    storage.close()
    refused: Future[None] = storage.submit(lambda _: None)
    with pytest.raises(BackendUnavailableError):
        refused.result(1)


@pytest.mark.parametrize("url", ["mysql://host/name", "no address", "sqlite3:///x"])
def test_unsupported_databases_are_refused(url):
    with (
        pytest.raises(ConfigError, match=r"serve\.storage\.url"),
        opened(StorageConfig(url=url), "unused"),
    ):
        pass


@pytest.mark.parametrize(
    ("table", "place", "url"),
    [
        (StorageConfig, "url", "postgresql+psycopg://me:hidden@/name"),
        (StorageConfig, "url", "postgresql+psycopg://host/name?user=me&password=hidden"),
        (UpstreamConfig, "base_url", "http://127.0.0.1/v1?api-key=hidden"),
        (UpstreamConfig, "base_url", "http://me:hidden@127.0.0.1/v1"),
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_shown(table, place, url):
    with pytest.raises(ConfigError, match=f"serve.{place}") as caught:
        validate_tables({"serve": {place: url}}, {"serve": table}, "a test")
    shown = "".join(traceback.format_exception(caught.value)) + str(caught.value.to_dict())
    assert "hidden" not in shown


def test_an_unavailable_database_is_reported(tmp_path):
    with (
        pytest.raises(ArtifactError, match="cannot be opened"),
        opened(StorageConfig(url=f"postgresql+psycopg://me@/name?host={tmp_path}"), tmp_path),
    ):
        pass
    with (
        pytest.raises(ArtifactError, match="cannot be written"),
        opened(StorageConfig(), tmp_path / "absent" / "x.sqlite"),
    ):
        pass


def test_a_file_is_private_and_has_write_ahead_logging(tmp_path):
    path = tmp_path / "traffic.sqlite"
    with opened(StorageConfig(), path) as storage:
        mode = asyncio.run(
            storage.read(lambda one: one.exec_driver_sql("pragma journal_mode").scalar())
        )
    assert mode == "wal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_table_with_a_former_name_is_renamed_with_its_rows(open_storage, url):
    ((former, name),) = former_names.TABLES.items()
    open_storage().close()
    engine = create_engine(url)
    with engine.begin() as connection:
        head = {"experiment": "e", "judge": "j"}
        batch = head | {"number": 1, "is_valid": True, "created": 0.0}
        connection.execute(insert(tables.batches).values(batch))
        judgment = head | {"batch": 1, "pair_id": "p", "score": 1.0}
        connection.execute(insert(tables.judgments).values(judgment))
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {former}"))
    open_storage().close()
    with engine.begin() as connection:
        assert connection.execute(text("SELECT pair_id FROM judgments")).all() == [("p",)]
        assert former not in inspect(connection).get_table_names()
    engine.dispose()
