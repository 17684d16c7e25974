import fcntl
import logging
import os

import pytest

from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.facts.base import STAGE_NAMES
from potstill.facts.prompts import PromptsFacts
from potstill.manifest import MANIFEST_NAME, build_manifest, manifest_sha256, write_manifest
from potstill.rundir import REQUEST_NAME, RunDirectory
from tests.fixtures.facts import prompts_facts

CONFIG = {"kd": {"weight": 0.9, "divergence": "forward_kl"}, "seed": 0}


class Killed(BaseException):
    """What a test raises where a process would be killed."""


def make(run_directory, stage="prompts", config=CONFIG, content="content", inputs=()):
    """Do a stage's whole work, as a stage would."""
    session = run_directory.open_stage(stage, config, inputs)
    if session.finished:
        return session.finished
    (session.dir / "file.txt").write_text(content)
    facts = prompts_facts() if stage == "prompts" else None
    return session.finish(rows={"file.txt": 1}, facts=facts, stats={"tokens": 3})


def content(run_directory, stage="prompts") -> str:
    return (run_directory.stage_dir(stage) / "file.txt").read_text()


def names(run_directory) -> set[str]:
    return {path.name for path in run_directory.root.iterdir()}


def kill_at_rename(monkeypatch, directory):
    """Let the process end where `directory` would get another name."""
    real = type(directory).rename

    def rename(self, target):
        if self == directory:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(type(directory), "rename", rename)


def test_a_stage_is_begun_interrupted_resumed_and_finished(run_directory):
    begun = run_directory.open_stage("prompts", CONFIG)
    assert begun.finished is None
    assert begun.dir == run_directory.partial_dir("prompts")
    (begun.dir / "half.txt").write_text("half")
    begun.scratch_dir.mkdir()
    (begun.scratch_dir / "notes").write_text("notes")
    assert not run_directory.is_finished("prompts")

    resumed = run_directory.open_stage("prompts", CONFIG)
    assert resumed.finished is None
    assert (resumed.dir / "half.txt").read_text() == "half"
    assert (resumed.scratch_dir / "notes").read_text() == "notes"
    manifest = resumed.finish()

    assert run_directory.is_finished("prompts")
    assert run_directory.require("prompts") == manifest
    assert [output.path for output in manifest.outputs] == ["half.txt"]
    assert {path.name for path in run_directory.stage_dir("prompts").iterdir()} == {
        "half.txt",
        MANIFEST_NAME,
    }
    assert names(run_directory) == {"prompts"}


def test_a_manifest_holds_what_the_stage_told(run_directory):
    manifest = make(run_directory)
    assert manifest.stage == "prompts"
    assert manifest.config == CONFIG
    assert manifest.outputs[0].rows == 1
    assert manifest.facts == run_directory.facts(PromptsFacts) == prompts_facts()
    assert manifest.stats["tokens"] == 3
    assert 0 <= manifest.stats["seconds"] < 60


def test_a_finished_stage_is_found_again_and_not_touched(run_directory):
    manifest = make(run_directory)
    assert run_directory.open_stage("prompts", CONFIG).finished == manifest
    assert make(run_directory, content="another") == manifest
    assert content(run_directory) == "content"
    assert names(run_directory) == {"prompts"}


@pytest.mark.parametrize("finished", [True, False])
def test_another_configuration_is_refused_with_the_key_and_both_values(run_directory, finished):
    session = run_directory.open_stage("prompts", CONFIG)
    (session.dir / "file.txt").write_text("content")
    if finished:
        session.finish()
    other = {"kd": {"weight": 0.5, "divergence": "forward_kl"}, "seed": 0}
    with pytest.raises(ManifestMismatchError, match="another configuration") as caught:
        run_directory.open_stage("prompts", other)
    assert caught.value.expected == "prompts.kd.weight = 0.5 (configured now)"
    assert caught.value.found == "prompts.kd.weight = 0.9"
    assert "--force" in caught.value.hint
    state = run_directory.stage_dir if finished else run_directory.partial_dir
    assert (state("prompts") / "file.txt").read_text() == "content"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"kd": CONFIG["kd"], "seed": 0, "new": 3}, "prompts.new = '(absent)'"),
        ({"kd": CONFIG["kd"]}, "prompts.seed = 0"),
        ({"kd": None, "seed": 0}, f"prompts.kd = {CONFIG['kd']!r}"),
    ],
)
def test_keys_that_came_or_went_are_named(run_directory, config, found):
    make(run_directory)
    with pytest.raises(ManifestMismatchError) as caught:
        make(run_directory, config=config)
    assert caught.value.found == found


def test_a_new_key_that_is_unset_is_a_mismatch_of_ours(run_directory):
    make(run_directory)
    with pytest.raises(ManifestMismatchError):
        make(run_directory, config=CONFIG | {"new": None})


def test_what_a_killed_process_was_writing_is_no_output(run_directory):
    session = run_directory.open_stage("prompts", CONFIG)
    for name in (f".{MANIFEST_NAME}.tmp", ".file.txt.tmp"):
        (session.dir / name).write_text("half")
    manifest = make(run_directory)
    assert [output.path for output in manifest.outputs] == ["file.txt"]
    assert run_directory.require("prompts") == manifest
    kept = {path.name for path in run_directory.stage_dir("prompts").iterdir()}
    assert kept == {"file.txt", MANIFEST_NAME}


def test_a_stage_pins_the_manifests_it_read(run_directory):
    make(run_directory, "prompts")
    manifest = make(run_directory, "conversations", inputs=("prompts",))
    (pinned,) = manifest.inputs
    assert pinned.path == "prompts"
    assert pinned.manifest_sha256 == manifest_sha256(run_directory.stage_dir("prompts"))


def test_an_input_made_again_means_made_again(run_directory):
    make(run_directory, "prompts", content="old")
    make(run_directory, "conversations", content="old", inputs=("prompts",))
    run_directory.set_aside("prompts")
    make(run_directory, "prompts", content="new")
    session = run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    assert session.finished is None
    assert [path.name for path in session.dir.iterdir()] == [REQUEST_NAME]
    assert (run_directory.replaced_dir("conversations") / "file.txt").read_text() == "old"
    make(run_directory, "conversations", content="new", inputs=("prompts",))
    assert content(run_directory, "conversations") == "new"
    assert names(run_directory) == {"prompts", "conversations"}


def test_an_input_made_again_drops_partial_work(run_directory, caplog):
    make(run_directory, "prompts", content="old")
    session = run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    (session.dir / "half.txt").write_text("half")
    run_directory.set_aside("prompts")
    make(run_directory, "prompts", content="new")
    caplog.set_level(logging.INFO)
    session = run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    assert not (session.dir / "half.txt").exists()
    assert "made again, because an input has changed" in caplog.text


def test_a_missing_or_damaged_input_is_refused_before_anything_is_made(run_directory):
    with pytest.raises(ArtifactError, match="there is no such run"):
        run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    run_directory.root.mkdir()
    with pytest.raises(ArtifactError, match="not a finished stage"):
        run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    make(run_directory, "prompts")
    (run_directory.stage_dir("prompts") / "file.txt").write_text("damaged")
    with pytest.raises(ArtifactError, match=r"changed or damaged(.|\n)*file\.txt"):
        run_directory.open_stage("conversations", CONFIG, inputs=("prompts",))
    assert names(run_directory) == {"prompts"}


def test_a_damaged_result_is_refused_not_skipped(run_directory):
    make(run_directory)
    (run_directory.stage_dir("prompts") / "file.txt").write_text("damaged")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        run_directory.open_stage("prompts", CONFIG)


def test_setting_aside_keeps_the_former_result_until_the_new_one_is_done(run_directory):
    make(run_directory, content="old")
    run_directory.set_aside("prompts")
    session = run_directory.open_stage("prompts", {"seed": 1})
    assert session.finished is None
    (session.dir / "file.txt").write_text("new")
    former = run_directory.replaced_dir("prompts") / "file.txt"
    assert former.read_text() == "old"
    run_directory.set_aside("prompts")
    assert former.read_text() == "old"
    assert not session.dir.exists()
    make(run_directory, config={"seed": 1}, content="new")
    assert content(run_directory) == "new"
    assert names(run_directory) == {"prompts"}


def test_setting_aside_what_is_not_there_does_nothing(run_directory):
    run_directory.set_aside("prompts")
    assert not run_directory.root.exists()


def test_a_cheap_stage_is_made_again_for_another_configuration(run_directory, caplog):
    make(run_directory, "conversations", content="old")
    caplog.set_level(logging.INFO)
    session = run_directory.open_stage("conversations", {"other": 1}, replace=True)
    assert session.finished is None
    assert "has changed" in caplog.text
    assert run_directory.replaced_dir("conversations").is_dir()
    (session.dir / "half.txt").write_text("half")
    again = run_directory.open_stage("conversations", {"other": 2}, replace=True)
    assert not (again.dir / "half.txt").exists()
    again.finish()
    assert run_directory.require("conversations").config == {"other": 2}


def test_setting_aside_drops_partial_work_of_another_configuration(run_directory):
    session = run_directory.open_stage("prompts", CONFIG)
    (session.dir / "half.txt").write_text("half")
    run_directory.set_aside("prompts")
    assert not (run_directory.open_stage("prompts", {"seed": 1}).dir / "half.txt").exists()


def test_a_crash_between_manifest_and_rename_is_healed(run_directory, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, run_directory.partial_dir("prompts"))
        with pytest.raises(Killed):
            make(run_directory)
    assert not run_directory.is_finished("prompts")
    assert (run_directory.partial_dir("prompts") / MANIFEST_NAME).is_file()
    session = run_directory.open_stage("prompts", CONFIG)
    assert session.finished is not None
    assert session.finished == run_directory.require("prompts")
    assert names(run_directory) == {"prompts"}


def test_a_crash_right_after_the_manifest_is_healed_without_leftovers(run_directory):
    session = run_directory.open_stage("prompts", CONFIG)
    (session.dir / "file.txt").write_text("content")
    session.scratch_dir.mkdir()
    (session.scratch_dir / "notes").touch()
    excluded = (REQUEST_NAME, "scratch")
    write_manifest(
        build_manifest("prompts", session.dir, CONFIG, (), exclude=excluded), session.dir
    )
    assert run_directory.open_stage("prompts", CONFIG).finished is not None
    left = {path.name for path in run_directory.stage_dir("prompts").iterdir()}
    assert left == {"file.txt", MANIFEST_NAME}


def test_a_crash_while_the_former_result_is_replaced_is_healed(run_directory, monkeypatch):
    make(run_directory, content="old")
    session = run_directory.open_stage("prompts", CONFIG)
    run_directory.set_aside("prompts")
    session = run_directory.open_stage("prompts", CONFIG)
    (session.dir / "file.txt").write_text("new")
    with monkeypatch.context() as patch:
        kill_at_rename(patch, session.dir)
        with pytest.raises(Killed):
            session.finish()
    assert names(run_directory) == {"prompts.partial", "prompts.replaced"}
    assert run_directory.open_stage("prompts", CONFIG).finished is not None
    assert content(run_directory) == "new"
    assert names(run_directory) == {"prompts"}


def test_a_whole_result_of_another_configuration_is_refused_before_its_rename(
    run_directory, monkeypatch
):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, run_directory.partial_dir("prompts"))
        with pytest.raises(Killed):
            make(run_directory)
    with pytest.raises(ManifestMismatchError):
        run_directory.open_stage("prompts", {"seed": 1})
    assert (run_directory.partial_dir("prompts") / "file.txt").read_text() == "content"


def test_a_result_damaged_between_manifest_and_rename_is_not_taken(run_directory, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at_rename(patch, run_directory.partial_dir("prompts"))
        with pytest.raises(Killed):
            make(run_directory)
    (run_directory.partial_dir("prompts") / "file.txt").write_text("damaged")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        run_directory.open_stage("prompts", CONFIG)
    assert not run_directory.is_finished("prompts")


def test_a_damaged_request_is_an_error_of_ours(run_directory):
    session = run_directory.open_stage("prompts", CONFIG)
    (session.dir / REQUEST_NAME).write_text('{"config": {')
    with pytest.raises(ArtifactError):
        run_directory.open_stage("prompts", CONFIG)


def test_only_one_holds_the_run(run_directory):
    with run_directory.locked():
        with (
            pytest.raises(ArtifactError, match="another potstill process") as caught,
            RunDirectory(run_directory.root).locked(),
        ):
            pytest.fail("two hold the run")
        assert caught.value.where == run_directory.root
    with run_directory.locked():
        pass


def test_the_lock_is_let_go_when_the_work_fails(run_directory):
    with pytest.raises(Killed), run_directory.locked():
        raise Killed
    descriptor = os.open(run_directory.root / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_run_directory_that_is_a_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / "run").write_text("a file")
    run_directory = RunDirectory(tmp_path / "run")
    with (
        pytest.raises(ArtifactError, match="creating the run directory") as caught,
        run_directory.locked(),
    ):
        pytest.fail("a file cannot be a run")
    assert caught.value.where == str(tmp_path / "run")
    with pytest.raises(ArtifactError, match="opening a stage"):
        run_directory.open_stage("prompts", CONFIG)


def test_all_paths_of_a_run_lie_in_it_and_apart(run_directory):
    paths = [run_directory.config_path, run_directory.metrics_path]
    for stage in STAGE_NAMES:
        paths += [
            run_directory.stage_dir(stage),
            run_directory.partial_dir(stage),
            run_directory.replaced_dir(stage),
        ]
    assert {path.parent for path in paths} == {run_directory.root}
    assert len(set(paths)) == 2 + 3 * len(STAGE_NAMES)
