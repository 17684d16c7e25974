import copy
import json
import pickle
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from potstill import errors
from potstill.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailableError,
    ConfigError,
    ContextLengthError,
    ConversionError,
    ManifestMismatchError,
    PotstillError,
    SchemaVersionError,
    TeacherError,
    TrainingError,
    error_from_dict,
    first_line,
    first_problem,
)

TREE = {
    ConfigError: PotstillError,
    ArtifactError: PotstillError,
    ManifestMismatchError: ArtifactError,
    SchemaVersionError: ArtifactError,
    TeacherError: PotstillError,
    TrainingError: PotstillError,
    ConversionError: PotstillError,
    BackendError: PotstillError,
    ContextLengthError: BackendError,
    BackendUnavailableError: BackendError,
}


def test_message_says_what_where_expected_found_and_hint_in_that_order():
    error = PotstillError("it broke", hint="mend it", found=3, expected=2, where="row 7")
    assert str(error) == "it broke\n  where: row 7\n  expected: 2\n  found: 3\n  hint: mend it"


def test_what_is_not_known_is_left_out_but_zero_is_shown():
    assert str(PotstillError("it broke", found=0, hint="mend it")) == (
        "it broke\n  found: 0\n  hint: mend it"
    )
    assert str(PotstillError("it broke")) == "it broke"


@pytest.mark.parametrize(("kind", "parent"), TREE.items())
def test_every_kind_has_its_place_in_the_tree(kind, parent):
    assert kind.__bases__[0] is parent


def test_the_tree_above_is_the_whole_tree():
    found = {value for value in vars(errors).values() if isinstance(value, type)}
    assert found == {PotstillError, *TREE}


@pytest.mark.parametrize("kind", [PotstillError, *TREE])
def test_only_a_wrong_setting_exits_with_2(kind):
    assert kind("it broke").exit_code == (2 if kind is ConfigError else 1)


def test_a_wrong_setting_is_a_value_error_for_whoever_expects_one():
    with pytest.raises(ValueError, match="it broke"):
        raise ConfigError("it broke")


class RoomError(BackendError):
    """An error class of a room, which another process may not have."""


@pytest.mark.parametrize("kind", [PotstillError, *TREE, RoomError])
def test_an_error_is_raised_again_from_json(kind):
    error = kind("it broke", where=Path("row"), expected=1, found=2.5, hint="mend it")
    again = error_from_dict(json.loads(json.dumps(error.to_dict())))
    assert type(again) is (BackendError if kind is RoomError else kind)
    assert str(again) == str(error)
    assert again.to_dict() == error.to_dict()


@pytest.mark.parametrize("duplicate", [copy.copy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_message_survives_the_way_between_processes(duplicate):
    error = ManifestMismatchError("it broke", where="row 7", found=0, hint="mend it")
    assert str(duplicate(error)) == str(error)
    assert duplicate(error).where == "row 7"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("one\ntwo"), "one"), (OSError(), "OSError"), (ValueError("\n"), "ValueError")],
)
def test_a_library_error_is_quoted_in_one_line(error, line):
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([{"a": 1}, {"a": "x"}], "1.a: Input should be a valid integer"),
        (7, "the file: Input should be a valid list"),
    ],
)
def test_a_problem_of_a_value_is_quoted_with_its_place(value, problem):
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(list[dict[str, int]]).validate_python(value)
    assert first_problem(raised.value, "the file").startswith(problem)
