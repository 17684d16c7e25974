"""Both kinds of databases, empty."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from serve.storage import tables
from serve.storage.config import StorageConfig
from serve.storage.records import AnswerRecord, Place, Said
from serve.storage.storage import Storage, opened
from serve.wire.chat import ChatMessage
from tests.fixtures.postgresql import postgresql
from tests.fixtures.waiting import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine take longer to commit than a client would wait."""
    monkeypatch.setattr("serve.storage.storage.COMMIT_PATIENCE_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    with postgresql() as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'traffic.sqlite'}"
    found: str = request.getfixturevalue("postgresql_url")
    engine = create_engine(found)
    tables.metadata.drop_all(engine)
    engine.dispose()
    return found


@pytest.fixture
def open_storage(url: str) -> Iterator[Callable[..., Storage]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            opened(StorageConfig(url=url, **settings), Path("unused"))
        )


def record(number: int, **changes: Any) -> AnswerRecord:
    values = {
        "id": f"a{number}",
        "model": "student",
        "created": time.time(),
        "seconds": 0.5,
        "outcome": "whole",
        "messages": [ChatMessage(role="user", content=f"Question {number}")],
        "conversation": f"c{number}",
        "prompt": f"p{number}",
        "said": Said(f"Answer {number}", "stop", 3, 4),
    }
    return AnswerRecord(**values | changes)


def place(variant: str = "student", **changes: Any) -> Place:
    return Place(**{"experiment": "e", "variant": variant, "user": "u"} | changes)
