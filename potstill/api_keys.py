"""Keys of OpenAI-compatible servers, which come from the environment alone."""

from __future__ import annotations

import os

from potstill.errors import ConfigError

NO_KEY = "none"
"""The `openai` client requires a key even for servers that need none."""


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
