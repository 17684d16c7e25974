import math
from collections import Counter

import numpy as np
import pytest

from generate.sampling.summary import ENTROPY_STEP, TAIL_SIZES, Summary, summarize
from potstill.distributions import MAX_SQRT_ERROR, TokenDistributions
from potstill.errors import ArtifactError
from potstill.schema import Message

HALVES = [(7, 0.5), (8, 0.25), (9, 0.125)]
SURE = [(7, 1.0)]


@pytest.fixture
def paths(tmp_path, make_conversation, write_conversations):
    """Two conversations of 2 and 3 + 2 tokens, and one of a validation split that was cut off."""
    first = make_conversation(
        range(6), [(4, 2)], name="a", entries=[SURE, HALVES], sampled_logprobs=[-0.5, -1.5]
    )
    second = make_conversation(
        range(12), [(3, 3), (8, 2)], name="b", source="b test", license="MIT",
        completion=tuple(Message(role=role, content="x") for role in ("assistant", "user")),
        entries=[HALVES] * 5,
    )  # fmt: skip
    cut_off = make_conversation(range(4), [(1, 3)], name="c", split="validation", answer_index=1)
    object.__setattr__(
        cut_off, "turns", (cut_off.turns[0].model_copy(update={"finish_reason": "length"}),)
    )
    write_conversations(tmp_path, [first, second, cut_off])
    return [tmp_path / "train-00000.parquet", tmp_path / "validation-00000.parquet"]


def test_everything_is_counted(paths):
    summary = summarize(paths)
    assert summary.rows_by_part == {"train-00000.parquet": 2, "validation-00000.parquet": 1}
    assert summary.num_conversations == 3
    assert summary.num_conversations_by_split == {"train": 2, "validation": 1, "test": 0}
    assert summary.sources == {("a test", None): 2, ("b test", "MIT"): 1}
    assert summary.num_turns == {1: 2, 2: 1}
    assert summary.answer_lengths == {2: 2, 3: 2}
    assert (summary.num_answers, summary.completion_tokens) == (4, 10)
    assert (summary.num_tokens, summary.num_truncated) == (22, 1)
    assert summary.truncated_share == 0.25
    assert summary.num_entries == 1 + 3 + 15 + 3
    assert summary.num_bytes == sum(path.stat().st_size for path in paths)
    assert summary.nats == pytest.approx(2.0 + 8.0)


def test_a_manifest_has_the_figures_per_token(paths):
    summary = summarize(paths)
    stats = summary.stats()
    assert stats.prompt_tokens == 12
    assert stats.completion_tokens == 10
    assert stats.truncated_share == 0.25
    assert stats.entries_per_token == 2.2
    assert stats.nats_per_token == pytest.approx(1.0)
    assert stats.bytes_per_token == pytest.approx(summary.num_bytes / 10, abs=0.1)
    assert stats.mean_tail_mass == pytest.approx(
        (6 * 0.125 + 3 * 0.64) / 10, abs=4 * MAX_SQRT_ERROR
    )


def test_no_parts_are_no_division_by_zero():
    stats = Summary().stats()
    assert set(stats.model_dump().values()) == {0.0}
    assert summarize([]).num_conversations == 0


def distributions(*positions: list[tuple[int, float]]) -> TokenDistributions:
    entries = [entry for row in positions for entry in row]
    return TokenDistributions(
        np.full(len(positions), -1.0, dtype=np.float32),
        np.array([len(row) for row in positions]),
        np.array([token_id for token_id, _ in entries], dtype=np.int32),
        np.array([math.log(probability) for _, probability in entries], dtype=np.float32),
    )


def test_tail_mass_and_entropy_as_a_loop_computes_them():
    rng = np.random.default_rng(0)
    positions = []
    for count in (1, 2, 3, 60, 120):
        masses = np.sort(rng.dirichlet([0.3] * (count + 1))[:-1])[::-1]
        positions.append([(n, max(float(p), 1e-9)) for n, p in enumerate(masses)])
    summary = Summary()
    summary.add_signal(distributions(*positions))
    tails = {size: 1.0 * len(positions) for size in TAIL_SIZES}
    bits, classes = 0.0, Counter()
    for row in positions:
        rest = 1.0 - sum(p for _, p in row)
        mine = -sum(p * math.log2(p) for p in [*(p for _, p in row), rest])
        bits += mine
        classes[int(mine / ENTROPY_STEP)] += 1
        for size in TAIL_SIZES:
            tails[size] -= sum(p for _, p in row[:size])
    assert summary.entropy_bits == pytest.approx(bits, abs=1e-4)
    assert summary.entropies == classes
    assert summary.tail_by_size == pytest.approx(tails, abs=1e-5)
    assert summary.tail_mass == pytest.approx(tails[100] - sum(p for _, p in positions[4][100:]),
                                              abs=1e-5)  # fmt: skip


def test_a_sure_teacher_has_no_entropy_and_no_tail():
    summary = Summary()
    summary.add_signal(distributions(SURE, SURE))
    assert summary.entropy_bits == pytest.approx(0.0, abs=1e-9)
    assert summary.entropies == {0: 2}
    assert summary.tail_by_size == pytest.approx(dict.fromkeys(TAIL_SIZES, 0.0), abs=1e-9)


def test_a_damaged_part_is_an_error(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:-5])
    with pytest.raises(ArtifactError, match="cannot be read") as caught:
        summarize(paths)
    assert caught.value.where == paths[1]
