"""British names that potstill wrote before this version, read as the American ones of today.

In: JSON values and paths. Out: the same with today's names. The next version deletes this module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_configuration_logger = logging.getLogger(f"{__name__}.configuration")

KEYS = {
    "break_even_utilisation": "break_even_utilization",
    "judgements": "judgments",
    "licence": "license",
    "quantisation_aware": "quantization_aware",
    "quantised": "quantized",
    "quantised_aware": "quantized_aware",
    "quantised_plain": "quantized_plain",
    "utilisation": "utilization",
}
VALUES = {
    "operations": {"concretise": "concretize"},
    "tail": {"renormalise": "renormalize"},
}
"""By the key of the value, or of the list that holds it."""
FILES = {"judgments.parquet": "judgements.parquet"}
"""Former names by today's."""
TABLES = {"judgements": "judgments"}
"""Of a server's storage."""
JUDGMENTS_PATH = "/v1/experiments/{name}/judgements"
REMOVED = {"hidden_states": False, "teacher.cache_dir": "~/.cache/potstill"}
"""Keys that stages no longer have, perhaps after their table's name, with the only value that
changes nothing."""


def in_configuration(content: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a configuration with today's names; warn once of each former one.

    Args:
        source: What to name in the warning: a path, a preset or `--set`.
    """
    renamed: list[tuple[str, str]] = []
    today = _today(content, renamed)
    for former, name in renamed:
        _warn(source, former, name)
    return dict(today)


@contextmanager
def reported_by_parent() -> Iterator[None]:
    """Do not warn of a configuration that the process that started this one has read."""
    _configuration_logger.disabled = True
    try:
        yield
    finally:
        _configuration_logger.disabled = False


def in_override(dotted: str, override: str) -> list[str]:
    """Return the keys of `--set a.b=c` with today's names; warn once of each former one."""
    keys = dotted.strip().split(".")
    for key in KEYS.keys() & set(keys):
        _warn(f"--set {override}", key, KEYS[key])
    return [KEYS.get(key, key) for key in keys]


def in_artifact(content: Any) -> Any:  # noqa: ANN401  (a JSON value)
    """Return what is stored in an artifact with today's names."""
    renamed: list[tuple[str, str]] = []
    today = _today(content, renamed)
    if renamed:
        _warn_of_artifacts()
    return today


def columns(names: list[str]) -> list[str]:
    """Return today's names of a table's columns."""
    if KEYS.keys() & set(names):
        _warn_of_artifacts()
    return [KEYS.get(name, name) for name in names]


def of_columns(names: list[str], stored: list[str]) -> list[str]:
    """Return the names under which columns are stored."""
    former = dict(zip(columns(stored), stored, strict=True))
    return [former.get(name, name) for name in names]


def stored_path(path: Path) -> Path:
    """Return a file's path: with its name, or with its former one."""
    former = path.with_name(FILES.get(path.name, path.name))
    return former if former.exists() and not path.exists() else path


@cache
def _warn_of_artifacts() -> None:
    """Warn once in a process."""
    logger.warning(
        "files of an earlier potstill are read, with the British names of keys and columns; "
        "the next version will refuse them"
    )


@cache
def _warn(source: str, former: str, name: str) -> None:
    """Warn once in a process: a configuration is read several times."""
    _configuration_logger.warning("%s: %s is called %s now; rename it", source, former, name)


def _today(value: Any, renamed: list[tuple[str, str]], key: str = "") -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {
            _key(name, renamed): _today(one, renamed, name)
            for name, one in value.items()
            if all(REMOVED.get(removed, ...) != one for removed in (name, f"{key}.{name}"))
        }
    if isinstance(value, list):
        return [_today(one, renamed, key) for one in value]
    name = VALUES.get(key, {}).get(value) if isinstance(value, str) else None
    if name is None:
        return value
    renamed.append((f"{key} {value!r}", repr(name)))
    return name


def _key(name: str, renamed: list[tuple[str, str]]) -> str:
    if name in KEYS:
        renamed.append((name, KEYS[name]))
    return KEYS.get(name, name)
