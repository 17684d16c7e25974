import pytest
from pydantic import ValidationError

from generate.teachers.endpoint.config import EndpointConfig

NAMES = {"model": "m", "tokenizer": "t"}


@pytest.mark.parametrize(
    "base_url", ["127.0.0.1:8000/v1", "ftp://a/v1", "http://user:key@a/v1", "http://", ""]
)
def test_addresses_are_of_http_and_hold_no_key(base_url):
    with pytest.raises(ValidationError, match="base_url"):
        EndpointConfig(base_url=base_url, **NAMES)


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1:8000/v1", "https://a.example/v1/", "http://a"]
)
def test_addresses_are_taken(base_url):
    assert EndpointConfig(base_url=base_url, **NAMES).base_url == base_url


def test_a_cap_needs_a_price():
    with pytest.raises(ValidationError, match="max_cost needs prompt_price or completion_price"):
        EndpointConfig(base_url="http://a/v1", max_cost=1.0, **NAMES)
    priced = EndpointConfig(base_url="http://a/v1", max_cost=1.0, completion_price=0.1, **NAMES)
    assert priced.max_cost == 1.0


@pytest.mark.parametrize("given", [{"text_only": True}, {"api": "anthropic"}])
@pytest.mark.parametrize(
    ("terms", "said"), [({}, "only you can set"), ({"terms_allow_training": False}, "no student")]
)
def test_a_server_of_text_needs_terms_that_allow_training(given, terms, said):
    url = {"base_url": "http://a/v1"}
    assert not EndpointConfig(**url, **NAMES).gives_text
    with pytest.raises(ValidationError, match=said):
        EndpointConfig(**url, **NAMES, **given, **terms)
    assert EndpointConfig(**url, **NAMES, **given, terms_allow_training=True).gives_text
