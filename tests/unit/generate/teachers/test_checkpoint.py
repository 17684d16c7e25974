import json
import shutil
from pathlib import Path

import pytest

from generate.teachers.checkpoint import find_teacher
from generate.teachers.config import TeacherConfig
from potstill.checkpoints import checkpoint_fingerprint
from potstill.errors import ArtifactError, TeacherError
from potstill.models.named import SMOLLM2_135M


@pytest.fixture
def checkpoint_dir(tiny_teacher_dir, tmp_path) -> Path:
    """A copy of the tiny teacher that a test may damage."""
    return Path(shutil.copytree(tiny_teacher_dir, tmp_path / "teacher"))


def find(directory, **fields):
    return find_teacher(TeacherConfig(model=str(directory), **fields))


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_directory_with_a_chat_model_is_a_teacher(tiny_teacher_dir):
    from transformers import AutoModelForCausalLM

    teacher = find(tiny_teacher_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir)
    assert teacher.name == str(tiny_teacher_dir)
    assert teacher.dir == tiny_teacher_dir
    assert teacher.dtype == "auto"
    assert teacher.num_parameters == model.num_parameters()
    assert teacher.vocab_size == model.config.vocab_size == 8_192
    assert teacher.context_tokens == model.config.max_position_embeddings
    assert teacher.tokenizer.decode(teacher.tokenizer("hello")["input_ids"]) == "hello"


def test_its_identity_pins_it_for_later_stages(tiny_teacher_dir):
    teacher = find(tiny_teacher_dir, dtype="float32").identity
    assert teacher.model == teacher.path == str(tiny_teacher_dir)
    assert teacher.dtype == "float32"
    assert teacher.fingerprint == checkpoint_fingerprint(tiny_teacher_dir)


@pytest.mark.parametrize(("asked", "taken"), [("auto", "bfloat16"), ("float32", "float32")])
def test_a_model_from_a_gguf_file_is_pinned_by_its_hash(teacher_dir, asked, taken):
    teacher = find(SMOLLM2_135M.name, dtype=asked)
    assert teacher.dir == teacher_dir
    assert teacher.dtype == taken
    assert teacher.identity.model == SMOLLM2_135M.name
    assert teacher.identity.gguf_sha256 == SMOLLM2_135M.sha256


def test_the_text_part_of_a_larger_model_is_what_counts(checkpoint_dir):
    text = json.loads((checkpoint_dir / "config.json").read_text())
    (checkpoint_dir / "config.json").write_text(
        json.dumps({"model_type": "mistral3", "text_config": text | {"model_type": "mistral"}})
    )
    assert find(checkpoint_dir).vocab_size == 8_192


def test_a_model_without_a_chat_template_is_refused(checkpoint_dir):
    (checkpoint_dir / "chat_template.jinja").unlink()
    with pytest.raises(TeacherError, match="has no chat template") as caught:
        find(checkpoint_dir)
    assert caught.value.where == checkpoint_dir
    assert "chat or instruct variant" in caught.value.hint


def test_a_directory_that_is_not_there_is_an_error_that_repeats_it(tmp_path):
    with pytest.raises(ArtifactError, match="the checkpoint cannot be found") as caught:
        find(tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")


def cut(name):
    def damage(directory):
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])

    return damage


def remove(name):
    return lambda directory: (directory / name).unlink()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (cut("config.json"), "config.json"),
        (remove("config.json"), "config.json"),
        (lambda directory: change_config(directory, model_type="no such type"), "config.json"),
        (cut("tokenizer.json"), "tokenizer files"),
        (remove("tokenizer.json"), "tokenizer files"),
        (cut("tokenizer_config.json"), "tokenizer files"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_says_which_file(checkpoint_dir, damage, what):
    damage(checkpoint_dir)
    with pytest.raises(TeacherError, match=f"the teacher's {what} cannot be read") as caught:
        find(checkpoint_dir)
    assert caught.value.where == checkpoint_dir
    assert caught.value.found
    assert "\n" not in caught.value.found


@pytest.mark.parametrize("damage", [cut("model.safetensors"), remove("model.safetensors")])
def test_truncated_or_missing_weights_are_refused(checkpoint_dir, damage):
    damage(checkpoint_dir)
    with pytest.raises(ArtifactError, match="a checkpoint cannot be read"):
        find(checkpoint_dir)


def test_a_tokenizer_of_another_format_is_refused(checkpoint_dir):
    content = json.loads((checkpoint_dir / "tokenizer.json").read_text())
    content["model"] = {"type": "Unheard"}
    (checkpoint_dir / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(TeacherError, match="tokenizer files cannot be read"):
        find(checkpoint_dir)


def test_a_model_that_names_no_longest_context_is_refused(checkpoint_dir):
    (checkpoint_dir / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(TeacherError):
        find(checkpoint_dir)


def test_a_config_with_a_value_of_another_type_is_refused(checkpoint_dir):
    change_config(checkpoint_dir, hidden_size="wide")
    with pytest.raises(TeacherError, match=r"config\.json cannot be read"):
        find(checkpoint_dir)
