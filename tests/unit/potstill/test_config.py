import tomllib
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from potstill.config import (
    Table,
    apply_overrides,
    dump_toml,
    preset_names,
    read_config_file,
    read_preset,
    validate_tables,
)
from potstill.errors import ConfigError
from potstill.pipeline import STAGES, Choice, resolve
from potstill.rundir import RunDirectory


class Cask(Table):
    """A table below a table."""

    wood: Literal["oak", "cherry"] = "oak"
    liters: float = Field(200.0, gt=0)


class Still(Table):
    """A stage's table."""

    cask: Cask = Cask()
    num_runs: int = Field(2, ge=1)
    label: str | None = None
    path: Path = Path("spirit.txt")
    tags: tuple[str, ...] = ()


class Bottle(Table):
    """Another stage's table."""

    sealed: bool = True


CLASSES = {"still": Still, "bottle": Bottle}


def validate(content):
    return validate_tables(content, CLASSES, "a test")


def override(*overrides, content=None):
    return apply_overrides(content or {}, overrides)


def test_a_stage_without_a_table_gets_its_defaults():
    assert validate({"bottle": {"sealed": False}}) == {
        "still": Still(),
        "bottle": Bottle(sealed=False),
    }


def test_tables_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Still().num_runs = 3


def test_a_table_is_json_for_manifests():
    assert Still(tags=("a",)).to_json() == {
        "cask": {"wood": "oak", "liters": 200.0},
        "num_runs": 2,
        "label": None,
        "path": "spirit.txt",
        "tags": ["a"],
    }


def test_a_docstring_below_a_field_is_its_description():
    class Documented(Table):
        num_runs: int = 2
        """How often."""

    assert Documented.model_fields["num_runs"].description == "How often."


@pytest.mark.parametrize(
    ("content", "what", "expected", "hint"),
    [
        ({"stil": {}}, "unknown table [stil]", "still | bottle", "did you mean 'still'?"),
        ({"xyz": {}}, "unknown table [xyz]", "still | bottle", None),
        (
            {"still": {"num_run": 3}},
            "unknown key still.num_run",
            "cask | num_runs | label | path | tags",
            "did you mean 'num_runs'?",
        ),
        (
            {"still": {"cask": {"litters": 3}}},
            "unknown key still.cask.litters",
            "wood | liters",
            "did you mean 'liters'?",
        ),
        ({"bottle": {"xyz": 3}}, "unknown key bottle.xyz", "sealed", None),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(content, what, expected, hint):
    with pytest.raises(ConfigError) as caught:
        validate(content)
    assert caught.value.what == what
    assert caught.value.where == "a test"
    assert caught.value.expected == expected
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("where", "content", "expected"),
    [
        ("spare", {"litters": 3}, "wood | liters"),
        ("named", {"a": {"litters": 3}}, "wood | liters"),
        ("listed", ({"kind": "small", "size": 3},), "kind | num_drams"),
    ],
)
def test_unknown_names_are_told_wherever_a_table_lies(where, content, expected):
    class Dram(Table):
        kind: Literal["small"]
        num_drams: int = 1

    class Bulk(Table):
        kind: Literal["large"]

    class Store(Table):
        spare: Cask | None = None
        named: dict[str, Cask] = Field(default_factory=dict)
        listed: tuple[Annotated[Dram | Bulk, Field(discriminator="kind")], ...] = ()

    with pytest.raises(ConfigError) as caught:
        validate_tables({"store": {where: content}}, {"store": Store}, "a test")
    assert caught.value.expected == expected


@pytest.mark.parametrize(
    ("content", "key", "found"),
    [
        ({"still": {"num_runs": 0}}, "still.num_runs", "0"),
        ({"still": {"num_runs": "many"}}, "still.num_runs", "'many'"),
        ({"still": {"cask": {"wood": "pine"}}}, "still.cask.wood", "'pine'"),
        ({"still": {"tags": ["a", 3]}}, "still.tags.1", "3"),
        ({"still": {"cask": 3}}, "still.cask", "3"),
        ({"still": 3}, "still", "3"),
    ],
)
def test_values_out_of_range_are_refused_with_key_and_value(content, key, found):
    with pytest.raises(ConfigError) as caught:
        validate(content)
    assert caught.value.what == f"{key} cannot have this value"
    assert caught.value.found == found
    assert caught.value.expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-4", 1e-4),
        ("-1", -1),
        ("true", True),
        ("True", "True"),
        ("oak", "oak"),
        ('"3"', "3"),
        ("'3'", "3"),
        ("[1, 2]", [1, 2]),
        ('["a", "b"]', ["a", "b"]),
        ("{a = 1}", {"a": 1}),
        ("/data/my prompts.jsonl", "/data/my prompts.jsonl"),
        ("https://host/?a=b", "https://host/?a=b"),
        ("", ""),
        ("  3  ", 3),
    ],
)
def test_an_override_is_a_toml_value_or_else_a_string(text, value):
    (found,) = override(f"a={text}").values()
    assert found == value
    assert type(found) is type(value)


def test_overrides_reach_into_tables_and_the_last_one_counts():
    content = {"still": {"cask": {"wood": "oak"}, "num_runs": 1}}
    overrides = ["still.cask.wood=cherry", "bottle.sealed=false", "still.num_runs=3"]
    found = override(*overrides, "still.num_runs = 4", content=content)
    assert found == {
        "still": {"cask": {"wood": "cherry"}, "num_runs": 4},
        "bottle": {"sealed": False},
    }
    assert content == {"still": {"cask": {"wood": "oak"}, "num_runs": 1}}


@pytest.mark.parametrize("text", ["still.num_runs", "=3", " =3", ""])
def test_an_override_without_key_or_value_is_refused(text):
    with pytest.raises(ConfigError, match="an override cannot be read") as caught:
        override(text)
    assert caught.value.where == f"--set {text}"


def test_a_key_below_a_plain_value_is_refused():
    with pytest.raises(ConfigError, match="'num_runs' is a value, not a table") as caught:
        override("still.num_runs.x=3", content={"still": {"num_runs": 1}})
    assert caught.value.where == "--set still.num_runs.x=3"


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'general2'") as caught:
        read_preset("general2")
    assert caught.value.expected == " | ".join(preset_names())
    assert caught.value.hint == "did you mean 'general'?"
    with pytest.raises(ConfigError, match="--config takes a file of your own"):
        read_preset("../presets/general")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_for_all_stages(name, tmp_path):
    tables = resolve(Choice(preset=name), RunDirectory(tmp_path / "run"))
    assert set(tables) == {"task", "machine", *STAGES}
    for table_name, content in read_preset(name).items():
        assert tables[table_name] != type(tables[table_name])(), f"[{table_name}] changes nothing"
        assert content


def test_the_demo_is_a_preset():
    assert "general" in preset_names()


def test_a_file_is_read(tmp_path):
    (tmp_path / "mine.toml").write_text('[still]\nlabel = "café"\n', encoding="utf-8")
    assert read_config_file(tmp_path / "mine.toml") == {"still": {"label": "café"}}


def test_a_file_changes_keys_of_the_one_it_extends(tmp_path):
    base, middle, mine = (tmp_path / f"{name}.toml" for name in ("base", "middle", "mine"))
    base.write_text("[still]\nlabel = 'a'\nnum_runs = 1\n[wash]\nlist = [1, 2]\n")
    middle.write_text(f"extends = '{base}'\n[still]\nnum_runs = 2\n[wash]\nlist = [3]\n")
    mine.write_text(f"extends = '{middle}'\n[still]\nnum_runs = 3\n")
    assert read_config_file(mine) == {
        "still": {"label": "a", "num_runs": 3},
        "wash": {"list": [3]},
    }
    base.write_text(f"extends = '{mine}'\n")
    with pytest.raises(ConfigError, match="extends itself") as caught:
        read_config_file(mine)
    assert str(caught.value.where) == f"{mine} → {middle} → {base} → {mine}"
    base.write_text("extends = 3\n")
    with pytest.raises(ConfigError, match="extends cannot have this value"):
        read_config_file(mine)


@pytest.mark.parametrize(
    ("content", "what", "found"),
    [
        (b"[still\n", "not valid TOML", "line 1"),
        (b"[still]\nnum_runs = 1\nnum_runs = 2\n", "not valid TOML", "line 3"),
        (b"label = '\xff'\n", "cannot be read", "utf-8"),
        (None, "cannot be read", "No such file"),
    ],
)
def test_what_is_no_toml_file_is_refused_with_the_reason(tmp_path, content, what, found):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        read_config_file(path)
    assert caught.value.where == path
    assert found in str(caught.value.found)


def test_a_directory_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config_file(tmp_path)


@given(
    still=st.builds(
        Still,
        cask=st.builds(
            Cask,
            wood=st.sampled_from(["oak", "cherry"]),
            liters=st.floats(0.1, 1e9),
        ),
        num_runs=st.integers(1, 2**62),
        label=st.none() | st.text(st.characters(codec="utf-8")),
        path=st.just(Path("a b/ü.txt")),
        tags=st.lists(st.text(st.characters(codec="utf-8")), max_size=3).map(tuple),
    ),
    sealed=st.booleans(),
)
def test_a_configuration_comes_back_from_its_toml(still, sealed):
    tables = {"still": still, "bottle": Bottle(sealed=sealed)}
    assert validate(tomllib.loads(dump_toml(tables))) == tables


@pytest.mark.parametrize("name", preset_names())
def test_resolved_presets_come_back_from_their_toml(name, tmp_path):
    run_directory = RunDirectory(tmp_path)
    tables = resolve(Choice(preset=name), run_directory)
    run_directory.config_path.write_text(dump_toml(tables), encoding="utf-8")
    assert resolve(Choice(), run_directory) == tables


def optional_keys(cls, prefix):
    """Yield the key and default of every setting that may be None."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            yield from optional_keys(field.annotation, f"{prefix}.{name}")
        elif type(None) in get_args(field.annotation):
            yield f"{prefix}.{name}", field.default


@pytest.mark.parametrize("name", STAGES)
def test_what_may_be_unset_is_unset_by_default_because_toml_has_no_null(name):
    found = dict(optional_keys(STAGES[name].table_class(), name))
    assert found == dict.fromkeys(found)


def test_some_settings_may_be_unset():
    assert len([key for name in STAGES for key in optional_keys(STAGES[name].table_class(), name)])
