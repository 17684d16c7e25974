import json
from datetime import timedelta
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from potstill.errors import ArtifactError, SchemaVersionError
from potstill.files import sha256_bytes
from potstill.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Input,
    build_manifest,
    config_sha256,
    manifest_sha256,
    read_manifest,
    verify_manifest,
    write_manifest,
)
from tests.fixtures.facts import gguf_file, student_facts

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = st.dictionaries(st.text(), JSON_VALUES, max_size=4)


@pytest.fixture
def directory(tmp_path):
    """A finished stage of two files, one of them below a directory."""
    stage_dir = tmp_path / "student"
    (stage_dir / "deep").mkdir(parents=True)
    (stage_dir / "table.parquet").write_bytes(b"seven rows")
    (stage_dir / "deep" / "weights.bin").write_bytes(bytes(1000))
    manifest = build_manifest(
        "student",
        stage_dir,
        {"kd": {"weight": 0.9}, "seed": 0},
        [Input(path="conversations", manifest_sha256="ab" * 32)],
        rows={"table.parquet": 7},
        facts=student_facts(),
        stats={"seconds": 1.5},
    )
    write_manifest(manifest, stage_dir)
    return stage_dir


def change_json(directory, **changes):
    path = directory / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("path", ["../tiny.gguf", "/etc/passwd", "a/../../b", "", "."])
def test_no_manifest_names_files_outside_of_its_directory(directory, path):
    outputs = [{"path": path, "bytes": 1, "sha256": "00" * 32}]
    change_json(directory, outputs=outputs)
    with pytest.raises(ArtifactError, match="damaged"):
        verify_manifest(directory)
    with pytest.raises(ValidationError, match="inside the directory"):
        gguf_file(file=path)
    with pytest.raises(ValidationError, match="inside the directory"):
        gguf_file(adapter=path)


def test_every_file_is_described_but_the_manifest_itself(directory):
    outputs = {output.path: output for output in read_manifest(directory).outputs}
    assert list(outputs) == ["deep/weights.bin", "table.parquet"]
    assert outputs["table.parquet"].bytes == 10
    assert outputs["table.parquet"].sha256 == sha256_bytes(b"seven rows")
    assert outputs["table.parquet"].rows == 7
    assert outputs["deep/weights.bin"].rows is None


def test_excluded_names_are_left_out_at_the_top_only(directory):
    (directory / "scratch").mkdir()
    (directory / "scratch" / "notes").touch()
    (directory / "deep" / "scratch").touch()
    manifest = build_manifest("student", directory, {}, (), exclude=("scratch", "table.parquet"))
    assert [output.path for output in manifest.outputs] == ["deep/scratch", "deep/weights.bin"]


def test_a_manifest_comes_back_as_it_was_written(directory):
    manifest = build_manifest("student", directory, {"a": [1, None, "é"]}, ())
    write_manifest(manifest, directory)
    assert read_manifest(directory) == manifest == verify_manifest(directory)


def test_a_manifest_says_who_made_it_from_what_and_when(directory):
    manifest = read_manifest(directory)
    assert manifest.schema_version == SCHEMA_VERSION
    assert manifest.stage == "student"
    assert manifest.config == {"kd": {"weight": 0.9}, "seed": 0}
    assert manifest.config_sha256 == config_sha256(manifest.config)
    assert manifest.inputs == (Input(path="conversations", manifest_sha256="ab" * 32),)
    assert manifest.facts == student_facts()
    assert manifest.stats == {"seconds": 1.5}
    assert manifest.created_at.utcoffset() == timedelta(0)
    assert manifest.code.version == metadata.version("potstill")
    assert manifest.environment["torch"] == metadata.version("torch")
    assert {"python", "platform"} <= set(manifest.environment)


@pytest.mark.parametrize("name", ["table.parquet", "deep/weights.bin"])
def test_one_changed_byte_is_found_and_the_file_named(directory, name):
    content = bytearray((directory / name).read_bytes())
    content[5] ^= 1
    (directory / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="changed or damaged") as caught:
        verify_manifest(directory)
    assert caught.value.where == directory / name
    assert caught.value.found == sha256_bytes(bytes(content))
    assert "the student stage again with --force" in str(caught.value)


def test_a_truncated_file_is_found(directory):
    (directory / "deep" / "weights.bin").write_bytes(bytes(999))
    with pytest.raises(ArtifactError, match=r"changed or damaged(.|\n)*weights\.bin"):
        verify_manifest(directory)


def test_a_missing_file_is_found(directory):
    (directory / "table.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"table\.parquet(.|\n)*found: no such file"):
        verify_manifest(directory)


def test_further_files_are_nobodys_business(directory):
    (directory / "notes.txt").write_text("mine")
    assert verify_manifest(directory).stage == "student"


def test_a_directory_without_a_manifest_is_no_finished_stage(tmp_path):
    with pytest.raises(ArtifactError, match="not a finished stage") as caught:
        read_manifest(tmp_path)
    assert caught.value.where == tmp_path
    assert "run the stage that makes it first" in str(caught.value)


@pytest.mark.parametrize(("change", "whose"), [(1, "a later"), (-1, "an earlier")])
def test_another_format_is_refused_even_when_it_has_other_keys(directory, change, whose):
    change_json(directory, schema_version=SCHEMA_VERSION + change, lineage={})
    with pytest.raises(SchemaVersionError, match=f"{whose} potstill") as caught:
        read_manifest(directory)
    assert caught.value.expected == f"schema_version {SCHEMA_VERSION}"
    assert caught.value.found == SCHEMA_VERSION + change


@pytest.mark.parametrize(
    "content", [b"", b'{"stage": "stud', b"[]", b"3", b"{}", b"\xff\xfe", b'{"schema_version": 2}']
)
def test_a_broken_manifest_is_an_error_that_names_it(directory, content):
    (directory / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ArtifactError, match="the manifest is damaged") as caught:
        verify_manifest(directory)
    assert caught.value.where == directory / MANIFEST_NAME


@pytest.mark.parametrize("changes", [{"lineage": 3}, {"outputs": 3}, {"created_at": "long ago"}])
def test_keys_and_values_of_no_manifest_are_refused(directory, changes):
    change_json(directory, **changes)
    with pytest.raises(ArtifactError, match="the manifest is damaged"):
        read_manifest(directory)


def test_the_hash_of_a_manifest_pins_the_files(directory):
    before = manifest_sha256(directory)
    assert manifest_sha256(directory) == before
    manifest = read_manifest(directory)
    write_manifest(manifest, directory)
    assert manifest_sha256(directory) == before
    (directory / "table.parquet").write_bytes(b"eight rows")
    outputs = build_manifest("student", directory, {}, ()).outputs
    write_manifest(manifest.model_copy(update={"outputs": outputs}), directory)
    assert manifest_sha256(directory) != before


@given(CONFIGS)
def test_the_hash_of_a_configuration_ignores_the_order_of_keys_and_survives_json(config):
    reversed_config = dict(reversed(config.items()))
    assert config_sha256(reversed_config) == config_sha256(config)
    assert config_sha256(json.loads(json.dumps(config))) == config_sha256(config)


@given(CONFIGS, CONFIGS)
def test_different_configurations_have_different_hashes(one, other):
    same_text = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (config_sha256(one) == config_sha256(other)) is same_text
