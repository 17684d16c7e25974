"""A split in the scratch directory: complete, in order, with the stored types."""

import pyarrow as pa
import pytest

from potstill.errors import ArtifactError, TrainingError
from potstill.tables import conversations_to_table, write_table
from train.data.cache import (
    largest_token_id,
    load_split,
    open_split,
    share_of,
    stored_batches,
    with_replay,
)


def test_files_of_a_split_are_read_in_order_and_the_others_not(
    tmp_path, conversation, write_conversations
):
    for part, first in enumerate((3, 4, 5)):
        write_conversations(tmp_path, [conversation([1, first], [(1, 1)], [1])], part)
    other = conversation([1, 900], [(1, 1)], [1], split="test")
    write_conversations(tmp_path, [other])
    write_table(tmp_path / "dropped.parquet", conversations_to_table([other], 1000))
    split = load_split(tmp_path, "train", 9, tmp_path / "scratch")
    assert [row["token_ids"].tolist() for row in split] == [[1, 3], [1, 4], [1, 5]]
    assert largest_token_id(split) == 5
    assert largest_token_id(load_split(tmp_path, "test", 9, tmp_path / "scratch")) == 900


def test_a_split_is_written_once_and_opened_from_the_scratch_directory_alone(stored):
    scratch = stored / "scratch"
    split = load_split(stored, "train", 9, scratch)
    names = split["conversation_id"][:].tolist()
    assert names == ["short-0", "long-0", "two answers-0"]
    (stored / "train-00000.parquet").unlink()
    for again in (load_split(stored, "train", 9, scratch), open_split(scratch, "train")):
        assert again.column_names == split.column_names
        assert again["conversation_id"][:].tolist() == names


def test_a_split_is_read_from_the_disk_as_it_is_needed(stored):
    split = load_split(stored, "train", 9, stored / "scratch")
    assert split.cache_files == [{"filename": str(stored / "scratch" / "train.arrow")}]


def test_a_share_is_a_part_of_every_larger_one(tmp_path, conversation, write_conversations):
    """A prompt's conversations stay together; held-out splits stay whole."""
    rows = [
        conversation([1, 2], [(1, 1)], [1], name=f"prompt{n}", answer_index=index)
        for n in range(200)
        for index in range(2)
    ]
    held_out = [conversation([1, 2], [(1, 1)], [1], name=f"t{n}", split="test") for n in range(9)]
    write_conversations(tmp_path, [*rows, *held_out])
    found = {}
    for share in (0.25, 0.5, 1.0):
        read = share_of(stored_batches, share)
        split = load_split(tmp_path, "train", 9, tmp_path / f"{share}", read)
        found[share] = set(split["conversation_id"][:].tolist())
        assert {f"{name[:-1]}{1 - int(name[-1])}" for name in found[share]} == found[share]
        assert len(found[share]) == pytest.approx(400 * share, abs=60)
        assert len(load_split(tmp_path, "test", 9, tmp_path / f"{share}", read)) == 9
    assert found[0.25] < found[0.5] < found[1.0]
    assert len(found[1.0]) == 400


def test_conversations_of_other_runs_are_replayed_but_not_about_held_out_prompts(
    tmp_path, conversation, write_conversations
):
    def named(name, split="train"):
        return conversation([1, 2], [(1, 1)], [1], name=name, split=split)

    own, first, second = tmp_path / "own", tmp_path / "first", tmp_path / "second"
    written = {
        own: [named("new"), named("asked", "test"), named("chosen by", "validation")],
        first: [named("a"), named("asked"), named("b", "test")],
        second: [named("chosen by"), named("c")],
    }
    for directory, conversations in written.items():
        directory.mkdir()
        write_conversations(directory, conversations)
    read = with_replay(stored_batches, [first, second])
    names = {
        split: load_split(own, split, 9, tmp_path / "scratch", read)["conversation_id"][:].tolist()
        for split in ("train", "validation", "test")
    }
    assert names == {
        "train": ["new-0", "a-0", "c-0"],
        "validation": ["chosen by-0"],
        "test": ["asked-0"],
    }


@pytest.mark.parametrize("killed", [True, False])
def test_what_was_not_wholly_written_is_written_again(stored, killed):
    """A kill leaves the temporary file, an error not even that."""
    scratch = stored / "scratch"

    def read(directory, split):
        yield from stored_batches(directory, split)
        raise OSError("no space")

    with pytest.raises(ArtifactError, match="writing the conversations"):
        load_split(stored, "train", 9, scratch, read)
    assert not list(scratch.iterdir())
    if killed:
        (scratch / ".train.arrow.tmp").write_bytes(b"half")
    assert len(load_split(stored, "train", 9, scratch)) == 3


def test_stored_alternatives_count_among_the_largest_ids(stored):
    assert largest_token_id(load_split(stored, "train", 9, stored / "scratch")) == 202


def test_an_empty_file_among_others_is_no_hindrance(stored):
    write_table(stored / "train-00001.parquet", conversations_to_table([], 49_152))
    assert len(load_split(stored, "train", 9, stored / "scratch")) == 3


@pytest.mark.parametrize(
    ("split", "max_length", "found"),
    [("test", 9, "none"), ("validation", 9, "none"), ("train", 1, "3 conversations, all with")],
)
def test_an_empty_split_is_refused(stored, split, max_length, found):
    write_table(stored / "validation-00000.parquet", conversations_to_table([], 49_152))
    with pytest.raises(TrainingError, match=found):
        load_split(stored, split, max_length, stored / "scratch")


def test_conversations_whose_prompt_is_too_long_are_left_out_and_counted(stored, caplog):
    assert len(load_split(stored, "train", 2, stored / "scratch")) == 2
    assert "1 of 3 conversations are left out" in caplog.text


def test_a_damaged_file_is_refused(stored):
    path = stored / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="a table cannot be read"):
        load_split(stored, "train", 9, stored / "scratch")


@pytest.mark.parametrize(("vocab_size", "width"), [(49_152, pa.uint16()), (128_256, pa.uint32())])
def test_columns_stay_as_narrow_as_they_are_stored(
    tmp_path, make_conversation, write_conversations, vocab_size, width
):
    write_conversations(tmp_path, [make_conversation()], vocab_size=vocab_size)
    schema = load_split(tmp_path, "train", 9, tmp_path / "scratch").data.table.schema
    assert schema.field("top_token_ids").type == schema.field("token_ids").type == pa.list_(width)
    assert schema.field("top_probability_drops").type == pa.list_(pa.uint8())
