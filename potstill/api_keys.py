"""Keys of OpenAI-compatible servers, read from the environment."""

from __future__ import annotations

import os

from potstill.errors import ConfigError

NO_KEY = "none"
"""The `openai` client requires a key even for servers that need none."""
API_KEY_VARIABLE = "POTSTILL_API_KEY"
"""The environment variable with the key of `potstill serve`: TOML holds no secrets."""


def served_key_variable() -> str | None:
    """Return the variable with the key of `potstill serve`; None where it is not set."""
    return API_KEY_VARIABLE if os.environ.get(API_KEY_VARIABLE) else None


def read_api_key(variable: str | None) -> str:
    """Return the key in an environment variable; NO_KEY where no variable is named.

    Raises:
        ConfigError: The variable is not set, or empty.
    """
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(
            "the API key of a server is not set",
            where=f"environment variable {variable}",
            hint=f"run: export {variable}=..., or unset api_key_variable if it needs no key",
        )
    return key
