"""The tables of live traffic: SQLAlchemy Core, the same in SQLite and PostgreSQL.

Times are seconds since 1970.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

metadata = MetaData()

facts = Table(
    "facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
    comment="Version of the tables, and the salt of all hashes in them.",
)

answers = Table(
    "answers",
    metadata,
    Column("number", Integer, primary_key=True, comment="In the order of arrival."),
    Column("id", String, nullable=False, unique=True, comment="The id that clients get."),
    Column("created", Double, nullable=False),
    Column("model", String, nullable=False),
    Column("experiment", String),
    Column("variant", String),
    Column("user", String, comment="Salted hash; of the conversation where no user was named."),
    Column("conversation", String, comment="Salted hash of the user and the first message."),
    Column("prompt", String, comment="Salted hash of all messages."),
    Column("outcome", String, nullable=False, comment="whole, failed or cancelled"),
    Column("seconds", Double, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("finish_reason", String),
    Column("shadow_of", String, comment="Id of the client's answer."),
    Column("messages", Text, comment="JSON; null in shadows, and where texts are not stored."),
    Column("answer", Text),
    Index("answers_by_variant", "experiment", "variant", "outcome"),
    Index("answers_by_conversation", "conversation", "created"),
    Index("answers_by_shadow", "shadow_of"),
    Index("answers_by_time", "created"),
)

users = Table(
    "users",
    metadata,
    Column("experiment", String, primary_key=True),
    Column("user", String, primary_key=True),
    Column("variant", String, nullable=False, comment="The first one assigned."),
    Column("shares", String, nullable=False, comment="JSON: the variants' shares at that time."),
)

experiments = Table(
    "experiments",
    metadata,
    Column("name", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("response_id", String, primary_key=True),
    Column("created", Double, nullable=False),
    Column("score", Double, nullable=False),
    Column("comment", Text),
)

votes = Table(
    "votes",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("created", Double, nullable=False),
    Column("first_id", String, nullable=False),
    Column("second_id", String, nullable=False),
    Column("score", Double, nullable=False, comment="Of the first: 1, 0, or 0.5 for a tie."),
    Column("is_blind", Boolean, nullable=False),
)

voters = Table(
    "voters",
    metadata,
    Column("vote", Integer, ForeignKey("votes.number"), primary_key=True),
    Column("voter", String, nullable=False, comment="Salted hash of the key's name."),
    comment="Who voted. Votes of earlier versions have none, and do not count.",
)

acts = Table(
    "acts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("created", Double, nullable=False),
    Column("key", String, nullable=False, comment="Name of the administrator's key."),
    Column("act", String, nullable=False, comment="Method and path."),
    Column("request_id", String, nullable=False, comment="As in the response and in the log."),
    comment="What administrators did.",
)

batches = Table(
    "batches",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("experiment", String, nullable=False),
    Column("judge", String, nullable=False),
    Column("is_valid", Boolean, nullable=False, comment="Whether the judge passed its assay."),
    Column("created", Double, nullable=False),
)

judgments = Table(
    "judgments",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("batch", Integer, ForeignKey("batches.number"), nullable=False),
    Column("experiment", String, nullable=False),
    Column("judge", String, nullable=False),
    Column("pair_id", String, nullable=False, comment="Id of the answer that the client got."),
    Column("score", Double, nullable=False, comment="Of the student: 1, 0, or 0.5 for a tie."),
    UniqueConstraint("experiment", "judge", "pair_id"),
)
