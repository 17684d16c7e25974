import pytest

from compare.answers.answers import Answer, AnswerBook, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint, find_endpoint
from compare.config import CompareConfig, SideConfig
from compare.inputs import answer_settings, model_names
from potstill.errors import BackendError, BackendUnavailableError, ConfigError
from potstill.tables import PAIR_SCHEMA, read_rows, write_rows

MODELS = ("teacher", "student")
SAMPLING = Sampling(temperature=0.7, max_tokens=8, seed=5)


def book(cache_dir, questions, num_samples=1, sampling=SAMPLING) -> AnswerBook:
    wanted = [
        Wanted(role, question, sample)
        for question in questions
        for sample in range(num_samples)
        for role in MODELS
    ]
    names = {role: role for role in MODELS}
    return AnswerBook(JsonCache(cache_dir), wanted, sampling, names, names)


def endpoints(base_url, **changes):
    return {
        role: Endpoint(base_url, role, role, timeout_seconds=10.0, max_retries=0, **changes)
        for role in MODELS
    }


def test_answers_are_rows_of_the_pair_schema(stand_in, questions, tmp_path):
    running, requests = stand_in
    answers = book(tmp_path / "cache", questions)
    with running() as base_url:
        answers.fill(endpoints(base_url), 2)
    found = answers.answers()
    assert [(one.prompt_id, one.role) for one in found] == [
        (f"id{index}", role) for index in range(3) for role in MODELS
    ]
    assert found[0].answer == "teacher heard question 0"
    assert all(one.seconds > 0 and one.completion_tokens == 3 for one in found)
    rows = [one.model_dump() for one in found]
    assert write_rows(tmp_path / "pairs.parquet", PAIR_SCHEMA, rows) == 6
    stored = [Answer(**row) for row in read_rows(tmp_path / "pairs.parquet", PAIR_SCHEMA)]
    assert stored == found
    sent = requests()
    assert {(body["temperature"], body["max_tokens"]) for body in sent} == {(0.7, 8)}
    assert {body["seed"] for body in sent} == {one.seed for one in found}
    assert len({one.seed for one in found}) == 3


def test_every_sample_has_a_seed_of_its_own_that_stays(questions):
    seeds = {SAMPLING.seed_of(one, sample) for one in questions for sample in range(4)}
    assert len(seeds) == 12
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert SAMPLING.seed_of(questions[0], 0) == 975_978_928


def test_stored_answers_are_not_asked_again(stand_in, questions, tmp_path):
    running, requests = stand_in
    first = book(tmp_path / "cache", questions)
    with running("4") as base_url, pytest.raises(BackendUnavailableError, match="start"):
        first.fill(endpoints(base_url), 1)
    assert len(first.answers()) == 4
    num_before = len(requests())
    resumed = book(tmp_path / "cache", questions)
    with running() as base_url:
        resumed.fill(endpoints(base_url), 2)
    asked = {(body["model"], body["messages"][0]["content"]) for body in requests()[num_before:]}
    assert asked == {("student", "question 1"), ("student", "question 2")}, "one model at a time"
    assert resumed.missing() == []


def test_another_seed_temperature_or_model_is_another_answer(questions, tmp_path):
    cache = JsonCache(tmp_path)
    names = {role: role for role in MODELS}
    wanted = [Wanted("student", questions[0], 0)]
    books = [
        AnswerBook(cache, wanted, sampling, identities, names)
        for sampling in (SAMPLING, Sampling(0.7, 8, 6), Sampling(0.0, 8, 5), Sampling(0.7, 9, 5))
        for identities in (names, names | {"student": "another file"})
    ]
    keys = {one._key(wanted[0]) for one in books}
    assert len(keys) == len(books)


def test_refused_prompt_is_an_answer_that_says_nothing(openai_server, questions, tmp_path):
    def answer(body):
        if body["messages"][-1]["content"] == "question 1" and body["model"] == "student":
            return 400, {"error": {"message": "too long", "type": "invalid_request_error"}}
        return "fine"

    server = openai_server(answer)
    answers = book(tmp_path, questions)
    answers.fill(endpoints(server.base_url), 3)
    refused = [one for one in answers.answers() if one.is_refused]
    assert [(one.prompt_id, one.role, one.answer) for one in refused] == [("id1", "student", "")]


def test_endpoint_that_refuses_every_prompt_is_an_error(openai_server, questions, tmp_path):
    server = openai_server(lambda _: (400, {"error": {"message": "no such model"}}))
    with pytest.raises(BackendError, match="refuses every prompt"):
        book(tmp_path, questions).fill(endpoints(server.base_url), 3)


def test_unknown_model_is_an_error_that_names_it(stand_in, questions, tmp_path):
    running, _ = stand_in
    absent = dict.fromkeys(MODELS, "absent")
    answers = book(tmp_path, questions)
    with running() as base_url, pytest.raises(BackendError, match="model absent") as caught:
        answers.fill(
            {role: Endpoint(base_url, name, name, max_retries=0) for role, name in absent.items()},
            2,
        )
    assert "no model of that name" in str(caught.value)


def test_newer_name_of_the_token_limit_is_sent(openai_server, questions, tmp_path):
    server = openai_server(lambda _: "fine")
    answers = book(tmp_path, questions[:1])
    answers.fill(endpoints(server.base_url, limit_name="max_completion_tokens"), 2)
    assert all(body["max_completion_tokens"] == 8 for body in server.requests)
    assert not any("max_tokens" in body for body in server.requests)


def test_model_without_a_name_is_the_only_one(openai_server):
    server = openai_server(lambda _: "fine")
    side = SideConfig(base_url=server.base_url)
    found = find_endpoint(side.base_url, side, CompareConfig())
    assert (found.model, found.identity) == ("only", f"{server.base_url}#only")


def test_another_model_behind_the_same_name_gives_other_answers(openai_server):
    """Else the scores of the former one would decide, and its stored answers be taken."""
    server = openai_server(lambda _: "fine")
    side = SideConfig(base_url=server.base_url, model="student")

    def found(models):
        server.models = models
        return find_endpoint(side.base_url, side, CompareConfig())

    first, second = (
        found([{"id": "student", "object": "model", "system_fingerprint": one}]) for one in "ab"
    )
    assert first.identity != second.identity
    named = [{"student": one, "teacher": one} for one in (first, second)]
    assert model_names(named[0]) == model_names(named[1])
    settings = [answer_settings(CompareConfig(), None, sides) for sides in named]
    assert settings[0]["fingerprints"] == {"student": "a", "teacher": "a"}
    assert settings[0] != settings[1]
    unread = (None, [], "no list", ["student"], [{"id": 1}])
    silent = [found(models) for models in (*unread, [{"id": "student", "system_fingerprint": 3}])]
    assert {(one.identity, one.fingerprint) for one in silent} == {
        (f"{server.base_url}#student", None)
    }


def test_key_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("A_KEY", raising=False)
    side = SideConfig(base_url="http://127.0.0.1:1/v1", model="m", api_key_variable="A_KEY")
    with pytest.raises(ConfigError, match="A_KEY"):
        find_endpoint(side.base_url, side, CompareConfig())
