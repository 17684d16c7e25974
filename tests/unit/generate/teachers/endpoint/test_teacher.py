import threading

import numpy as np
import pytest

from generate.teachers.endpoint.config import EndpointConfig
from generate.teachers.endpoint.teacher import UNANSWERED_ROUNDS, connect
from generate.teachers.protocol import Failure, Sample
from potstill.errors import TeacherError

pytestmark = pytest.mark.slow

END = 0
TOP_LOGPROBS = 5


def collect(results, into: list) -> None:
    """Keep what comes before an error."""
    for result in results:
        into.append(result)


@pytest.mark.parametrize("kind", ["vllm", "potstill"])
def test_samples_have_exact_tokens_and_the_models_own_distributions(
    serving, teaching, request_of, taking, kind
):
    server = serving(kind)
    teacher = teaching(server)
    requests = {
        one.request_id: one
        for one in [
            request_of("stopped", "Grüße, 你好!", max_tokens=8),
            request_of("cut", "the rain", max_tokens=2, seed=3),
            request_of("sharp", "in Spain", temperature=0.5, top_p=0.9),
        ]
    }
    samples = list(teacher.sample(taking(list(requests.values())), top_logprobs=TOP_LOGPROBS))
    assert {one.request_id: one.finish_reason for one in samples} == {
        "stopped": "stop",
        "cut": "length",
        "sharp": "stop",
    }
    for sample in samples:
        assert len(sample.token_ids) == (2 if sample.request_id == "cut" else 4)
        assert (sample.token_ids[-1] == END) == (sample.finish_reason == "stop")
        server.check(requests[sample.request_id].prompt_token_ids, sample, TOP_LOGPROBS)


def test_ids_are_found_by_bytes_where_a_server_gives_only_those(
    serving, teaching, request_of, taking
):
    server = serving("openai")
    teacher = teaching(server)
    cut = request_of("cut", "the rain", max_tokens=3)
    (sample,) = teacher.sample(taking([cut]), top_logprobs=TOP_LOGPROBS)
    assert (sample.finish_reason, len(sample.token_ids)) == ("length", 3)
    server.check(cut.prompt_token_ids, sample, TOP_LOGPROBS)


def test_a_server_that_hides_the_end_token_may_play_the_user_only(
    serving, teaching, request_of, taking
):
    teacher = teaching(serving("openai"))
    (sample,) = teacher.sample(taking([request_of("q")]), top_logprobs=None)
    assert (sample.finish_reason, sample.token_ids[-1], sample.signal) == ("stop", END, None)
    with pytest.raises(TeacherError, match="leaves out the end-of-turn token"):
        list(teacher.sample(taking([request_of("q")]), top_logprobs=TOP_LOGPROBS))


@pytest.mark.parametrize("kind", ["vllm", "potstill"])
def test_a_second_turn_is_asked_for_when_the_first_is_there(
    serving, teaching, toy_tokenizer, request_of, taking, kind
):
    server = serving(kind)
    teacher = teaching(server)
    requests, second, turns = [request_of("first", "hello")], None, {}
    for sample in teacher.sample(taking(requests), top_logprobs=TOP_LOGPROBS):
        turns[sample.request_id] = sample
        if second is None:
            said = toy_tokenizer.decode(sample.token_ids, skip_special_tokens=True)
            second = request_of("second", "hello", said, "and then?")
            requests.append(second)
    assert turns.keys() == {"first", "second"}
    server.check(second.prompt_token_ids, turns["second"], TOP_LOGPROBS)


def test_messages_that_do_not_give_the_tokens_are_not_asked(serving, teaching, request_of, taking):
    server = serving("potstill")
    teacher = teaching(server)
    asked = request_of("q", "hello")
    other = request_of("other", "another one")
    drifted = type(asked)("drifted", other.prompt_token_ids, asked.sampling, asked.messages)
    bare = type(asked)("bare", asked.prompt_token_ids, asked.sampling)
    tools = type(asked)("tools", asked.prompt_token_ids, asked.sampling, asked.messages, "[]")
    results = teacher.sample(taking([drifted, bare, tools]), top_logprobs=None)
    assert {one.request_id: one.reason for one in results} == {
        "drifted": "the messages do not give the prompt's token ids",
        "bare": "the server does not accept token ids, and there are no messages",
        "tools": "a prompt with tools needs a server that accepts token ids",
    }
    assert server.num_asked() == 0


def test_texts_are_scored_by_a_server_that_takes_token_ids(serving, teaching, score_of, taking):
    server = serving("vllm")
    teacher = teaching(server)
    text = [1, 40, 41, 42, END]
    scores = teacher.score(
        taking([score_of("whole", text, 1), score_of("cut", text[:-1], 3)]), top_logprobs=3
    )
    scores = {one.request_id: one for one in scores}
    assert (scores["whole"].token_ids, scores["whole"].finish_reason) == ((40, 41, 42, END), "stop")
    assert (scores["cut"].token_ids, scores["cut"].finish_reason) == ((42,), "length")
    server.check(text[:1], scores["whole"], 3)
    server.check(text[:3], scores["cut"], 3)


def test_texts_are_not_scored_by_a_server_of_messages(serving, teaching, score_of, taking):
    teacher = teaching(serving("potstill"))
    with pytest.raises(TeacherError, match="cannot score text"):
        teacher.score(taking([score_of("text", [1, 2], 1)]), top_logprobs=3)


def test_facts_are_the_same_wherever_and_however_the_model_is_served(serving, teaching):
    one, other = teaching(serving("vllm")), teaching(serving("potstill"))
    assert one.facts() == other.facts() == {"served_as": "toy", "logprobs_mode": "raw_logprobs"}


@pytest.mark.parametrize(("clamps", "found"), [(False, "HTTP 400 too_many"), (True, "3 of them")])
def test_too_many_log_probabilities_are_refused_before_work(
    serving, teaching, request_of, taking, clamps, found
):
    server = serving("vllm", max_logprobs=3)
    server.clamps = clamps
    teacher = teaching(server)
    assert len(list(teacher.sample(taking([request_of("q")]), top_logprobs=3))) == 1
    before = server.num_asked()
    with pytest.raises(TeacherError, match=f"found: {found}"):
        teacher.sample(taking([request_of("q")]), top_logprobs=4)
    assert server.num_asked() == before + 1


def test_processed_log_probabilities_are_taken_only_where_nothing_is_processed(
    serving, teaching, request_of, taking
):
    server = serving("vllm", processed=True)
    teacher = teaching(server)
    assert teacher.facts()["logprobs_mode"] == "processed_logprobs"
    plain, sharp = request_of("plain"), request_of("sharp", temperature=0.5)
    (sample,) = teacher.sample(taking([plain]), top_logprobs=2)
    server.check(plain.prompt_token_ids, sample, 2)
    with pytest.raises(TeacherError, match="not known to be the teacher's own"):
        list(teacher.sample(taking([sharp]), top_logprobs=2))
    assert len(list(teacher.sample(taking([sharp]), top_logprobs=None))) == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "refuses the key"), (403, "refuses the key"), (404, "answers with an error")],
)
def test_hopeless_answers_end_the_work_at_once(
    serving, teaching, request_of, taking, status, message
):
    server = serving()
    teacher = teaching(server, max_concurrency=1)
    server.faults.append(status)
    with pytest.raises(TeacherError, match=message):
        list(teacher.sample(taking([request_of("a"), request_of("b")]), top_logprobs=None))
    assert server.num_asked() == 1


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 503, "drop"])
def test_passing_troubles_are_tried_again(serving, teaching, request_of, taking, fault):
    server = serving()
    teacher = teaching(server, max_retries=1)
    server.faults.append(fault)
    (sample,) = teacher.sample(taking([request_of("q")]), top_logprobs=2)
    assert isinstance(sample, Sample)
    assert server.num_asked() == 3  # a try, another, and the check of 2 log-probabilities


@pytest.mark.parametrize(
    ("fault", "reason"), [(429, "HTTP 429 a_code"), (500, "HTTP 500 a_code"), ("drop", "no conn")]
)
def test_troubles_that_stay_give_up_the_request_and_not_the_next(
    serving, teaching, request_of, taking, fault, reason
):
    server = serving()
    teacher = teaching(server, max_retries=1, max_concurrency=1)
    server.faults += [fault, fault]
    requests = [request_of("lost"), request_of("kept")]
    lost, kept = teacher.sample(taking(requests), top_logprobs=None)
    assert (lost.request_id, lost.reason[: len(reason)]) == ("lost", reason)
    assert (kept.request_id, kept.finish_reason) == ("kept", "stop")
    assert server.num_asked() == 3


@pytest.mark.parametrize(
    ("fault", "message"), [(503, "HTTP 503"), (429, "HTTP 429"), ("drop", "does not answer")]
)
def test_an_outage_ends_the_work(serving, teaching, request_of, taking, fault, message):
    server = serving()
    teacher = teaching(server, max_retries=0, max_concurrency=1)
    num_before = UNANSWERED_ROUNDS
    # An answer in between starts the count anew.
    server.faults += [*[fault] * (num_before - 1), None, *[fault] * 100]
    seen: list = []
    requests = taking([request_of(f"q{n}") for n in range(100)])
    with pytest.raises(TeacherError, match=message):
        collect(teacher.sample(requests, top_logprobs=None), seen)
    assert [type(one) for one in seen] == [Failure] * (num_before - 1) + [Sample] + [Failure] * (
        num_before - 1
    )


def test_a_request_that_the_server_refuses_is_given_up_alone(serving, teaching, request_of, taking):
    server = serving()
    teacher = teaching(server, max_concurrency=1)
    server.faults.append(400)
    requests = [request_of("refused", "SECRET PROMPT"), request_of("fine")]
    refused, fine = teacher.sample(taking(requests), top_logprobs=None)
    assert refused == Failure("refused", "HTTP 400 a_code")
    assert isinstance(fine, Sample)


def _set(key, value):
    return lambda answer: answer["choices"][0].update({key: value})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (b"no { json", "not an answer in OpenAI's format"),
        (b'"text"', "not an answer in OpenAI's format"),
        (lambda answer: answer.update(choices=[]), "not an answer in OpenAI's format"),
        (_set("finish_reason", "content_filter"), "finish reason 'content_filter'"),
        (_set("token_ids", None), "the server returns no token ids"),
        (_set("token_ids", [5, 6]), "log-probabilities and token ids do not match"),
        (_set("prompt_token_ids", [1]), "the server has changed the prompt's token ids"),
        (_set("logprobs", None), "the server returns no log-probabilities"),
        (
            lambda answer: answer["choices"][0]["logprobs"]["top_logprobs"].pop(),
            "not an answer in OpenAI's format",
        ),
    ],
)
def test_an_answer_that_cannot_be_believed_is_a_failure(
    serving, teaching, request_of, taking, fault, reason
):
    server = serving("vllm")
    teacher = teaching(server)
    list(teacher.sample(taking([]), top_logprobs=2))  # the check of 2 log-probabilities
    server.faults.append(fault)
    (failure,) = teacher.sample(taking([request_of("q")]), top_logprobs=2)
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)


def test_no_more_requests_are_in_flight_than_allowed_and_no_fewer(
    serving, teaching, request_of, taking
):
    server = serving()
    teacher = teaching(server, max_concurrency=4)
    together = threading.Barrier(4, timeout=10)
    server.before = lambda _handler: together.wait()
    server.most_in_flight = 0
    requests = [request_of(f"q{n}") for n in range(12)]
    results = list(teacher.sample(taking(requests), top_logprobs=None))
    assert {type(one) for one in results} == {Sample}
    assert len(results) == 12
    assert server.most_in_flight == 4


def test_closing_the_iterator_hangs_up_on_the_server(serving, teaching, request_of, taking):
    server = serving()
    teacher = teaching(server, max_concurrency=3)
    first, arrived, gone = threading.Lock(), threading.Semaphore(0), threading.Semaphore(0)

    def answer_the_first_only(handler) -> None:
        if first.acquire(blocking=False):
            # Not before the others are there.
            assert all(arrived.acquire(timeout=10) for _ in range(2))
            return
        arrived.release()
        handler.connection.settimeout(10)
        if handler.connection.recv(1) == b"":
            gone.release()

    server.before = answer_the_first_only
    requests = [request_of(f"q{n}") for n in range(3)]
    results = teacher.sample(taking(requests), top_logprobs=None)
    assert isinstance(next(results), Sample)
    results.close()
    assert all(gone.acquire(timeout=10) for _ in range(2))
    server.before = None
    (again,) = teacher.sample(taking([request_of("again")]), top_logprobs=None)
    assert isinstance(again, Sample)


def paid(**more) -> dict:
    return {"prompt_price": 1e6, "completion_price": 1e6, **more}


def test_the_cost_is_what_the_server_counts(serving, teaching, request_of, taking):
    server = serving()
    teacher = teaching(server, **paid())
    greeting, request = request_of("Hi"), request_of("q", "hello")
    probes = 2 * (len(greeting.prompt_token_ids) + 1)
    assert teacher.spent == pytest.approx(probes)
    list(teacher.sample(taking([request]), top_logprobs=None))
    assert teacher.spent == pytest.approx(probes + len(request.prompt_token_ids) + 4)


@pytest.mark.parametrize("faults", [[], ["drop", None, "drop", None, None, "drop"]])
def test_the_cost_cap_is_never_exceeded_and_nothing_paid_is_lost(
    serving, teaching, request_of, taking, faults
):
    server = serving()
    num_prompt_tokens = len(request_of("q0").prompt_token_ids)
    worst, cost = num_prompt_tokens + 8, num_prompt_tokens + 4
    probes = 2 * (len(request_of("Hi").prompt_token_ids) + 1)
    cap = probes + 6 * worst
    teacher = teaching(server, max_concurrency=8, max_retries=2, **paid(max_cost=cap))
    server.faults += faults
    results: list = []
    requests = taking([request_of(f"q{n}") for n in range(9)])
    with pytest.raises(TeacherError, match="the cost cap is reached"):
        collect(teacher.sample(requests, top_logprobs=None), results)
    num_samples = sum(isinstance(one, Sample) for one in results)
    num_lost = faults.count("drop")
    assert server.num_asked() == num_samples + num_lost
    assert teacher.spent == pytest.approx(probes + num_samples * cost + num_lost * worst)
    assert cap - worst < teacher.spent <= cap
    reasons = {one.reason for one in results if isinstance(one, Failure)}
    assert reasons == ({"the cost cap allows no further attempt"} if faults else set())


def test_connecting_loads_the_tokenizer_and_its_end_tokens(
    serving, toy_tokenizer, request_of, taking, tmp_path
):
    server = serving()
    toy_tokenizer.save_pretrained(tmp_path)
    config = EndpointConfig(base_url=server.base_url, model="toy")
    teacher = connect(config, tmp_path)
    assert teacher.end_token_ids == {END}
    (sample,) = teacher.sample(taking([request_of("q")]), top_logprobs=2)
    teacher.close()
    teacher.close()
    assert sample.finish_reason == "stop"
    assert np.isfinite(sample.signal.sampled_logprobs_T).all()
    with pytest.raises(TeacherError, match="tokenizer cannot be loaded"):
        connect(config.model_copy(update={"tokenizer": str(tmp_path / "none")}), tmp_path)
