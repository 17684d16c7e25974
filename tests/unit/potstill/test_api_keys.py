import pytest

from potstill.api_keys import API_KEY_VARIABLE, NO_KEY, read_api_key, served_key_variable
from potstill.errors import ConfigError


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    assert read_api_key("A_KEY") == "secret"
    assert read_api_key(None) == NO_KEY


@pytest.mark.parametrize(("value", "key"), [(None, NO_KEY), ("", NO_KEY), ("secret", "secret")])
def test_a_server_of_ours_may_need_no_key(monkeypatch, value, key):
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(API_KEY_VARIABLE, value)
    assert read_api_key(served_key_variable()) == key


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_key_is_an_error(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ConfigError, match="the API key of a server is not set") as caught:
        read_api_key("A_KEY")
    assert caught.value.where == "environment variable A_KEY"
