"""Functions of the user's, named `module:function` or `file.py:function` in the configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from potstill.errors import ConfigError

FUNCTION_PATTERN = r"^(?:[\w.]+|[^:]+\.py):\w+$"


def import_function(path: str, where: str) -> Callable[..., Any]:
    """Return the function that `module:function` or `file.py:function` names.

    Args:
        where: The configuration key, for the error.

    Raises:
        ConfigError: There is no such function.
    """
    module, _, name = path.rpartition(":")
    try:
        found: Callable[..., Any] = getattr(_module(module), name)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise ConfigError(
            "a function cannot be imported",
            where=f"{where}: {path}",
            found=error,
            hint="name a file, or run the command in the module's directory, or set PYTHONPATH",
        ) from error
    return found


def _module(name: str) -> ModuleType:
    if not name.endswith(".py"):
        return import_module(name)
    unique = f"potstill_user_functions.{Path(name).resolve().as_posix()}"
    if unique in sys.modules:
        return sys.modules[unique]
    spec = spec_from_file_location(unique, name)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[unique] = module  # Before it runs, as dataclasses look their module up.
    directory = str(Path(name).resolve().parent)
    sys.path.insert(0, directory)  # It imports its neighbors, as a script does.
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[unique]
        raise
    finally:
        sys.path.remove(directory)
    return module
