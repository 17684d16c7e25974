"""Erasure of what is too old or too much, also from SQLite's own files."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Connection, Engine, delete, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from serve.storage import tables
from serve.storage.config import StorageConfig

logger = logging.getLogger(__name__)

SECONDS_PER_DAY = 86_400.0
MOST_DROPPED = 10_000
"""Answers that one chore removes at most: others' writes wait for it."""
HAS_TEXTS = or_(tables.answers.c.messages.isnot(None), tables.answers.c.answer.isnot(None))
"""One that failed or was cancelled has messages only, and a shadow has only its answer."""


class Retention:
    """Erases texts and answers of one database."""

    def __init__(self, config: StorageConfig, engine: Engine) -> None:
        self._retention_days, self._max_answers = config.retention_days, config.max_answers
        self._engine = engine
        self._started = time.time() - time.monotonic()
        self._has_erased = False
        """Whether texts were erased that SQLite's log still has."""

    def clean_up(self, connection: Connection) -> None:
        """Erase what is too old or too much."""
        # The machine's clock may jump while the server runs: that must erase nothing early, and
        # keep nothing for ever.
        now = self._started + time.monotonic()
        for table in (tables.answers, tables.feedback):
            from_the_future = table.c.created > now + SECONDS_PER_DAY
            connection.execute(update(table).where(from_the_future).values(created=now))
        if self._retention_days is not None:
            self._erase_texts(connection, now - self._retention_days * SECONDS_PER_DAY)
        if self._max_answers:
            self._drop_oldest(connection, self._max_answers)

    def _erase_texts(self, connection: Connection, limit: float) -> None:
        answers, feedback = tables.answers.c, tables.feedback.c
        erased = connection.execute(
            update(tables.answers)
            .where(answers.created < limit, HAS_TEXTS)
            .values(messages=None, answer=None)
        )
        uncommented = connection.execute(
            update(tables.feedback)
            .where(feedback.created < limit, feedback.comment.isnot(None))
            .values(comment=None)
        )
        self._has_erased |= bool(erased.rowcount or uncommented.rowcount)

    def _drop_oldest(self, connection: Connection, most: int) -> None:
        """Keep the newest answers; of older ones in experiments or votes the counts, not texts."""
        answers, feedback, votes = tables.answers.c, tables.feedback.c, tables.votes.c
        newest = select(answers.number).order_by(answers.number.desc()).offset(most).limit(1)
        last = connection.scalar(newest)
        if last is None:
            return
        counts = or_(
            answers.experiment.isnot(None),
            answers.id.in_(select(votes.first_id)),
            answers.id.in_(select(votes.second_id)),
        )
        oldest = (
            select(answers.number)
            .where(answers.number <= last, or_(~counts, HAS_TEXTS))
            .order_by(answers.number)
            .limit(MOST_DROPPED)
        )
        end = connection.scalar(select(func.max(oldest.subquery().c.number)))
        if end is None:
            return
        is_old = answers.number <= end
        old, dropped = select(answers.id).where(is_old), select(answers.id).where(is_old, ~counts)
        rated = update(tables.feedback).where(feedback.response_id.in_(old))
        connection.execute(rated.values(comment=None))
        connection.execute(delete(tables.feedback).where(feedback.response_id.in_(dropped)))
        connection.execute(
            update(tables.answers).where(is_old, counts).values(messages=None, answer=None)
        )
        connection.execute(delete(tables.answers).where(is_old, ~counts))
        self._has_erased = True

    def empty_log(self) -> None:
        """Write SQLite's log into the database, and cut it off: it has what was erased there.

        While another process reads the database, that fails, and is tried with the next chore.
        """
        if not self._has_erased or self._engine.dialect.name != "sqlite":
            return
        try:
            with self._engine.connect() as connection:
                is_busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
        except SQLAlchemyError as error:
            logger.error("the log of the storage is not emptied: %s", type(error).__name__)
        else:
            self._has_erased = bool(is_busy)
