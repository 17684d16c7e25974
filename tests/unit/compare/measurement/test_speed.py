import pytest

from compare.answers.client import Endpoint, open_client
from compare.measurement.speed import Timed, measure_speed


@pytest.mark.slow
def test_speed_is_the_rate_after_the_first_token(stand_in, questions):
    running, requests = stand_in
    with running() as base_url, open_client(base_url, 10.0) as client:
        endpoints = {name: Endpoint(base_url, name, identity=name) for name in ("slow", "fast")}
        models = {f"the {name}": Timed(client, one) for name, one in endpoints.items()}
        speed = measure_speed(models, questions, 64)
    slow, fast = speed["the slow"], speed["the fast"]
    assert 0 < slow.tokens_per_second <= 50.5
    assert slow.tokens_per_second < fast.tokens_per_second <= 101
    assert slow.time_to_first_token_seconds >= 0.02
    timed = [(body["model"], body["messages"][0]["content"]) for body in requests()[2:]]
    assert timed == [(model, f"question {n}") for n in range(3) for model in ("slow", "fast")]
