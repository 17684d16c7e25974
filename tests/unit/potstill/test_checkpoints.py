import json
import shutil

import pytest

from potstill.checkpoints import (
    FINGERPRINT_BLOCK_BYTES,
    FINGERPRINT_BLOCKS,
    WANTED_FILES,
    ModelShape,
    checkpoint_fingerprint,
    count_parameters,
    find_checkpoint,
    refuse_other_checkpoint,
)
from potstill.errors import ArtifactError, ConfigError, ManifestMismatchError


def write_safetensors(path, shapes, num_bytes=None):
    """Write float32 zeros of the given shapes, or a body of another size."""
    end, header = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in shapes.items():
        start, size = end, 4
        for length in shape:
            size *= length
        end = start + size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    body = bytes(end if num_bytes is None else num_bytes)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_a_directory_is_its_own_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine", "./mine", "~/mine", str(tmp_path / "mine")):
        assert find_checkpoint(name) == tmp_path / "mine"


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no/such/directory", "~/nothing"])
def test_a_name_that_is_none_is_an_error_that_repeats_it(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match="the checkpoint cannot be found") as caught:
        find_checkpoint(name)
    assert caught.value.where == name
    assert caught.value.found
    assert "\n" not in caught.value.found


def test_a_model_of_the_hub_is_fetched_without_what_no_stage_reads(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        asked.append((name, revision, allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert find_checkpoint("owner/model") == tmp_path
    assert find_checkpoint("owner/model@v1.0") == tmp_path
    wanted = list(WANTED_FILES), False
    assert asked == [("owner/model", None, *wanted), ("owner/model", "v1.0", *wanted)]
    assert not any(pattern.endswith((".bin", ".gguf", ".onnx")) for pattern in WANTED_FILES)


def test_the_shape_of_a_model_is_found_without_the_hub(tiny_teacher_dir, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shape = ModelShape.find(str(tiny_teacher_dir), "generate.teacher.model")
    assert (shape.architecture, shape.num_layers) == ("LlamaForCausalLM", 4)
    assert (shape.hidden_size, shape.intermediate_size) == (32, 64)
    assert shape.num_parameters - shape.layer_parameters == 8_192 * 32 + 32
    with pytest.raises(ConfigError, match="not on this machine") as caught:
        ModelShape.find("owner/model", "generate.teacher.model")
    assert caught.value.where == "generate.teacher.model"


def test_parameters_are_counted_as_transformers_counts_them(tiny_teacher_dir):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir)
    assert count_parameters(tiny_teacher_dir) == model.num_parameters() > 200_000


def test_a_pruned_shape_has_fewer_layers_of_narrower_mlps(tiny_teacher_dir):
    shape = ModelShape.read(tiny_teacher_dir)
    pruned = shape.pruned(3, 16)
    assert (pruned.num_layers, pruned.intermediate_size) == (3, 16)
    assert pruned.layer_parameters == (shape.layer_parameters // 4 - 3 * 32 * (64 - 16)) * 3
    removed = shape.layer_parameters - pruned.layer_parameters
    assert shape.num_parameters - pruned.num_parameters == removed
    assert shape.pruned(4, 64) == shape


def test_all_shards_are_counted_scalars_and_empty_tensors_too(tmp_path):
    write_safetensors(tmp_path / "model-00001.safetensors", {"a": [2, 3], "b": [5]})
    write_safetensors(tmp_path / "model-00002.safetensors", {"c": [], "d": [0, 7]})
    assert count_parameters(tmp_path) == 6 + 5 + 1


def test_a_truncated_file_is_an_error_that_names_it(tiny_teacher_dir, tmp_path):
    content = (tiny_teacher_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=r"model\.safetensors has .* bytes") as caught:
        count_parameters(tmp_path)
    assert caught.value.where == tmp_path


def test_no_file_is_an_error(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ArtifactError, match=r"expected: weights in \*\.safetensors(.|\n)*none"):
        count_parameters(tmp_path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 269060552\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", bytes(8), LFS_POINTER, b"\xff" * 100, (3).to_bytes(8, "little") + b"{{}"],
    ids=["empty", "short", "zeros", "lfs_pointer", "ones", "no_json"],
)
def test_something_else_is_an_error(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="a checkpoint cannot be read"):
        count_parameters(tmp_path)


def test_a_header_that_is_no_object_is_an_error(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    with pytest.raises(ArtifactError):
        count_parameters(tmp_path)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint larger than what its fingerprint reads of it."""
    num_numbers = FINGERPRINT_BLOCKS * FINGERPRINT_BLOCK_BYTES // 2
    write_safetensors(tmp_path / "model.safetensors", {"a": [num_numbers]})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("a model")
    return tmp_path


def test_a_copied_checkpoint_is_the_same_one_its_readme_aside(checkpoint, tmp_path_factory):
    copied = shutil.copytree(checkpoint, tmp_path_factory.mktemp("copied") / "checkpoint")
    (copied / "README.md").write_text("the same model")
    assert checkpoint_fingerprint(copied) == checkpoint_fingerprint(checkpoint)
    refuse_other_checkpoint(copied, checkpoint_fingerprint(checkpoint))


def change_config(checkpoint):
    (checkpoint / "config.json").write_text('{"rope_theta": 1}')


def rename_weights(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001.safetensors")


def append_a_byte(checkpoint):
    with (checkpoint / "model.safetensors").open("ab") as stream:
        stream.write(b"0")


def train_further(checkpoint):
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content), 1000):
        content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [change_config, rename_weights, append_a_byte, train_further])
def test_another_checkpoint_is_refused_with_both_fingerprints(checkpoint, change):
    before = checkpoint_fingerprint(checkpoint)
    change(checkpoint)
    with pytest.raises(ManifestMismatchError, match="checkpoint has changed") as caught:
        refuse_other_checkpoint(checkpoint, before)
    assert caught.value.where == checkpoint
    assert before in caught.value.expected
    assert checkpoint_fingerprint(checkpoint) in caught.value.found


def test_a_checkpoint_that_cannot_be_read_has_no_fingerprint(checkpoint):
    (checkpoint / "broken.json").symlink_to(checkpoint / "absent")
    with pytest.raises(ArtifactError, match="a checkpoint cannot be read"):
        checkpoint_fingerprint(checkpoint)
