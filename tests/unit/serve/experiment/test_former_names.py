"""A judge that was written for an earlier version can still send its judgments."""

from .conftest import split


def test_judgments_are_taken_under_their_former_name(live):
    server = live(split(student=1, teacher=0))
    server.ask("Question")
    server.shadows(1)
    path = "/v1/experiments/assistant"
    (pair,) = server.client.get(f"{path}/pairs?judge=j").json()["data"]
    judgments = [{"pair_id": pair["pair_id"], "score": 1.0}]
    body = {"judge": "j", "is_valid": True, "judgements": judgments}
    answer = server.client.post(f"{path}/judgements", json=body)
    assert answer.json()["verdict"]["pairs"] == 1
