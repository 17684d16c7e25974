import numpy as np
import pyarrow.parquet as pq
import pytest

from generate import hidden_files
from generate.hidden_files import read_hidden_states, write_hidden_states
from potstill.errors import ArtifactError
from potstill.tables import conversation_paths

WIDTH = 3


class Reader:
    """Gives each conversation states that depend on its name; is killed after `lives` readings."""

    def __init__(self, lives: int | None = None) -> None:
        self.lives = lives
        self.read_ids: list[list[str]] = []

    def read(self, conversations):
        if self.lives == len(self.read_ids):
            raise KeyboardInterrupt
        self.read_ids.append([one.conversation_id for one in conversations])
        return [states(one.conversation_id, len(one.positions_T)) for one in conversations]


def states(name: str, num_tokens: int) -> np.ndarray:
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(scale=[1.0, 10.0, 100.0], size=(num_tokens, WIDTH)).astype(np.float32)


@pytest.fixture
def paths(tmp_path, make_conversation, write_conversations, monkeypatch):
    """Files of five, three and four conversations of two to six tokens; batches of two."""
    monkeypatch.setattr(hidden_files, "AT_ONCE", 2)
    monkeypatch.setattr(hidden_files, "FITTED_ON", 4)
    for part, (split, count) in enumerate((("test", 5), ("train", 3), ("train", 4))):
        write_conversations(
            tmp_path,
            [
                make_conversation(range(10), [(3, 2 + n)], name=f"{split}{part}{n}", split=split)
                for n in range(count)
            ],
            part,
        )
    return [path for split in ("test", "train") for path in conversation_paths(tmp_path, split)]


def test_each_file_has_one_beside_it_row_for_row(paths):
    written = write_hidden_states(paths, Reader())
    assert [path.name for path in written] == [
        "hidden_states-test-00000.parquet",
        "hidden_states-train-00001.parquet",
        "hidden_states-train-00002.parquet",
    ]
    for path, target in zip(paths, written, strict=True):
        ids = pq.read_table(path)["conversation_id"].to_pylist()
        found = list(read_hidden_states(target))
        assert [name for name, _ in found] == ids
        for n, (name, hidden_TD) in enumerate(found):
            assert hidden_TD.shape == (2 + n, WIDTH)
            wanted_TD = states(name, 2 + n) / [1.0, 10.0, 100.0]
            error_TD = np.abs(hidden_TD / [1.0, 10.0, 100.0] - wanted_TD)
            assert error_TD.max() < 0.05


def test_they_are_no_files_of_a_split(paths, tmp_path):
    write_hidden_states(paths, Reader())
    assert [path for one in ("test", "train") for path in conversation_paths(tmp_path, one)] == (
        paths
    )


def test_memory_holds_a_few_conversations(paths):
    reader = Reader()
    write_hidden_states(paths, reader)
    assert [len(ids) for ids in reader.read_ids] == [4, 2, 2, 1, 2, 1, 2, 2]


def test_an_interruption_costs_the_file_in_the_making(paths):
    killed = Reader(lives=5)
    with pytest.raises(KeyboardInterrupt):
        write_hidden_states(paths, killed)
    assert [path.name for path in paths[0].parent.glob("*hidden_states*")] == [
        "hidden_states-test-00000.parquet"
    ]
    reader = Reader()
    written = write_hidden_states(paths, reader)
    assert [len(ids) for ids in reader.read_ids] == [4, 2, 1, 2, 2]
    content = [path.read_bytes() for path in written]
    for path in written:
        path.unlink()
    assert [path.read_bytes() for path in write_hidden_states(paths, Reader())] == content


def test_a_file_of_other_conversations_or_a_damaged_one_is_made_again(paths):
    written = write_hidden_states(paths, Reader())
    content = [path.read_bytes() for path in written]
    written[0].write_bytes(content[0][:-7])
    written[1].write_bytes(content[2])
    reader = Reader()
    write_hidden_states(paths, reader)
    assert [len(ids) for ids in reader.read_ids] == [4, 2, 2, 1, 2, 1]
    assert [path.read_bytes() for path in written] == content


def test_a_damaged_file_of_conversations_is_told(paths):
    paths[0].write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="cannot be read"):
        write_hidden_states(paths, Reader())
