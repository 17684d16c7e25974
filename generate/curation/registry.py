"""Create filters by their names: potstill's, and the user's own as `module:name`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from generate.curation.config import CurationConfig
from potstill.errors import ConfigError

F = TypeVar("F")
OWN_EXPECTED = "module:name, a function that returns an object with a name and judge(...)"


@runtime_checkable
class OwnFilter(Protocol):
    """A filter of the user."""

    name: str
    """Name in the counts of dropped rows."""

    def judge(self, one: Any, /) -> str | None:  # noqa: ANN401  (a prompt or a conversation)
        """Return why a prompt or a conversation is dropped, or None."""


def make_filters(
    key: str,
    config: CurationConfig,
    known: Mapping[str, Callable[[CurationConfig], F]],
    adapt: Callable[[OwnFilter], F],
) -> dict[str, F]:
    """Return the filters of a configuration key, in order, by their names.

    Args:
        known: Factories of filters, by name.
        adapt: Converts a filter of the user to the same form.

    Raises:
        ConfigError: A name is unknown or given twice, or a filter rejects its configuration.
    """
    where = f"generate.curation.{key}"
    filters: dict[str, F] = {}
    for given in getattr(config, key):
        if given in known:
            name, made = given, known[given](config)
        elif ":" in given:
            own = _load(given, config, where)
            name, made = own.name, adapt(own)
        else:
            raise ConfigError(
                "there is no such filter",
                where=where,
                expected=f"{', '.join(sorted(known))}, or module:name for your own",
                found=given,
            )
        if name in filters or (name in known and name != given):
            raise ConfigError("two filters have the same name", where=where, found=name)
        filters[name] = made
    return filters


def _load(given: str, config: CurationConfig, where: str) -> OwnFilter:
    module_name, _, name = given.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "a filter of your own cannot be loaded",
            where=f"{where}, {given}",
            expected=OWN_EXPECTED,
            found=error,
            hint="install the module, or add its directory to PYTHONPATH",
        ) from error
    own = make(config) if callable(make) else make
    if not isinstance(own, OwnFilter) or not isinstance(own.name, str) or not callable(own.judge):
        raise ConfigError(
            "not a filter",
            where=f"{where}, {given}",
            expected=OWN_EXPECTED,
            found=repr(own),
        )
    return own
