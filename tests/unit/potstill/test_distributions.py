import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.distributions import (
    ERROR_BOUNDS,
    MAX_ENTRIES,
    MAX_LEVEL,
    MAX_RELATIVE_ERROR,
    MAX_SQRT_ERROR,
    TokenDistributions,
    decode,
    decode_row,
    encode,
    parquet_options,
    signal_fields,
)
from potstill.errors import ArtifactError

VOCABULARY = 49_152
MIN_DECODED_PROBABILITY = 1 / MAX_LEVEL**2
"""The probability of level 1: no entry becomes 0."""


def distributions(positions, sampled=None) -> TokenDistributions:
    """From one list of (token id, probability) for each position."""
    entries = [entry for position in positions for entry in position]
    return TokenDistributions(
        np.array(sampled or [-1.5] * len(positions), np.float32),
        np.array([len(position) for position in positions], np.int64),
        np.array([token_id for token_id, _ in entries], np.int32),
        np.array([math.log(p) for _, p in entries], np.float32),
    )


def to_batch(parts, vocab_size=VOCABULARY) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        list(encode(parts, vocab_size).values()), schema=pa.schema(signal_fields(vocab_size))
    )


def recode(parts, vocab_size=VOCABULARY) -> list[TokenDistributions]:
    return decode(to_batch(parts, vocab_size))


def assert_same(found: TokenDistributions, expected: TokenDistributions) -> None:
    np.testing.assert_array_equal(found.counts_T, expected.counts_T)
    np.testing.assert_array_equal(found.top_token_ids_N, expected.top_token_ids_N)
    np.testing.assert_array_equal(found.top_logprobs_N, expected.top_logprobs_N)
    np.testing.assert_array_equal(found.sampled_logprobs_T, expected.sampled_logprobs_T)


@st.composite
def any_distributions(draw, vocab_size=VOCABULARY) -> TokenDistributions:
    """One to five positions from flat to peaked, whole or cut, down to probabilities of 1e-13."""
    positions = []
    for _ in range(draw(st.integers(1, 5))):
        weights = draw(st.lists(st.floats(-30, 0), min_size=1, max_size=40))
        probabilities = np.exp(sorted(weights, reverse=True))
        probabilities *= draw(st.floats(0.05, 1)) / probabilities.sum()
        first = draw(st.integers(0, vocab_size - 40))
        positions.append([(first + rank, p) for rank, p in enumerate(probabilities)])
    sampled = draw(st.lists(st.floats(-50, 0, width=32), min_size=5, max_size=5))
    return distributions(positions, sampled[: len(positions)])


@given(st.lists(any_distributions(), min_size=1, max_size=3))
def test_round_trip_stays_within_the_stated_bounds(parts):
    for found, given_ in zip(recode(parts), parts, strict=True):
        np.testing.assert_array_equal(found.counts_T, given_.counts_T)
        np.testing.assert_array_equal(found.top_token_ids_N, given_.top_token_ids_N)
        np.testing.assert_allclose(
            found.sampled_logprobs_T, given_.sampled_logprobs_T, rtol=MAX_RELATIVE_ERROR, atol=1e-37
        )
        before, after = np.exp(given_.top_logprobs_N.astype(float)), np.exp(found.top_logprobs_N)
        assert (after >= MIN_DECODED_PROBABILITY * 0.999).all()
        assert np.abs(np.sqrt(after) - np.sqrt(before)).max() <= MAX_SQRT_ERROR + 1e-6
        mass = np.add.reduceat(after.astype(float), found.starts_T)
        at_floor = np.add.reduceat(after <= MIN_DECODED_PROBABILITY * 1.001, found.starts_T)
        assert (mass <= 1 + 1e-5 + at_floor * MIN_DECODED_PROBABILITY).all()


@given(any_distributions())
def test_recoding_what_was_decoded_changes_nothing(part):
    (once,) = recode([part])
    (twice,) = recode([once])
    assert_same(twice, once)


@given(any_distributions())
def test_nearest_levels_are_taken_unless_they_pass_mass_1(part):
    (found,) = recode([part])
    levels = np.rint(255 * np.sqrt(np.exp(part.top_logprobs_N.astype(float))))
    nearest = (np.maximum(levels, 1) / 255) ** 2
    mass = np.add.reduceat(nearest, part.starts_T)
    fits = np.repeat(mass <= 1, part.counts_T)
    np.testing.assert_allclose(np.exp(found.top_logprobs_N[fits]), nearest[fits], rtol=1e-5)


def reference_columns(parts) -> list[list]:
    """The layout in plain Python, for entries whose nearest levels fit into mass 1."""
    rows: list[list] = [[], [], [], []]
    for part in parts:
        counts, start, drops = part.counts_T.tolist(), 0, []
        for count in counts:
            level = 255
            for logprob in part.top_logprobs_N[start : start + count].tolist():
                nearest = round(255 * math.sqrt(math.exp(logprob)))
                drops.append(level - max(nearest, 1))
                level = max(nearest, 1)
            start += count
        rows[0].append(part.sampled_logprobs_T.tolist())
        rows[1].append(counts)
        rows[2].append(part.top_token_ids_N.tolist())
        rows[3].append(drops)
    return rows


def test_columns_equal_a_plain_loop():
    parts = [
        distributions([[(5, 0.9), (3, 0.05), (8, 1e-9)], [(49_151, 0.31)]], [-0.5, -0.25]),
        distributions([[(1, 0.3), (0, 0.3), (2, 0.29)]], [-2.0]),
    ]
    assert [column.to_pylist() for column in encode(parts, VOCABULARY).values()] == (
        reference_columns(parts)
    )


def reference_decode(row) -> list[list[tuple[int, float]]]:
    positions, entries = (
        [],
        iter(zip(row["top_token_ids"], row["top_probability_drops"], strict=True)),
    )
    for count in row["num_top_logprobs"]:
        level, position = 255, []
        for _ in range(count):
            token_id, drop = next(entries)
            level -= drop
            position.append((token_id, (level / 255) ** 2))
        positions.append(position)
    return positions


@given(st.lists(any_distributions(), min_size=1, max_size=3))
def test_decoding_equals_a_plain_loop(parts):
    batch = to_batch(parts)
    for found, row in zip(decode(batch), batch.to_pylist(), strict=True):
        expected = distributions(reference_decode(row), row["sampled_logprobs"])
        np.testing.assert_array_equal(found.top_token_ids_N, expected.top_token_ids_N)
        np.testing.assert_allclose(found.top_logprobs_N, expected.top_logprobs_N, atol=1e-6)
        np.testing.assert_array_equal(found.sampled_logprobs_T, expected.sampled_logprobs_T)


@pytest.mark.parametrize(
    ("vocab_size", "stored_as"),
    [(49_152, pa.uint16()), (65_536, pa.uint16()), (65_537, pa.uint32()), (151_936, pa.uint32())],
)
def test_ids_are_as_narrow_as_the_vocabulary_allows(vocab_size, stored_as):
    batch = to_batch([distributions([[(vocab_size - 1, 0.5), (0, 0.25)]])], vocab_size)
    assert batch.schema.field("top_token_ids").type.value_type == stored_as
    assert decode(batch)[0].top_token_ids_N.tolist() == [vocab_size - 1, 0]


def test_a_whole_top_20_of_a_sure_teacher_keeps_every_entry():
    (found,) = recode([distributions([[(0, 1 - 19e-9), *((n, 1e-9) for n in range(1, 20))]])])
    probabilities = np.exp(found.top_logprobs_N)
    assert probabilities[0] == 1
    np.testing.assert_allclose(probabilities[1:], MIN_DECODED_PROBABILITY, rtol=1e-6)
    assert found.tail_mass_T.tolist() == [0]


@pytest.mark.parametrize("num_entries", [1, MAX_ENTRIES])
def test_few_and_many_entries(num_entries):
    (found,) = recode([distributions([[(rank, 1 / num_entries) for rank in range(num_entries)]])])
    assert found.counts_T.tolist() == [num_entries]
    assert np.exp(found.top_logprobs_N).sum() <= 1 + 1e-5


def test_the_bounds_in_words_are_those_of_the_constants():
    assert "at most 1/255" in ERROR_BOUNDS
    assert "0.1% of itself" in ERROR_BOUNDS
    assert (MAX_SQRT_ERROR, MAX_RELATIVE_ERROR) == (1 / 255, 2**-10)


def test_probabilities_are_as_near_as_the_bounds_in_words_say():
    high = np.linspace(0.5, 1 - 1e-6, 2000)
    (found,) = recode([distributions([[(0, p), (1, (1 - p) * 0.999)] for p in high])])
    first = np.exp(found.top_logprobs_N[found.starts_T])
    assert 0.003 < np.abs(first - high).max() <= 0.008
    low = np.linspace(1e-6, 0.01, 2000)
    (found,) = recode([distributions([[(0, p)] for p in low])])
    assert np.abs(np.exp(found.top_logprobs_N) - low).max() <= 0.0008


def test_more_entries_than_a_byte_counts_are_refused():
    part = distributions([[(rank, 1 / 256) for rank in range(256)]])
    with pytest.raises(ValueError, match="256 entries at a position, at most 255"):
        encode([part], VOCABULARY)


@pytest.mark.parametrize("token_id", [-1, 65_536])
def test_ids_outside_the_vocabulary_are_refused(token_id):
    with pytest.raises(ValueError, match="outside a vocabulary"):
        encode([distributions([[(token_id, 0.5)]])], 65_536)


@pytest.mark.parametrize(
    "columns",
    [
        ([], [], [], []),
        ([-1.0], [], [], []),
        ([-1.0], [0], [], []),
        ([-1.0], [2], [4], [-1.0]),
        ([-1.0], [2], [4, 5], [-1.0]),
        ([-1.0], [2], [4, 5], [-2.0, -1.0]),
        ([-1.0], [2], [4, 5], [-2.0, float("nan")]),
        ([-1.0], [1], [4], [float("nan")]),
        ([float("nan")], [1], [4], [-1.0]),
    ],
)
def test_values_that_are_no_distributions_are_refused(columns):
    types = (np.float32, np.int64, np.int32, np.float32)
    with pytest.raises(ValueError, match=r"positions|entries|entry|fall within"):
        TokenDistributions(*(np.array(v, t) for v, t in zip(columns, types, strict=True)))


def test_tail_mass_is_what_the_entries_leave():
    part = distributions([[(0, 0.5), (1, 0.25)], [(2, 1.0)], [(3, 0.9)]])
    np.testing.assert_allclose(part.tail_mass_T, [0.25, 0, 0.1], atol=1e-6)


def test_cut_keeps_the_smallest_set_that_reaches_the_mass():
    part = distributions([[(0, 0.5), (1, 0.3), (2, 0.1)], [(3, 0.95), (4, 0.04)], [(5, 0.2)]])
    kept = part.cut(top_mass=0.6, min_probability=0)
    assert kept.counts_T.tolist() == [2, 1, 1]
    assert kept.top_token_ids_N.tolist() == [0, 1, 3, 5]
    np.testing.assert_array_equal(kept.sampled_logprobs_T, part.sampled_logprobs_T)
    assert_same(part.cut(top_mass=1, min_probability=0), part)


@given(any_distributions(), st.floats(0.01, 1), st.floats(0, 0.2))
def test_cut_equals_a_plain_loop(part, top_mass, min_probability):
    expected, start = [], 0
    for count in part.counts_T:
        mass = 0.0
        for rank, logprob in enumerate(part.top_logprobs_N[start : start + count].tolist()):
            probability = float(np.exp(np.float64(logprob)))
            if rank and (mass >= top_mass - 1e-12 or probability < min_probability):
                break
            expected.append(int(part.top_token_ids_N[start + rank]))
            mass += probability
        start += count
    kept = part.cut(top_mass=top_mass - 1e-12, min_probability=min_probability)
    assert kept.top_token_ids_N.tolist() == expected


def test_from_padded_leaves_gaps_out_and_sorts():
    part = TokenDistributions.from_padded(
        np.array([[7, 8, -1], [-1, 9, 4], [1, 2, 3]]),
        np.array([[-1.0, -2.0, 0.0], [0.0, -3.0, -0.5], [-1.0, -np.inf, -2.0]]),
        np.array([-2.0, -0.5, -7.0]),
    )
    assert part.counts_T.tolist() == [2, 2, 2]
    assert part.top_token_ids_N.tolist() == [7, 8, 4, 9, 1, 3]
    assert part.top_logprobs_N.tolist() == [-1.0, -2.0, -0.5, -3.0, -1.0, -2.0]
    assert part.top_logprobs_N.dtype == part.sampled_logprobs_T.dtype == np.float32
    assert part.top_token_ids_N.dtype == np.int32


def test_from_padded_refuses_a_position_without_entries():
    with pytest.raises(ValueError, match="position 1 has no entry"):
        TokenDistributions.from_padded(
            np.array([[7], [-1]]), np.array([[-1.0], [0.0]]), np.array([-1.0, -1.0])
        )


@given(st.lists(any_distributions(), min_size=1, max_size=4))
def test_split_undoes_concatenate(parts):
    whole = TokenDistributions.concatenate(parts)
    for found, expected in zip(
        whole.split([len(part.counts_T) for part in parts]), parts, strict=True
    ):
        assert_same(found, expected)


@given(any_distributions(), st.data())
def test_slice_equals_a_part_of_a_split(part, data):
    num_tokens = len(part.counts_T)
    start = data.draw(st.integers(0, num_tokens - 1))
    end = data.draw(st.integers(start + 1, num_tokens))
    lengths = [start, end - start, num_tokens - end]
    index = 1 if start else 0
    assert_same(part.slice(start, end), part.split([n for n in lengths if n])[index])


@given(any_distributions())
def test_padded_is_undone_by_from_padded(part):
    token_ids_TK, logprobs_TK = part.padded()
    assert token_ids_TK.shape == logprobs_TK.shape == (len(part.counts_T), part.counts_T.max())
    assert ((token_ids_TK < 0) == np.isneginf(logprobs_TK)).all()
    assert_same(
        TokenDistributions.from_padded(token_ids_TK, logprobs_TK, part.sampled_logprobs_T), part
    )


def test_sliced_and_empty_batches_are_decoded():
    parts = [distributions([[(row, 0.5), (90, 0.1)]] * (row + 1)) for row in range(5)]
    batch = to_batch(parts)
    for found, expected in zip(decode(batch.slice(1, 3)), recode(parts)[1:4], strict=True):
        assert_same(found, expected)
    assert decode(batch.slice(2, 0)) == []


def test_parquet_holds_the_columns_in_few_bytes(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.gumbel(size=(4000, 200)) * 2.5
    weights_TK = -np.sort(-weights, axis=1)
    logprobs_TK = weights_TK - np.log(np.exp(weights_TK).sum(axis=1, keepdims=True))
    ids_TK = np.minimum(rng.zipf(1.2, size=(4000, 200)), VOCABULARY - 1)
    part = TokenDistributions.from_padded(ids_TK, logprobs_TK, logprobs_TK[:, 0])
    part = part.cut(top_mass=1, min_probability=1e-3)
    columns = {"name": pa.array(["a", "b"]), **encode(part.split([1500, 2500]), VOCABULARY)}
    table = pa.table(columns)
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, **parquet_options(table.schema))
    with pq.ParquetFile(path) as file:
        for column in range(1, 5):
            assert "BYTE_STREAM_SPLIT" in file.metadata.row_group(0).column(column).encodings
        assert "RLE_DICTIONARY" in file.metadata.row_group(0).column(0).encodings
        read = file.read()
    assert read.equals(table)
    assert path.stat().st_size < 0.85 * 3 * part.counts_T.sum()
    (batch,) = read.to_batches()
    assert_same(TokenDistributions.concatenate(decode(batch)), recode([part])[0])


@pytest.mark.parametrize("vocab_size", [VOCABULARY, 151_936])
def test_hugging_face_datasets_reads_the_columns(tmp_path, vocab_size):
    import datasets

    parts = [
        distributions([[(vocab_size - 1, 0.5), (1, 0.25)], [(7, 0.5)]], [-0.75, -3.5]),
        distributions([[(2, 0.9)]], [-0.125]),
    ]
    batch = to_batch(parts, vocab_size)
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table(batch), path, **parquet_options(batch.schema))
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows.to_list() == batch.to_pylist()
    for row, expected in zip(rows.with_format("numpy"), recode(parts, vocab_size), strict=True):
        assert_same(decode_row(row), expected)


def with_column(batch, name, values) -> pa.RecordBatch:
    index = batch.schema.get_field_index(name)
    return batch.set_column(index, name, pa.array(values, batch.schema.field(name).type))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sampled_logprobs", [[-1.0, -1.0, -1.0], [-1.0]]),
        ("sampled_logprobs", [[-1.0], [-1.0, -1.0]]),
        ("sampled_logprobs", [[-1.0, float("nan")], [-1.0]]),
        ("num_top_logprobs", [[1, 1], [1]]),
        ("num_top_logprobs", [[2, 2], [1]]),
        ("num_top_logprobs", [[3, 0], [1]]),
        ("num_top_logprobs", [[], []]),
        ("top_token_ids", [[1, 2], [3, 4]]),
        ("top_probability_drops", [[1, 2, 3], [255]]),
        ("top_probability_drops", [[200, 200, 3], [1]]),
        ("top_probability_drops", [None, [1]]),
    ],
)
def test_columns_that_do_not_fit_are_refused(name, values):
    batch = to_batch([distributions([[(1, 0.5), (2, 0.1)], [(1, 0.5)]]), distributions([[(3, 1)]])])
    with pytest.raises(ArtifactError, match="inconsistent"):
        decode(with_column(batch, name, values))
