"""Which version of a student is served: changed whole or not at all, and only to good files."""

import json
import shutil

import pytest

from potstill.errors import ArtifactError, ConfigError, SchemaVersionError
from potstill.versions import (
    add_version,
    ancestry,
    counts_in_words,
    read_versions,
    roll_back,
    run_of,
    serve_version,
    verified_run,
)
from tests.fixtures.facts import comparison_facts, update_facts
from tests.fixtures.served import next_version, run_of_gguf


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF and more")
    return path


@pytest.fixture
def run(tmp_path, gguf):
    return run_of_gguf(tmp_path / "runs" / "mine", gguf)


@pytest.fixture
def second(run, gguf):
    return next_version(run.root.with_name("mine-v2"), gguf, run)


def served(run):
    return read_versions(run).current.number


def test_a_run_without_updates_has_its_own_student_as_the_first_version(run):
    versions = read_versions(run)
    assert [one.number for one in versions.versions] == [1]
    assert run_of(versions.current, run) is run
    assert versions.next_number == 2
    assert not run.versions_path.exists()


def test_a_version_is_listed_before_it_is_served_and_gone_back_from(run, second):
    version = add_version(run, second)
    assert (version.number, version.parent, version.run) == (2, 1, "../mine-v2")
    assert served(run) == 1
    serve_version(run, 2, "it passed")
    assert served(run) == 2
    assert run_of(read_versions(run).current, run).root == second.root
    assert roll_back(run).number == 1
    assert served(run) == 1
    assert [one.number for one in read_versions(run).switches] == [2, 1]
    with pytest.raises(ConfigError, match="no version to go back to"):
        roll_back(run)


def test_a_version_that_passed_is_listed_and_served_in_one_change(run, second, gguf):
    add_version(run, second, "it passed")
    assert served(run) == 2
    third = next_version(run.root.with_name("mine-v3"), gguf, run, number=3)
    path = third.stage_dir("gguf") / "student-Q4_1.gguf"
    path.unlink()
    path.write_bytes(b"GGUF and less")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        add_version(run, third, "it passed")
    assert read_versions(run).next_number == 3, "neither listed nor served"


def test_going_back_leads_to_the_version_that_one_was_trained_from(run, second, gguf):
    add_version(run, second)
    third = next_version(run.root.with_name("mine-v3"), gguf, run, number=3)
    add_version(run, third)
    serve_version(run, 2, "first")
    serve_version(run, 3, "then")
    assert roll_back(run).number == 1, "version 3 was trained from version 1"


def test_serving_what_is_served_changes_nothing(run, second):
    add_version(run, second)
    serve_version(run, 2, "it passed")
    before = run.versions_path.read_bytes(), run.versions_path.stat().st_mtime_ns
    serve_version(run, 2, "again")
    add_version(run, second)
    assert before == (run.versions_path.read_bytes(), run.versions_path.stat().st_mtime_ns)


def test_a_version_with_a_damaged_file_is_not_served(run, second):
    add_version(run, second)
    path = second.stage_dir("gguf") / "student-Q4_1.gguf"
    path.unlink()
    path.write_bytes(b"GGUF and less")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        serve_version(run, 2, "it passed")
    assert served(run) == 1


def test_a_version_whose_files_were_made_again_was_not_judged(run, second):
    version = add_version(run, second)
    manifest = second.stage_dir("gguf") / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ArtifactError, match="made again after it was judged"):
        verified_run(version, run)


def test_there_is_no_third_of_two(run, second):
    add_version(run, second)
    with pytest.raises(ConfigError, match=r"no such version(.|\n)*1, 2"):
        serve_version(run, 3, "why not")


def test_two_runs_cannot_be_the_same_version(run, second, gguf):
    add_version(run, second)
    other = next_version(run.root.with_name("other"), gguf, run)
    with pytest.raises(ArtifactError, match="another run is already version 2"):
        add_version(run, other)


def test_runs_may_be_moved_together(run, second, tmp_path):
    add_version(run, second)
    serve_version(run, 2, "it passed")
    moved = tmp_path / "elsewhere"
    shutil.move(run.root.parent, moved)
    run = type(run)(moved / "mine")
    assert verified_run(read_versions(run).current, run).root == moved / "mine-v2"
    assert [row.run for row in ancestry(type(run)(moved / "mine-v2"))] == ["mine", "mine-v2"]


@pytest.mark.parametrize("text", ["", "{}", '{"versions": []}', "\udcff", "[" * 9999])
def test_damaged_versions_are_reported(run, text):
    run.versions_path.write_text(text, errors="surrogateescape")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_versions(run)


def test_a_switch_to_a_version_that_is_not_listed_is_damage(run, second):
    add_version(run, second)
    content = json.loads(run.versions_path.read_text())
    content["switches"] = [{"number": 7, "at": "2026-01-01T00:00:00+00:00", "reason": "none"}]
    run.versions_path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_versions(run)


def test_versions_of_a_later_potstill_are_refused(run, second):
    add_version(run, second)
    content = json.loads(run.versions_path.read_text())
    run.versions_path.write_text(json.dumps(content | {"schema_version": 2}))
    with pytest.raises(SchemaVersionError, match="later potstill"):
        read_versions(run)


def test_what_a_kill_leaves_beside_the_file_is_no_version(run, second):
    add_version(run, second)
    (run.root / ".versions.json.tmp").write_text('{"versions": [')
    assert served(run) == 1
    serve_version(run, 2, "it passed")
    assert served(run) == 2
    assert not (run.root / ".versions.json.tmp").exists()


def test_the_history_of_a_student(run, second):
    second.open_stage("comparison", {}).finish(facts=comparison_facts(outcome="FAIL"))
    first, last = ancestry(second)
    assert (first.number, first.run, first.parent, first.outcome) == (1, "mine", None, None)
    assert (last.number, last.parent, last.outcome) == (2, 1, "FAIL")
    assert counts_in_words(last.num_prompts) == "12 rated, 30 escalated"
    shutil.rmtree(run.root)
    assert [row.number for row in ancestry(second)] == [2]


def test_a_line_of_versions_that_leads_to_itself_ends(tmp_path, gguf, run):
    circular = next_version(tmp_path / "circular", gguf, run)
    circular.set_aside("update")
    facts = update_facts(parent=".", number=2, parent_number=2)
    circular.open_stage("update", {}).finish(facts=facts)
    assert [row.number for row in ancestry(circular)] == [2]
