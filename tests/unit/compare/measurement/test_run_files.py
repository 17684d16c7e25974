import shutil

import pytest

from compare.measurement.run_files import RunFiles, sft_student
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.manifest import read_manifest
from potstill.rundir import RunDirectory
from tests.fixtures.facts import (
    conversations_facts,
    evaluation,
    fidelity,
    gguf_facts,
    student_facts,
)


def student_of(root, conversations=None, kl_nats=0.5) -> RunDirectory:
    """Return a run with a student, on its own conversations or a copy of another run's."""
    run_directory = RunDirectory(root)
    run_directory.root.mkdir()
    if conversations is None:
        session = run_directory.open_stage("conversations", {})
        (session.dir / "train-00000.parquet").write_bytes(root.name.encode())
        session.finish()
    else:
        shutil.copytree(conversations, run_directory.stage_dir("conversations"))
    session = run_directory.open_stage("student", {}, inputs=("conversations",))
    measured = evaluation(trained=fidelity(kl_nats))
    session.finish(facts=student_facts(num_parameters=7, evaluation=measured))
    return run_directory


def files_of(run_directory: RunDirectory) -> RunFiles:
    manifests = {"student": read_manifest(run_directory.stage_dir("student"))}
    root = run_directory.root
    facts = conversations_facts(), student_facts(), gguf_facts()
    return RunFiles(manifests, *facts, root, root, root, held_out=[])


def test_another_student_of_the_same_conversations_is_a_step(tmp_path):
    own = student_of(tmp_path / "own")
    other = student_of(tmp_path / "sft", own.stage_dir("conversations"), kl_nats=0.9)
    found = sft_student(other.root, files_of(own))
    assert (found.num_parameters, found.evaluation.trained.kl_nats) == (7, 0.9)


def test_student_of_other_conversations_is_refused(tmp_path):
    own, other = student_of(tmp_path / "own"), student_of(tmp_path / "other")
    with pytest.raises(ManifestMismatchError, match="other conversations"):
        sft_student(other.root, files_of(own))


def test_run_without_a_student_is_an_error(tmp_path):
    with pytest.raises(ArtifactError):
        sft_student(tmp_path / "nothing", files_of(student_of(tmp_path / "own")))
