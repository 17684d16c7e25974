"""Write requests as rows of the server's record, and list what could not be read.

In: requests. Out: JSONL that is a source of prompts, and `.unreadable.jsonl` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from generate.imports.reading import Request, Unreadable
from potstill.errors import ArtifactError, ConfigError
from potstill.files import disk_errors, replacing

PRIVATE = 0o600
"""Mode of a new file: traces are what users wrote."""


@dataclass(frozen=True)
class Written:
    """What was found."""

    num_requests: int
    num_answers: int
    num_failed: int
    """Requests that ended in an error."""
    num_known: int
    """Requests whose right answer their row says, such as rows `{"prompt", "answer"}`."""
    unreadable: list[Unreadable]

    def sentences(self) -> list[str]:
        """Return the counts in words."""
        known = f", {self.num_known:,} with a known answer" if self.num_known else ""
        counts = (
            f"{self.num_requests:,} requests with {self.num_answers:,} answers{known}; "
            f"{self.num_failed:,} ended in an error"
        )
        return [counts, *self.losses()]

    def losses(self) -> list[str]:
        """Return in words what could not be read; nothing if all could."""
        if not self.unreadable:
            return []
        where, found = self.unreadable[0]
        return [f"{len(self.unreadable):,} could not be read; the first is {where}: {found}"]


def unreadable_path(path: Path) -> Path:
    """Return the file that lists what could not be read, beside the written one."""
    return path.with_suffix(".unreadable.jsonl")


def write_requests(
    found: Iterable[Request | Unreadable], path: Path, *, force: bool = False
) -> Written:
    """Write all requests and list the rest.

    Raises:
        ConfigError: The file exists.
        ArtifactError: There is no request, or the disk is full.
    """
    if path.exists() and not force:
        raise ConfigError(
            "the file exists already", where=path, hint="name another file, or give --force"
        )
    num_requests = num_answers = num_failed = num_known = 0
    unreadable: list[Unreadable] = []
    with disk_errors("writing requests", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _private(path) as stream:
            for one in found:
                if isinstance(one, Unreadable):
                    unreadable.append(one)
                    continue
                stream.write(json.dumps(to_row(one), ensure_ascii=False) + "\n")
                num_requests += 1
                num_answers += len(one.answers)
                num_failed += one.error is not None
                num_known += one.kept.get("answer") is not None
            _list(unreadable, unreadable_path(path))
            if not num_requests:
                raise _nothing(path, unreadable)
    return Written(num_requests, num_answers, num_failed, num_known, unreadable)


def to_row(request: Request) -> dict[str, Any]:
    """Return a request as a row of the server's record, with what its row says beside."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [message.to_chat() for message in request.messages],
    }
    if request.tools is not None:
        body["tools"] = json.loads(request.tools)
    response: dict[str, Any] = {
        "choices": [
            {"index": index, "message": answer.to_chat()}
            for index, answer in enumerate(request.answers)
        ]
    }
    if request.error is not None:
        response["error"] = {"message": request.error}
    return {**request.kept, "request": body, "response": response}


def _list(unreadable: list[Unreadable], path: Path) -> None:
    if not unreadable:
        path.unlink(missing_ok=True)
        return
    with _private(path) as stream:
        for one in unreadable:
            stream.write(json.dumps(one._asdict(), ensure_ascii=False) + "\n")


@contextmanager
def _private(path: Path) -> Iterator[TextIO]:
    """Yield a file that only its owner may read, and that is there when it is complete."""
    with replacing(path) as temporary:
        temporary.touch(PRIVATE)
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream


def _nothing(path: Path, unreadable: list[Unreadable]) -> ArtifactError:
    first = unreadable[0] if unreadable else None
    return ArtifactError(
        "there is no request to a model that can be read",
        where=first.where if first else None,
        expected="chats, or traces of one of the tools in docs/how-to/traces.md",
        found=first.found if first else "rows of other things only",
        hint=f"{unreadable_path(path)} lists what was found" if first else None,
    )
