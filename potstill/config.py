"""Configuration: one TOML, one table per stage, overrides from the command line.

In: the stages' table classes (each stage owns its own), a preset or a file, `--set` overrides.
Out: validated, frozen tables; the resolved TOML. Unknown keys are refused.
"""

from __future__ import annotations

import copy
import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence, Set
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from potstill import former_names
from potstill.errors import ConfigError
from potstill.files import HINTS


class SecretInValueError(ValueError):
    """A validator found a secret in a value, which is then shown nowhere."""


class Table(BaseModel):
    """Base of every configuration table: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_json(self, exclude: Set[str] = frozenset()) -> dict[str, Any]:
        """Return the table as JSON values, as manifests store it.

        Args:
            exclude: Keys that do not affect the result, such as a number of threads.
        """
        return self.model_dump(mode="json", exclude=set(exclude))


def preset_names() -> list[str]:
    """List the presets that ship with potstill."""
    files = resources.files("potstill").joinpath("presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def read_preset(name: str) -> dict[str, Any]:
    """Read a preset that ships with potstill.

    Raises:
        ConfigError: There is no preset of that name.
    """
    if name not in preset_names():
        raise ConfigError(
            f"unknown preset {name!r}",
            expected=" | ".join(preset_names()),
            hint=_did_you_mean(name, preset_names()) or "--config takes a file of your own",
        )
    file = resources.files("potstill").joinpath("presets").joinpath(f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def read_config_file(path: Path, extended_by: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a TOML file; where it `extends` another one, its keys go before the other's.

    Args:
        extended_by: The files that extend this one.

    Raises:
        ConfigError: It is missing, not TOML, or extends itself.
    """
    if path in extended_by:
        raise ConfigError(
            "a configuration extends itself", where=" → ".join(map(str, [*extended_by, path]))
        )
    content = _read_toml(path)
    extended = content.pop("extends", None)
    if extended is None:
        return content
    if not isinstance(extended, str):
        raise ConfigError(
            "extends cannot have this value",
            where=path,
            expected="the path of a TOML file",
            found=extended,
        )
    return _merged(read_config_file(Path(extended), [*extended_by, path]), content)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return former_names.in_configuration(content, str(path))
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            "the configuration cannot be read",
            where=path,
            found=found,
            hint=HINTS.get(type(error), "save the file as UTF-8"),
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the configuration is not valid TOML", where=path, found=error) from error


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `a.b=c` overrides; `c` is read as a TOML value, else as a string.

    Raises:
        ConfigError: An override has no `=`, or sets a key below a plain value.
    """
    merged = copy.deepcopy(content)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(
                "an override cannot be read",
                where=f"--set {override}",
                expected="a.b=c, for example --set train.kd.weight=0.5",
            )
        *parents, key = former_names.in_override(dotted, override)
        table = merged
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{parent!r} is a value, not a table", where=f"--set {override}")
        value = {key: _parse_value(text.strip())}
        table |= former_names.in_configuration(value, f"--set {override}")
    return merged


def validate_tables(
    content: Mapping[str, Any], classes: Mapping[str, type[Table]], source: str
) -> dict[str, Table]:
    """Validate a whole configuration; a stage without a table gets its defaults.

    Args:
        source: What to name in errors: a path or a preset.

    Raises:
        ConfigError: A table or key is unknown, or a value is out of range.
    """
    for name in content:
        if name not in classes:
            raise ConfigError(
                f"unknown table [{name}]",
                where=source,
                expected=" | ".join(classes),
                hint=_did_you_mean(name, classes),
            )
    return {
        name: _validate(name, cls, content.get(name, {}), source) for name, cls in classes.items()
    }


def dump_toml(tables: Mapping[str, Table]) -> str:
    """Return the resolved configuration as TOML; keys that are unset (None) are left out."""
    content = {
        name: table.model_dump(mode="json", exclude_none=True) for name, table in tables.items()
    }
    return tomli_w.dumps(content)


def _validate(name: str, cls: type[Table], content: object, source: str) -> Table:
    try:
        return cls.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        is_secret = isinstance(first.get("ctx", {}).get("error"), SecretInValueError)
        location = ".".join(str(part) for part in (name, *first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _fields_at(cls, first["loc"][:-1])
            raise ConfigError(
                f"unknown key {location}",
                where=source,
                expected=" | ".join(known),
                hint=_did_you_mean(str(first["loc"][-1]), known),
            ) from error
        raise ConfigError(
            f"{location} cannot have this value",
            where=source,
            expected=first["msg"],
            found=None if is_secret else repr(first["input"]),
        ) from (None if is_secret else error)


def _fields_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    tables = [cls]
    for part in location:
        fields = [one.model_fields[str(part)] for one in tables if str(part) in one.model_fields]
        if fields:
            tables = [table for field in fields for table in _tables_in(field.annotation)]
        # Otherwise the part is an index, a name in a mapping, or the kind of one of several tables.
        elif of_kind := [one for one in tables if part in _kinds(one)]:
            tables = of_kind
    return list(dict.fromkeys(name for table in tables for name in table.model_fields))


def _tables_in(annotation: object) -> list[type[BaseModel]]:
    """Return the table classes in an annotation, such as `dict[str, Table] | None`."""
    if arguments := get_args(annotation):
        return [table for argument in arguments for table in _tables_in(argument)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _kinds(table: type[BaseModel]) -> tuple[object, ...]:
    return get_args(table.model_fields["kind"].annotation) if "kind" in table.model_fields else ()


def _parse_value(text: str) -> Any:  # noqa: ANN401  (a TOML value has any type)
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a content with changed keys; tables are merged, lists and values replaced."""
    merged = dict(content)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        merged[key] = value
    return merged


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None
