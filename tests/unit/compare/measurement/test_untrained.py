"""The untrained student's file: the teacher's without some layers, where it is known to be
worse."""

import gguf
import pytest

from compare.measurement.run_files import RunFiles
from compare.measurement.untrained import untrained_file, write_without_layers
from potstill.llama.model import LlamaModel
from tests.fixtures.facts import (
    conversations_facts,
    evaluation,
    fidelity,
    gguf_facts,
    gguf_file,
    student_facts,
)
from tests.fixtures.tiny_gguf import WIDTH, write_tiny_gguf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gguf")
    write_tiny_gguf(directory / "teacher.gguf")
    return directory


def tensors(path) -> dict:
    return {one.name: one.data for one in gguf.GGUFReader(path).tensors}


def test_the_layers_that_stay_move_up_and_the_file_is_a_model(teacher_dir, tmp_path):
    path = tmp_path / "pruned.gguf"
    assert write_without_layers(teacher_dir / "teacher.gguf", path, [0], 2 * WIDTH)
    whole, pruned = tensors(teacher_dir / "teacher.gguf"), tensors(path)
    assert set(pruned) == {name for name in whole if not name.startswith("blk.1.")}
    for name, data in pruned.items():
        assert (data == whole[name.replace("blk.0.", "blk.1.")]).all()
    with LlamaModel(path) as model, LlamaModel(teacher_dir / "teacher.gguf") as other:
        ids = model.tokenize("Hello there", parse_special=False)
        assert ids == other.tokenize("Hello there", parse_special=False)
        assert model.end_of_turn == other.end_of_turn


def test_narrower_layers_are_not_made_up(teacher_dir, tmp_path):
    path = tmp_path / "pruned.gguf"
    assert not write_without_layers(teacher_dir / "teacher.gguf", path, [0], WIDTH)
    assert not path.exists()


@pytest.fixture
def run(teacher_dir, tmp_path):
    """Return a function that makes a run whose student lacks layers and had a given KL."""

    def make(removed, kl_nats, width=2 * WIDTH) -> RunFiles:
        student = student_facts(
            removed_layers=removed,
            intermediate_size=width,
            evaluation=evaluation(untrained=fidelity(kl_nats)),
        )
        facts = conversations_facts(), student, gguf_facts(gguf_file("teacher"))
        return RunFiles({}, *facts, tmp_path, tmp_path, teacher_dir, [])

    return make


def test_a_student_that_lost_much_is_known_to_be_worse(run, tmp_path):
    path = untrained_file(run([1], 0.8), tmp_path)
    assert path is not None
    assert "blk.1.attn_q.weight" not in tensors(path)
    written = path.stat().st_mtime_ns
    assert untrained_file(run([1], 0.8), tmp_path).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("removed", "kl_nats", "width"),
    [
        ([], 3.0, 2 * WIDTH),  # another checkpoint may be as good as the teacher
        ([1], 0.1, 2 * WIDTH),
        ([1], None, 2 * WIDTH),
        ([1], 3.0, WIDTH),
    ],
)
def test_what_is_not_known_to_be_worse_is_no_control(run, tmp_path, removed, kl_nats, width):
    assert untrained_file(run(removed, kl_nats, width), tmp_path) is None
    assert list(tmp_path.glob("*.gguf")) == []
