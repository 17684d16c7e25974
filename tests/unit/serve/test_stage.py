"""The stage: which file serves which name, and what is refused before anything is loaded."""

import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from potstill.errors import ArtifactError, BackendUnavailableError, ConfigError
from potstill.rundir import RunDirectory
from serve.config import ServeConfig
from serve.engine.model import GgufModel
from serve.models import model_paths
from serve.stage import run, run_files
from tests.fixtures.facts import gguf_facts, gguf_file

FILES = [gguf_file(name) for name in ("student-F16", "student-Q8_0", "teacher-F16")]
FACTS = gguf_facts(*FILES, recommended="student-Q8_0")


@pytest.fixture
def gguf_run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    session = directory.open_stage("gguf", {})
    for file in FILES:
        (session.dir / file.file).write_bytes(b"GGUF but nothing else")
    session.finish(facts=FACTS)
    return directory


def names(config: ServeConfig) -> dict[str, str]:
    return {name: path.name for name, path in model_paths(config, FACTS, Path("g")).items()}


def test_student_and_teacher_are_served_by_default():
    assert names(ServeConfig()) == {
        "student": "student-Q8_0.gguf",
        "teacher": "teacher-F16.gguf",
    }


def test_files_of_the_run_and_from_elsewhere_are_served_by_name():
    config = ServeConfig(models=("student-F16", "student"), paths={"mine": Path("/x/y.gguf")})
    assert names(config) == {
        "student-F16": "student-F16.gguf",
        "student": "student-Q8_0.gguf",
        "mine": "y.gguf",
    }


def test_an_upstream_takes_the_place_of_a_model_of_the_run():
    upstreams = {"teacher": {"base_url": "http://127.0.0.1:8001/v1"}}
    assert names(ServeConfig(upstreams=upstreams)) == {"student": "student-Q8_0.gguf"}


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"student \| teacher \| student-F16"):
        names(ServeConfig(models=("pupil",)))


def test_vllm_serves_the_checkpoint_of_a_runs_student_only(gguf_run, tmp_path):
    config = ServeConfig(engine="vllm", port=0)
    with pytest.raises(ArtifactError, match="student"):
        run(config, gguf_run)
    with pytest.raises(ConfigError, match="checkpoint of a run's student"):
        run_files(config, [tmp_path / "a.gguf"])


def test_a_file_changed_after_it_was_made_is_refused(gguf_run):
    (gguf_run.stage_dir("gguf") / "student-Q8_0.gguf").write_bytes(b"GGUF, but truncat")
    with pytest.raises(ArtifactError, match=r"changed or damaged(.|\n)*student-Q8_0"):
        run(ServeConfig(port=0), gguf_run)


def test_a_file_that_is_no_model_is_refused_with_a_reason(gguf_run):
    with pytest.raises(ArtifactError, match=r"cannot be loaded(.|\n)*student-Q8_0"):
        run(ServeConfig(port=0), gguf_run)


def test_a_truncated_model_is_refused(tiny_gguf, tmp_path):
    truncated = tmp_path / "truncated.gguf"
    content = tiny_gguf.read_bytes()
    truncated.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        GgufModel(truncated)


def test_a_taken_port_fails_before_anything_is_loaded(gguf_run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BackendUnavailableError, match=r"serve\.port"):
            run(ServeConfig(port=port), gguf_run)


def test_an_open_address_needs_a_key(gguf_run, monkeypatch):
    monkeypatch.delenv("POTSTILL_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="POTSTILL_API_KEY"):
        run(ServeConfig(host="0.0.0.0", port=0), gguf_run)


def test_live_traffic_without_a_run_needs_a_database(tiny_gguf):
    with pytest.raises(ConfigError, match=r"serve\.storage\.url"):
        run_files(ServeConfig(port=0, storage={}), [tiny_gguf])


def test_a_batch_without_room_for_prompts_is_refused():
    with pytest.raises(ValidationError, match="max_batch_tokens must exceed"):
        ServeConfig(max_parallel=64, max_batch_tokens=64)
