import asyncio
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.storage import opened
from serve.storage.writer import _is_transient
from tests.fixtures.waiting import eventually

from .conftest import record


def test_a_database_that_is_late_keeps_only_the_first_client_waiting(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("serve.storage.storage.BUSY_SECONDS", 0.01)
    monkeypatch.setattr("serve.storage.storage.COMMIT_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("serve.storage.writer.LATE_SECONDS", 0.0)
    path = tmp_path / "traffic.sqlite"
    with opened(StorageConfig(), path) as storage:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            asyncio.run(storage.record(record(0)))
            assert eventually(lambda: storage._writer.is_late)
            for number in (1, 2):
                asyncio.run(storage.record(record(number)))
            other.rollback()
        query = select(tables.answers.c.id).order_by(tables.answers.c.id)
        found = asyncio.run(storage.write(lambda connection: [*connection.scalars(query)], 30))
        assert found == ["a0", "a1", "a2"]
        assert caplog.text.count("not recorded in time") == 1
        assert eventually(lambda: not storage._writer.is_late)


class DriverError(Exception):
    def __init__(self, message: str, **state: str | None) -> None:
        super().__init__(message)
        self.__dict__ |= state


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (DriverError("database is locked"), True),
        (DriverError("unable to open database file"), False),
        (DriverError("server closed the connection unexpectedly", sqlstate=None), True),
        (DriverError("the database system is shutting down", sqlstate="57P03"), True),
        (DriverError("connection failure", sqlstate="08006"), True),
        (DriverError("could not extend file", sqlstate="53100"), False),
    ],
)
def test_locks_and_lost_connections_are_transient_and_full_disks_are_not(error, transient):
    assert _is_transient(OperationalError("insert", {}, error)) is transient
