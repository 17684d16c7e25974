"""Assignment of users: shares, stability, and ramps that move no more users than necessary."""

from collections import Counter
from typing import Any

import pytest

from serve.backends.protocol import Caller
from serve.experiment.assignment import choose, user_of
from serve.experiment.config import ExperimentConfig
from serve.wire.chat import ChatRequest

USERS = [f"user-{number}" for number in range(4000)]
VARIANTS = {"student": {"weight": 1}, "teacher": {"weight": 1}}


def dealt(weights: dict[str, float], salt: str = "salt", name: str = "e") -> dict[str, str]:
    return {user: choose(weights, salt, name, user) for user in USERS}


def request(**more: Any) -> ChatRequest:
    return ChatRequest(messages=[{"role": "user", "content": "Hi"}], **more)


def config(**more: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"variants": VARIANTS, **more})


def test_shares_are_the_weights():
    counts = Counter(dealt({"a": 1, "b": 2, "c": 7}).values())
    # Four standard errors.
    assert counts["a"] == pytest.approx(400, abs=76)
    assert counts["b"] == pytest.approx(800, abs=101)
    assert counts["c"] == pytest.approx(2800, abs=116)


def test_a_variant_without_weight_gets_no_users():
    assert set(dealt({"a": 0, "b": 0.001}).values()) == {"b"}


def test_the_order_of_variants_and_the_unit_of_weights_do_not_matter():
    assert dealt({"a": 1, "b": 3}) == dealt({"b": 0.75, "a": 0.25})


@pytest.mark.parametrize("others", [{"b": 9}, {"b": 5, "c": 4}])
def test_a_ramp_moves_users_to_the_growing_variant_only(others):
    before = dealt({"a": 1, **others})
    for weight in (2, 5, 20, 500):
        after = dealt({"a": weight, **others})
        moved = {user for user in USERS if before[user] != after[user]}
        assert moved
        assert {after[user] for user in moved} == {"a"}
        before = after


def test_restored_weights_restore_the_assignment():
    assert dealt({"a": 1, "b": 9}) == dealt({"a": 1, "b": 9})
    grown = dealt({"a": 5, "b": 9})
    shrunk = dealt({"a": 1, "b": 9})
    assert {shrunk[user] for user in USERS if grown[user] != shrunk[user]} == {"b"}


def test_experiments_and_salts_assign_independently():
    first = dealt({"a": 1, "b": 1})
    for other in (dealt({"a": 1, "b": 1}, name="f"), dealt({"a": 1, "b": 1}, salt="pepper")):
        same = sum(first[user] == other[user] for user in USERS)
        assert same == pytest.approx(len(USERS) / 2, abs=127)


def test_a_user_is_known_by_the_first_name_that_a_request_has():
    caller = Caller(key_name="alice", headers={"x-potstill-user": "h"})
    assert user_of(config(), request(user="u", safety_identifier="s"), caller) == "user\0u"
    assert user_of(config(), request(safety_identifier="s"), caller) == "user\0s"
    assert user_of(config(), request(), caller) == "key\0alice"
    assert user_of(config(), request(), Caller(headers=caller.headers)) == "header\0h"
    assert user_of(config(), request(), Caller()) is None


def test_the_order_and_the_header_can_be_set():
    caller = Caller(key_name="alice", headers={"x-session": "7"})
    settings = config(sticky=("header", "key"), header="X-Session")
    assert user_of(settings, request(user="u"), caller) == "header\x007"
    assert user_of(settings, request(user="u"), Caller(key_name="alice")) == "key\0alice"


def test_what_a_client_sends_as_its_user_never_fails():
    for odd in ({"a": 1}, ["x"], 7, "\ud83d", True):
        assert user_of(config(), request(user=odd), Caller()) is not None
        assert choose({"a": 1, "b": 1}, "salt", "e", f"user\0{odd}") in ("a", "b")
