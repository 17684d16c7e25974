"""Live traffic in a database: SQLite in WAL mode, or PostgreSQL.

A write is committed when its future is done; it then survives a killed process. With SQLite's
synchronous=NORMAL, a power failure may lose the last commits, but nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from sys import getsizeof
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from potstill import former_names
from potstill.errors import ArtifactError, ConfigError, SchemaVersionError
from serve.errors import RetryLaterError
from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.records import AnswerRecord, StoredAnswer
from serve.storage.redaction import Redaction, Texts
from serve.storage.retention import Retention
from serve.storage.writer import Work, Writer
from serve.wire.chat import ChatMessage

logger = logging.getLogger(__name__)

T = TypeVar("T")

PRIVATE = 0o600
"""Mode of a new database: only its owner may read it."""
BUSY_SECONDS = 5.0
"""How long SQLite waits for another process's write."""
RETENTION_SECONDS = 600.0
"""How often old texts are erased."""
COMMIT_PATIENCE_SECONDS = 1.0
"""How long a request may wait for the database: a hanging one must not block clients."""


class Storage:
    """An open database.

    Raises:
        ConfigError: The URL is not a supported database's.
        ArtifactError: The database cannot be opened or written.
        SchemaVersionError: Its tables have another version.
    """

    def __init__(self, config: StorageConfig, default_path: Path) -> None:
        self._redaction = Redaction(config)
        url = _checked_url(config.url, default_path)
        self._engine = _engine(url)
        try:
            with self._engine.begin() as connection:
                _rename_former_tables(connection)
                tables.metadata.create_all(connection)
                self.salt = _enroll(connection)
        except SQLAlchemyError as error:
            raise ArtifactError(
                "the storage cannot be opened",
                where=f"serve.storage.url {url.render_as_string(hide_password=True)}",
                found=getattr(error, "orig", None) or error,
            ) from error
        finally:
            # Also after a failure: no connection may stay open.
            self._engine.dispose()
        self._retention = Retention(config, self._engine)
        self._writer = Writer(
            self._engine,
            self._retention.clean_up,
            RETENTION_SECONDS,
            self._retention.empty_log,
        )

    def close(self) -> None:
        """Write pending work, and close."""
        self._writer.close()
        self._engine.dispose()

    async def write(
        self, work: Callable[[Connection], T], patience_seconds: float | None = None
    ) -> T:
        """Return what `work` returns, once it is committed.

        Args:
            patience_seconds: How long to wait for that; None waits for a moment.

        Raises:
            BackendUnavailableError: The database is locked, or has failed, or too many writes are
                pending. Those that are pending are committed later all the same.
        """
        return await _committed(self.submit(work), patience_seconds)

    def submit(self, work: Callable[[Connection], T], *, is_kept: bool = False) -> Future[T]:
        """Return a future that is done when `work` is committed.

        Args:
            is_kept: Whether it is repeated until it is committed, such as when a disk is full.
        """
        return self._writer.submit(work, is_kept=is_kept)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, called with a connection in another thread.

        Raises:
            BackendUnavailableError: The database has failed.
        """

        def connected() -> T:
            with self._engine.connect() as connection:
                return work(connection)

        with _translated():
            return await asyncio.to_thread(connected)

    async def record(self, record: AnswerRecord) -> None:
        """Store an answer, waiting for the commit for a moment; a failure is logged.

        A database that is late already keeps no further client waiting.
        """
        try:
            done = self._submit_record(record)
            if not self._writer.is_late:
                await _committed(done)
        except Exception as error:
            logger.error("an answer is not recorded in time: %s", type(error).__name__)

    def record_soon(self, record: AnswerRecord) -> None:
        """Store an answer without waiting."""
        self._submit_record(record)

    def hashed(self, *parts: str) -> str:
        """Return a salted hash: the same for the same parts in this database."""
        return salted_hash(self.salt, *parts).hex()[:32]

    def prompt_hashes(self, user: str, messages: Sequence[ChatMessage]) -> tuple[str, str]:
        """Return a hash that all turns of a conversation share, and one of all messages."""
        said = [_all_of(one) for one in messages]
        first = next((n for n, one in enumerate(messages) if one.role == "user"), 0)
        return self.hashed("conversation", user, *said[: first + 1]), self.hashed("prompt", *said)

    def redacted(self, text: str | None, owner: str = "") -> str | None:
        """Return the text of an owner to store; called by work that is written."""
        return self._redaction.text(text, owner)

    async def answer(self, answer_id: str) -> StoredAnswer | None:
        """Return a stored complete answer; None if there is none with this id."""
        if "\0" in answer_id:
            return None  # PostgreSQL cannot look for it
        found = tables.answers.c
        query = select(found.id, found.model, found.conversation, found.prompt)
        query = query.where(found.id == answer_id, found.outcome == "whole")
        # Through the writer: it includes earlier records that are not committed yet.
        row = await self.write(lambda connection: connection.execute(query).first())
        return None if row is None else StoredAnswer(*row)

    def _submit_record(self, record: AnswerRecord) -> Future[None]:
        """Store an answer; without its texts while those that are not committed fill the memory."""
        is_shadow = record.place is not None and record.place.shadow_of is not None
        texts = None if is_shadow else self._redaction.texts(record.messages)
        answer = record.said.answer
        num_bytes = sum(getsizeof(text) for _, text in texts or ()) + getsizeof(answer)
        if not self._writer.has_room(num_bytes):
            logger.warning("the storage is slow: an answer is stored without its texts")
            texts = answer = None
            num_bytes = 0
        return self._writer.submit(self._recording(record, texts, answer), num_bytes)

    def _recording(self, record: AnswerRecord, texts: Texts | None, answer: str | None) -> Work:
        row: dict[str, object] = {
            "id": record.id,
            "created": record.created,
            "model": record.model,
            "conversation": record.conversation,
            "prompt": record.prompt,
            "outcome": record.outcome,
            "seconds": record.seconds,
            "prompt_tokens": record.said.prompt_tokens,
            "completion_tokens": record.said.completion_tokens,
            "finish_reason": record.said.finish_reason,
        }
        assignment: dict[str, str] | None = None
        if place := record.place:
            person = {"experiment": place.experiment, "user": place.user, "variant": place.variant}
            row |= {**person, "shadow_of": place.shadow_of}
            if place.shares is not None:
                assignment = {**person, "shares": json.dumps(place.shares, sort_keys=True)}

        owner, kept = record.owner, None

        def work(connection: Connection) -> None:
            nonlocal texts, answer, kept
            if kept is None:
                # Once, in place of the originals: work waits, and is repeated, for a lock.
                kept = {
                    "messages": self._redaction.messages(texts, owner),
                    "answer": self._redaction.text(answer, owner),
                }
                texts = answer = None
            connection.execute(insert_new(connection, tables.answers, row | kept))
            if assignment is not None:
                connection.execute(insert_new(connection, tables.users, assignment))

        return work


def _all_of(message: ChatMessage) -> str:
    """Return everything that a message says, calls and thinking included."""
    text = f"{message.role}\0{message.content!r}"
    if not message.model_fields_set - {"role", "content"}:
        return text
    more = message.model_dump(mode="json", exclude={"role", "content"}, exclude_none=True)
    return f"{text}\0{json.dumps(more, sort_keys=True)}" if more else text


async def _committed(future: Future[T], patience_seconds: float | None = None) -> T:
    with _translated():
        async with asyncio.timeout(patience_seconds or COMMIT_PATIENCE_SECONDS):
            return await asyncio.wrap_future(future)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise errors of the database as this server's, without what was to be stored."""
    try:
        yield
    except TimeoutError:
        raise RetryLaterError(
            "the storage is busy", hint="try again later, unless it is stored by then"
        ) from None
    except OperationalError:
        raise RetryLaterError("the storage has failed", hint="try again later") from None


def salted_hash(salt: str, *parts: str) -> bytes:
    """Return 32 bytes that reveal nothing about the parts without the salt."""
    content = b"".join(
        len(part).to_bytes(8) + part for part in (text.encode(errors="replace") for text in parts)
    )
    return hmac.digest(salt.encode(), content, hashlib.sha256)


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return an insert of a row that does nothing if its key exists."""
    return dialect_insert(connection, table).values(row).on_conflict_do_nothing()


def dialect_insert(connection: Connection, table: Table) -> Any:  # noqa: ANN401  (one per dialect)
    """Return an insert that can handle existing keys."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _checked_url(given: str | None, default_path: Path) -> URL:
    try:
        url = make_url(given or f"sqlite:///{default_path}")
    except ArgumentError as error:
        raise _no_database(given) from error
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise _no_database(url.get_backend_name())
    return url


def _no_database(found: object) -> ConfigError:
    return ConfigError(
        "not the URL of a supported database",
        where="serve.storage.url",
        expected="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
        found=found,
    )


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    path = Path(url.database or "")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
    except OSError as error:
        raise ArtifactError(
            "the storage cannot be written", where=f"serve.storage.url {path}", found=error
        ) from error
    settings = {"timeout": BUSY_SECONDS}
    engine = create_engine(url, connect_args=settings, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:  # noqa: ANN401  (of any driver)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        # Erased text is overwritten on disk.
        connection.execute("PRAGMA secure_delete = ON")

    return engine


def _rename_former_tables(connection: Connection) -> None:
    """Give tables of an earlier potstill today's names."""
    names = inspect(connection).get_table_names()
    for former, name in former_names.TABLES.items():
        if former in names and name not in names:
            connection.execute(text(f"ALTER TABLE {former} RENAME TO {name}"))


def _enroll(connection: Connection) -> str:
    """Write version and salt of new tables; return the salt.

    Raises:
        SchemaVersionError: They have another version.
    """
    for name, value in (("version", str(tables.SCHEMA_VERSION)), ("salt", secrets.token_hex(16))):
        connection.execute(insert_new(connection, tables.facts, {"name": name, "value": value}))
    found = {row.name: row.value for row in connection.execute(select(tables.facts))}
    if found["version"] != str(tables.SCHEMA_VERSION):
        raise SchemaVersionError(
            "the storage was created by another version of potstill",
            where="serve.storage.url",
            expected=f"tables of version {tables.SCHEMA_VERSION}",
            found=found["version"],
        )
    return str(found["salt"])


@contextmanager
def opened(config: StorageConfig, default_path: Path) -> Iterator[Storage]:
    """Open a storage for the duration of the context."""
    storage = Storage(config, default_path)
    try:
        yield storage
    finally:
        storage.close()
