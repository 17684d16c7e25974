import pytest

from potstill.api_keys import NO_KEY, read_api_key
from potstill.errors import ConfigError


def test_a_key_is_read_from_the_variable_that_is_named(monkeypatch):
    monkeypatch.setenv("A_KEY", "secret")
    assert read_api_key("A_KEY") == "secret"
    assert read_api_key(None) == NO_KEY


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_without_a_key_is_an_error(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(ConfigError, match="the API key of a server is not set") as caught:
        read_api_key("A_KEY")
    assert caught.value.where == "environment variable A_KEY"
