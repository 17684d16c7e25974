from dataclasses import replace

import pytest

from potstill.errors import ConversionError
from quantize.loading import load_tokenizer
from quantize.quantization.calibration import read_calibration


@pytest.fixture
def conversations_dir(tmp_path, tokenizer_dir, talk, write_conversations):
    directory = tmp_path / "conversations"
    directory.mkdir()
    made = [
        replace(one, prompt=one.prompt.model_copy(update={"split": split}))
        for one, split in zip(
            talk(load_tokenizer(tokenizer_dir), 3), ["train", "test", "train", "train"], strict=True
        )
    ]
    write_conversations(directory, made)
    lengths = [len(one.token_ids) for one in made if one.prompt.split == "train"]
    return directory, lengths


def test_complete_training_conversations_are_read_until_there_are_enough_tokens(conversations_dir):
    directory, lengths = conversations_dir
    found = read_calibration(directory, lengths[0] + 5, 500)
    assert [len(one) for one in found.sequences] == [lengths[0], 5]
    assert found.num_tokens == lengths[0] + 5
    assert [len(one) for one in read_calibration(directory, 10**6, 500).sequences] == lengths


def test_conversations_are_cut_at_the_models_context(conversations_dir):
    directory, _lengths = conversations_dir
    assert max(map(len, read_calibration(directory, 10**6, 9).sequences)) == 9


def test_conversations_can_be_skipped(conversations_dir):
    directory, lengths = conversations_dir
    later = read_calibration(directory, 10**6, 500, skip_tokens=1)
    assert [len(one) for one in later.sequences] == lengths[1:]
    everything = read_calibration(directory, 10**6, 500, skip_tokens=10**6)
    assert len(everything.sequences) == len(lengths), "rather the same ones than none"


def test_text_is_tokenized_with_another_tokenizer(conversations_dir, tokenizer_dir):
    directory, lengths = conversations_dir
    tokenizer = load_tokenizer(tokenizer_dir)
    again = read_calibration(directory, 10**6, 500, tokenizer=tokenizer)
    assert len(again.sequences) == len(lengths)
    written = (
        "<|im_start|>user\nWhat is 0 plus 0?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n"
    )
    assert tokenizer.decode(again.sequences[0]).endswith(written)


def test_a_run_without_training_conversations_is_refused(
    tmp_path, tokenizer_dir, talk, write_conversations
):
    write_conversations(tmp_path, talk(load_tokenizer(tokenizer_dir), 1)[1:])
    with pytest.raises(ConversionError, match="no training conversations"):
        read_calibration(tmp_path, 10, 10)
