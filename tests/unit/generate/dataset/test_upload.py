import json

import fsspec
import pytest

from generate.dataset.upload import upload_stage
from potstill.errors import ArtifactError, ConfigError
from potstill.rundir import RunDirectory


@pytest.fixture
def finished(tmp_path):
    run_directory = RunDirectory(tmp_path / "run")
    session = run_directory.open_stage("conversations", {})
    (session.dir / "train-00000.parquet").write_bytes(b"rows")
    (session.dir / "README.md").write_text("card")
    session.finish()
    return run_directory.stage_dir("conversations")


@pytest.fixture
def store():
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_all_files_are_copied_and_the_manifest_says_which(finished, store):
    upload_stage(finished, "memory://bucket/mine")
    found = {path.rsplit("/", 1)[1]: store.cat_file(path) for path in store.find("/bucket/mine")}
    assert found == {path.name: path.read_bytes() for path in finished.iterdir()}
    outputs = json.loads(found["manifest.json"])["outputs"]
    assert {output["path"] for output in outputs} == {"train-00000.parquet", "README.md"}


def test_a_whole_copy_is_left_alone_and_a_partial_one_completed(finished, store):
    upload_stage(finished, "memory://bucket/mine")
    store.pipe_file("/bucket/mine/README.md", b"changed there")
    upload_stage(finished, "memory://bucket/mine")
    assert store.cat_file("/bucket/mine/README.md") == b"changed there"
    store.rm_file("/bucket/mine/manifest.json")
    upload_stage(finished, "memory://bucket/mine")
    assert store.cat_file("/bucket/mine/README.md") == b"card"


def test_a_local_path_is_a_url_too(finished, tmp_path):
    upload_stage(finished, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "train-00000.parquet").read_bytes() == b"rows"


def test_an_unknown_file_system_is_refused(finished):
    with pytest.raises(ConfigError, match="unknown file system") as caught:
        upload_stage(finished, "nowhere://bucket")
    assert "nowhere" in str(caught.value.found)


def test_what_cannot_be_written_is_an_error_that_says_where_the_files_are(finished, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be copied") as caught:
        upload_stage(finished, str(tmp_path / "file" / "below"))
    assert str(finished) in caught.value.hint
