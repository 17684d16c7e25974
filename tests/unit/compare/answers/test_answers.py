import pytest

from compare.answers.answers import AnswerBook, ask, open_client
from compare.answers.cache import JsonCache
from potstill.errors import BackendError, BackendUnavailableError
from potstill.tables import PAIR_SCHEMA, read_rows, write_rows

MODELS = ("teacher", "student")


def fill(book, base_url):
    book.fill(open_client(base_url, 10.0), temperature=0.0, max_tokens=8)


def test_answers_are_rows_of_the_pair_schema(stand_in, questions, tmp_path):
    running, requests = stand_in
    book = AnswerBook(JsonCache(tmp_path / "cache"), MODELS, questions)
    with running() as base_url:
        fill(book, base_url)
    pairs = book.pairs()
    assert [(pair["prompt_id"], pair["model"]) for pair in pairs] == [
        (f"id{index}", model) for index in range(3) for model in MODELS
    ]
    assert pairs[0]["answer"] == "teacher heard question 0"
    assert all(pair["seconds"] > 0 for pair in pairs)
    assert write_rows(tmp_path / "pairs.parquet", PAIR_SCHEMA, pairs) == 6
    assert list(read_rows(tmp_path / "pairs.parquet", PAIR_SCHEMA)) == pairs
    assert {(body["temperature"], body["max_tokens"]) for body in requests()} == {(0.0, 8)}


def test_stored_answers_are_not_asked_again(stand_in, questions, tmp_path):
    running, requests = stand_in
    book = AnswerBook(JsonCache(tmp_path / "cache"), MODELS, questions)
    with running("4") as base_url, pytest.raises(BackendUnavailableError):
        fill(book, base_url)
    assert len(book.pairs()) == 4
    num_before = len(requests())
    resumed = AnswerBook(JsonCache(tmp_path / "cache"), MODELS, questions)
    with running() as base_url:
        fill(resumed, base_url)
    asked = [(body["model"], body["messages"][0]["content"]) for body in requests()[num_before:]]
    assert asked == [("teacher", "question 2"), ("student", "question 2")]
    assert resumed.missing() == []


def test_refused_request_names_the_model(stand_in, questions):
    running, _ = stand_in
    with running() as base_url, pytest.raises(BackendError, match="model absent") as caught:
        ask(open_client(base_url, 10.0), "absent", questions[0], temperature=0.0, max_tokens=8)
    assert "no model of that name" in str(caught.value)
