import http.client
import json
import threading
from contextlib import contextmanager

import pytest

from generate.curation.reviews import ReviewLog
from generate.review.page import MAX_BODY_BYTES, Review, server_of
from generate.review.rows import Row, Subject, new_row_id
from potstill.schema import Message

HOSTILE = "</script><script>document.title = 'taken'</script>"


@pytest.fixture
def review(tmp_path):
    messages = (Message(role="user", content=HOSTILE),)
    answers = [Message(role="assistant", content=text) for text in (HOSTILE, "no")]
    rows = [
        Row(new_row_id(messages, [one]), "mine", messages, (one,), uses=("training", "examples"))
        for one in answers
    ]
    subject = Subject(HOSTILE, rows, tmp_path / "mine.review.jsonl")
    return Review(subject, "ann")


@contextmanager
def served(review):
    with server_of(review, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield Client(server.server_port, review.token)
        server.shutdown()


class Client:
    def __init__(self, port, token):
        self.host, self.token = f"127.0.0.1:{port}", token

    def ask(self, method, path, body=None, **changes):
        """Return status and text; a header that is None is left out."""
        headers = {"Host": self.host, "Authorization": f"Bearer {self.token}"}
        if method == "POST":
            headers |= {"Origin": f"http://{self.host}", "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in changes.items()}
        kept = {name: value for name, value in headers.items() if value is not None}
        connection = http.client.HTTPConnection(self.host, timeout=5)
        connection.request(method, path, body, kept)
        response = connection.getresponse()
        self.headers = response.headers
        return response.status, response.read().decode()

    def decide(self, review, action="accept", number=0, seen=0, **values):
        row = review.subject.rows[number].id
        body = json.dumps({"row": row, "seen": seen, "action": action, **values})
        status, text = self.ask("POST", "/decisions", body)
        return status, json.loads(text).get("error")


def test_the_page_shows_what_others_wrote_as_text(review):
    with served(review) as client:
        status, page = client.ask("GET", f"/?token={review.token}", Authorization=None)
        assert status == 200
        assert "<script>document.title" not in page
        assert client.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in client.headers["Content-Security-Policy"]
        status, rows = client.ask("GET", "/rows")
        assert status == 200
        assert client.headers["Content-Type"] == "application/json"
        assert json.loads(rows)["rows"][0]["messages"][0]["content"] == HOSTILE


@pytest.mark.parametrize(
    "path", ["/", "/?token=guessed", "/?token=", "/rows", "/decisions?since=0"]
)
def test_nothing_is_shown_without_the_token(review, path):
    with served(review) as client:
        assert client.ask("GET", path, Authorization=None)[0] == 401
        assert client.ask("GET", path, Authorization="Bearer gu\u00e9ssed")[0] == 401


def test_other_names_and_paths_are_refused(review):
    with served(review) as client:
        assert client.ask("GET", "/rows", Host="evil.example")[0] == 421
        assert client.ask("POST", "/decisions", "{}", Host="evil.example:80")[0] == 421
        assert client.ask("GET", "/rows", Host="localhost:1")[0] == 200
        assert client.ask("GET", "/etc/passwd")[0] == 404
        assert client.ask("OPTIONS", "/decisions")[0] == 501


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer guessed"}, 401),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": None}, 415),
        ({"Content_Length": str(MAX_BODY_BYTES + 1)}, 413),
        ({"Content_Length": "-1"}, 413),
        ({"Content_Length": "9" * 5000}, 413),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_page_of_another_site_decides_nothing(review, changes, status):
    with served(review) as client:
        row = review.subject.rows[0].id
        body = json.dumps({"row": row, "seen": 0, "action": "reject"})
        assert client.ask("POST", "/decisions", body, **changes)[0] == status
    assert not review.log.path.exists()


def test_a_decision_is_stored_with_author_and_time(review):
    with served(review) as client:
        assert client.decide(review, "edit", content="Better.", use="examples", note="n") == (
            200,
            None,
        )
        (stored,) = ReviewLog(review.log.path).decisions
        assert (stored.reviewer, stored.known.content, stored.note) == ("ann", "Better.", "n")
        assert stored.time.endswith("+00:00")
        assert stored.messages == review.subject.rows[0].messages
        status, text = client.ask("GET", "/decisions?since=0")
        assert status == 200
        (shown,) = json.loads(text)["decisions"]
        assert shown["known"]["content"] == "Better."
        assert json.loads(client.ask("GET", "/decisions?since=1")[1]) == {
            "total": 1,
            "decisions": [],
        }
        assert client.ask("GET", "/decisions?since=-1")[0] == 200


def test_a_decision_that_another_tab_has_not_seen_is_not_overwritten(review):
    with served(review) as client:
        assert client.decide(review, "accept") == (200, None)
        assert client.decide(review, "reject") == (409, None)
        assert client.decide(review, "reject", seen=1) == (200, None)
        assert client.decide(review, "reject", number=1) == (200, None)
    assert [one.action for one in review.log.decisions] == ["accept", "reject", "reject"]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"action": "edit", "content": " "}, "an answer without text"),
        ({"action": "edit", "content": "x", "tool_calls": "[{}]"}, "a call of a tool without"),
        ({"action": "edit", "content": "x", "tool_calls": "{"}, "Expecting property name"),
        (
            {"action": "edit", "content": "x", "tool_calls": "7"},
            "calls of tools that are a JSON int",
        ),
        ({"action": "edit", "content": "x", "tool_calls": "[" * 9999}, "nested too deeply"),
        ({"action": "delete"}, "Input should be"),
        ({"use": "references"}, "the use is one of training, examples"),
        ({"row": "other"}, "there is no such row"),
        ({"seen": -1}, "greater than or equal"),
        ({"reviewer": "bob"}, "Extra inputs"),
        ({"note": "x" * 2000}, "at most 1000"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_decision_is_refused(review, values, error):
    with served(review) as client:
        status, found = client.decide(review, **values)
        assert status == 400
        assert error in found
        for body in ("", "{", "[]", "null"):
            assert client.ask("POST", "/decisions", body)[0] == 400
    assert review.log.decisions == []


def test_a_full_disk_is_said_and_nothing_is_decided(review):
    review.log.path.mkdir()
    with served(review) as client:
        status, error = client.decide(review)
    assert status == 507
    assert "storing a decision failed" in error
