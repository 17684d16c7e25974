"""The page on which people review, served on loopback.

In: a subject. Out: a server that shows its rows and stores decisions. Everything asks for the
token in the printed address: other users of the machine, and pages of other sites, have none.
"""

from __future__ import annotations

import hmac
import json
import re
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from generate.curation.reviews import Action, Decision, ReviewLog, Use
from generate.review.rows import Row, Subject, shown_decision
from potstill.errors import ArtifactError
from potstill.loopback import LoopbackHandler, listen, new_token
from potstill.pages import render_page
from potstill.schema import Message

JSON = "application/json"
MAX_BODY_BYTES = 1 << 20
"""Of a decision: an answer and its calls."""
MOST_NOTE = 1000
"""Characters of a note."""


class Asked(BaseModel):
    """A decision as the page sends it."""

    model_config = ConfigDict(extra="forbid")
    row: str
    seen: int = Field(ge=0)
    """Decisions on the row that the page knows."""
    action: Action
    use: Use = "training"
    content: str = ""
    """The edited answer, or the label."""
    tool_calls: str | None = None
    """JSON list of calls, as OpenAI spells them; None: none."""
    note: str = Field(default="", max_length=MOST_NOTE)


class Review:
    """A subject with its decisions, and who reviews it."""

    def __init__(self, subject: Subject, reviewer: str) -> None:
        self.subject, self.reviewer = subject, reviewer
        self.token = new_token()
        self.log = ReviewLog(subject.log_path)

    def since(self, number: int) -> dict[str, Any]:
        """Return the decisions after the first ones of all, by whomever."""
        self.log.refresh()
        decisions = self.log.decisions
        new = [shown_decision(one) for one in decisions[number:]]
        return {"total": len(decisions), "decisions": new}

    def decide(self, asked: Asked) -> bool:
        """Store a decision; return False where there is another one that the page has not seen.

        Raises:
            ValueError: There is no such row, or nothing to decide so.
            ArtifactError: The disk is full.
        """
        row = self.subject.by_id.get(asked.row)
        if row is None:
            raise ValueError("there is no such row")
        if asked.use not in row.uses:
            raise ValueError(f"the use is one of {', '.join(row.uses)}")
        decision = Decision(
            row=row.id,
            action=asked.action,
            reviewer=self.reviewer,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            use=asked.use,
            known=_known(asked, row),
            messages=row.messages,
            answer=row.answer,
            note=asked.note,
        )
        return self.log.add(decision, asked.seen)


def _known(asked: Asked, row: Row) -> Message | None:
    if asked.action not in ("edit", "label"):
        return None
    if not (asked.content.strip() or asked.tool_calls):
        raise ValueError("an answer without text")
    calls = asked.tool_calls if asked.action == "edit" else None
    return row.answer[-1].model_copy(
        update={"content": asked.content, "tool_calls": calls, "reasoning_content": None}
    )


class ReviewHandler(LoopbackHandler):
    """Answers the page, its rows, and decisions."""

    review: ClassVar[Review]

    def do_GET(self) -> None:
        """Answer the page or what it shows."""
        url = self.url
        if url.path == "/":
            self._send_page()
        elif not self._is_allowed(self.headers.get("Authorization", "")):
            self._send_json({"error": "no token"}, 401)
        elif url.path == "/rows":
            self._send_json(self.review.subject.to_json())
        elif url.path == "/decisions":
            since = parse_qs(url.query).get("since", ["0"])[0]
            self._send_json(self.review.since(_number(since) or 0))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        """Store a decision; nothing is read of a request that cannot be this page's."""
        problem = self._problem()
        if problem is not None:
            status, text = problem
            self._send_json({"error": text}, status)
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            is_stored = self.review.decide(Asked.model_validate_json(body))
        except ValidationError as error:
            self._send_json({"error": error.errors()[0]["msg"]}, 400)
        except ArtifactError as error:
            self._send_json({"error": str(error)}, 507)
        except ValueError as error:
            self._send_json({"error": str(error)}, 400)
        else:
            # Another tab's decision on the row came first: the page shows it.
            self._send_json({}, 200 if is_stored else 409)

    def _problem(self) -> tuple[int, str] | None:
        length = _number(self.headers.get("Content-Length", ""))
        if self.path != "/decisions":
            return 404, "no such path"
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            return 403, "a request of another site's page"
        if not self._is_allowed(self.headers.get("Authorization", "")):
            return 401, "no token"
        if self.headers.get("Content-Type") != JSON:
            return 415, f"the content type is not {JSON}"
        if length is None or length > MAX_BODY_BYTES:
            return 413, f"a decision has at most {MAX_BODY_BYTES} bytes"
        return None

    def _send_page(self) -> None:
        if not self.has_token(self.review.token):
            return
        title = self.review.subject.title
        self.send(render_page("generate.review", "review.html.j2", script="review.js", title=title))

    def _is_allowed(self, authorization: str) -> bool:
        wanted = f"Bearer {self.review.token}"
        return hmac.compare_digest(authorization.encode(), wanted.encode())

    def _send_json(self, values: dict[str, Any], status: int = 200) -> None:
        self.send(json.dumps(values), JSON, status)


def server_of(review: Review, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on loopback.

    Raises:
        BackendUnavailableError: The address cannot be listened on.
    """
    return listen(type("Handler", (ReviewHandler,), {"review": review}), port)


def _number(text: str) -> int | None:
    """Return a number of at most nine digits; None for another text."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None
