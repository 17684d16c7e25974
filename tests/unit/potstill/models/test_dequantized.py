"""A tiny GGUF file as a checkpoint, made by transformers and compared with llama.cpp."""

import shutil

import pytest

from potstill.checkpoints import ModelShape, checkpoint_fingerprint, find_checkpoint
from potstill.errors import ArtifactError
from potstill.llama.model import LlamaModel
from potstill.models import dequantized
from potstill.models.dequantized import read_source
from potstill.models.files import find_gguf
from tests.fixtures.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tiny_gguf, tmp_path_factory):
    """A cache with the checkpoint of the tiny file."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POTSTILL_CACHE", str(directory))
        return find_checkpoint(str(tiny_gguf))


@pytest.fixture
def cache(made, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(made.parent))
    return made.parent


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_its_name_and_its_record_have_the_hash_of_the_file(made, tiny_gguf):
    source = find_gguf(str(tiny_gguf))
    assert made.name == f"tiny-{source.sha256[:12]}"
    assert [path.name for path in made.parent.iterdir()] == [made.name]
    assert read_source(made) == source


def test_its_shape_is_known_before_it_is_made(made, tiny_gguf):
    assert ModelShape.find(str(tiny_gguf), "generate.teacher.model") == ModelShape.read(made)


def test_it_has_the_template_and_every_stop_of_the_file(made, tiny_gguf):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made, dtype="auto")
    with LlamaModel(tiny_gguf, vocabulary_only=True) as vocabulary:
        assert tokenizer.chat_template == vocabulary.chat_template
        assert model.generation_config.eos_token_id[0] == tokenizer.eos_token_id
        assert set(model.generation_config.eos_token_id) == set(vocabulary.end_tokens)
    assert tokenizer.model_max_length == 512
    assert model.config.to_dict().get("quantization_config") is None
    assert str(model.dtype) == "torch.float32"


def test_it_is_made_once_and_its_record_follows_the_file(
    cache, made, tiny_gguf, tmp_path, monkeypatch
):
    monkeypatch.setattr(dequantized, "_make", None)
    fingerprint = checkpoint_fingerprint(made)
    moved = tmp_path / "tiny.gguf"
    shutil.copyfile(tiny_gguf, moved)
    assert find_checkpoint(str(moved)) == made
    assert read_source(made).path == tiny_gguf
    (made / dequantized.SOURCE_NAME).write_text(f'path = "/gone"\nsha256 = "{"0" * 64}"\n')
    assert find_checkpoint(str(moved)) == made
    assert read_source(made).path == moved
    (made / dequantized.SOURCE_NAME).write_text("path = 3")
    with pytest.raises(ArtifactError, match="record of a checkpoint's GGUF file is damaged"):
        read_source(made)
    assert find_checkpoint(str(tiny_gguf)) == made
    assert read_source(made) == find_gguf(str(tiny_gguf))
    assert checkpoint_fingerprint(made) == fingerprint
    assert read_source(cache) is None


@pytest.mark.parametrize(
    ("pre_tokenizer", "what", "said"),
    [
        ("newest-bpe", "the model cannot be loaded", "unknown pre-tokenizer type: 'newest-bpe'"),
        (
            "bloom",
            "the tokenizer that transformers makes of a GGUF file is not llama.cpp's",
            "original",
        ),
    ],
)
def test_an_unknown_pre_tokenizer_is_refused(tmp_path, empty_cache, pre_tokenizer, what, said):
    path = tmp_path / "tiny.gguf"
    write_tiny_gguf(path, pre_tokenizer=pre_tokenizer)
    with pytest.raises(ArtifactError, match=what) as caught:
        find_checkpoint(str(path))
    assert caught.value.where == str(path)
    assert said in str(caught.value)
    assert list(empty_cache.iterdir()) == []


def test_a_truncated_file_is_refused_before_anything_is_made(tmp_path, empty_cache, tiny_gguf):
    path = tmp_path / "half.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-100_000])
    with pytest.raises(ArtifactError, match="a GGUF file cannot be read"):
        find_checkpoint(str(path))
    assert not empty_cache.exists()


def test_a_rotary_scaling_is_refused_because_transformers_drops_it(tmp_path, empty_cache):
    path = tmp_path / "long.gguf"
    write_tiny_gguf(path, rope_scaling="yarn")
    with pytest.raises(ArtifactError, match="does not read the rotary scaling") as caught:
        find_checkpoint(str(path))
    assert caught.value.found == "yarn"
    assert not empty_cache.exists()


def test_a_process_that_is_killed_leaves_nothing(empty_cache, tiny_gguf, monkeypatch):
    monkeypatch.setattr(dequantized, "SERVICE", "os:abort")
    with pytest.raises(ArtifactError, match="the GGUF file cannot be dequantized") as caught:
        find_checkpoint(str(tiny_gguf))
    assert "SIGABRT" in str(caught.value)
    assert list(empty_cache.iterdir()) == []


def test_a_process_that_was_first_is_not_disturbed(tmp_path):
    first, second = tmp_path / "made", tmp_path / "made.partial-1"
    for directory in (first, second):
        directory.mkdir()
        (directory / f"{directory.name}.json").touch()
    dequantized._move_into_place(second, first)
    assert [path.name for path in first.iterdir()] == ["made.json"]
