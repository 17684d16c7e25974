"""Functions of the user's, named `module:function` in the configuration."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from potstill.errors import ConfigError

FUNCTION_PATTERN = r"^[\w.]+:\w+$"


def import_function(path: str, where: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Args:
        where: The configuration key, for the error.

    Raises:
        ConfigError: There is no such function.
    """
    module, _, name = path.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "a function cannot be imported",
            where=f"{where}: {path}",
            found=error,
            hint="run the command in the module's directory, or set PYTHONPATH",
        ) from error
    return found
