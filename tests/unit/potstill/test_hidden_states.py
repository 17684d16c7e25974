import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import ArtifactError
from potstill.hidden_states import HiddenStateCodec

WIDTH = 16


def states(*lengths, seed=0) -> list[np.ndarray]:
    """Arrays [T, D] whose dimensions differ in size by five orders of magnitude."""
    rng = np.random.default_rng(seed)
    sizes_D = np.logspace(-3, 2, WIDTH)
    return [(rng.normal(size=(n, WIDTH)) * sizes_D).astype(np.float32) for n in lengths]


def to_batch(codec, parts) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        list(codec.encode(parts).values()), schema=pa.schema(codec.fields())
    )


def assert_within_half_a_level(found_TD, given_TD, units_D) -> None:
    levels_T = np.abs(given_TD / units_D).max(axis=1, keepdims=True) / 127
    bound_T = np.maximum(levels_T * (1 + 2**-10), 2.0**-14) / 2
    assert (np.abs(found_TD - given_TD) / units_D <= bound_T * (1 + 1e-5)).all()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 100),
    st.sampled_from([1e-12, 1e-6, 0.01, 1, 100, 1000]),
)
def test_round_trip_stays_within_the_stated_bound(lengths, seed, size):
    codec = HiddenStateCodec.fit(states(100))
    parts = [part * np.float32(size) for part in states(*lengths, seed=seed)]
    found = codec.decode(to_batch(codec, parts))
    assert [len(part) for part in found] == lengths
    for found_TD, given_TD in zip(found, parts, strict=True):
        assert found_TD.dtype == np.float32
        assert_within_half_a_level(found_TD, given_TD, codec.root_mean_squares_D)


def test_units_are_root_mean_squares_over_all_arrays():
    parts = states(3, 50, 1)
    codec = HiddenStateCodec.fit(iter(parts))
    whole = np.concatenate(parts).astype(float)
    np.testing.assert_allclose(
        codec.root_mean_squares_D, np.sqrt((whole**2).mean(axis=0)), rtol=1e-6
    )


def test_a_dimension_that_is_always_zero_stays_zero():
    (part,) = states(20)
    part[:, 3] = 0
    codec = HiddenStateCodec.fit([part])
    (found,) = codec.decode(to_batch(codec, [part]))
    assert (found[:, 3] == 0).all()
    assert_within_half_a_level(found, part, codec.root_mean_squares_D)


def test_a_state_of_zeros_stays_zero():
    codec = HiddenStateCodec.fit(states(20))
    (found,) = codec.decode(to_batch(codec, [np.zeros((2, WIDTH), np.float32)]))
    assert (found == 0).all()


@pytest.mark.parametrize("parts", [[], [np.full((1, WIDTH), np.nan, np.float32)]])
def test_what_cannot_be_measured_is_refused(parts):
    with pytest.raises(ValueError, match="cannot measure"):
        HiddenStateCodec.fit(parts)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_no_number_is_refused(value):
    codec = HiddenStateCodec.fit(states(20))
    (part,) = states(2)
    part[1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        codec.encode([part])


def test_another_width_is_refused():
    codec = HiddenStateCodec.fit(states(20))
    with pytest.raises(ValueError, match="broadcast"):
        codec.encode([np.zeros((2, WIDTH + 1), np.float32)])


def test_a_file_holds_all_that_decoding_needs(tmp_path):
    import datasets

    parts = states(300, 700)
    codec = HiddenStateCodec.fit(parts)
    table = pa.table(codec.encode(parts), schema=pa.schema(codec.fields()))
    path = tmp_path / "part.parquet"
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < (WIDTH + 2) * 1000 + 4096
    read = pq.read_table(path)
    (batch,) = read.to_batches()
    again = HiddenStateCodec.from_schema(read.schema)
    np.testing.assert_array_equal(again.root_mean_squares_D, codec.root_mean_squares_D)
    for found, expected in zip(
        again.decode(batch), codec.decode(to_batch(codec, parts)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows[1]["hidden_states"] == table["hidden_states"][1].as_py()


def test_sliced_and_empty_batches_are_decoded():
    parts = states(1, 2, 3, 4)
    codec = HiddenStateCodec.fit(parts)
    batch = to_batch(codec, parts)
    whole = codec.decode(batch)
    for found, expected in zip(codec.decode(batch.slice(1, 2)), whole[1:3], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert codec.decode(batch.slice(2, 0)) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("hidden_states", [bytes(WIDTH), bytes(2 * WIDTH - 1)]),
        ("hidden_states", [bytes(2 * WIDTH), bytes(WIDTH)]),
        ("hidden_states", [bytes(WIDTH), None]),
        ("hidden_state_scales", [[1.0], [1.0]]),
        ("hidden_state_scales", [[1.0], None]),
    ],
)
def test_columns_that_do_not_fit_are_refused(name, values):
    codec = HiddenStateCodec.fit(states(20))
    batch = to_batch(codec, states(1, 2))
    index = batch.schema.get_field_index(name)
    field = batch.schema.field(index)
    damaged = batch.set_column(index, field, pa.array(values, field.type))
    with pytest.raises(ArtifactError, match="do not fit one another"):
        codec.decode(damaged)


@pytest.mark.parametrize(
    "metadata",
    [None, {"other": "x"}, {"root_mean_squares": "?"}, {"root_mean_squares": "AAAAAA=="}],
)
def test_a_file_without_units_is_refused(metadata):
    field = pa.field("hidden_states", pa.binary(), metadata=metadata)
    with pytest.raises(ArtifactError, match="have no units"):
        HiddenStateCodec.from_schema(pa.schema([field]))


def test_a_file_without_the_column_is_refused():
    with pytest.raises(ArtifactError, match="have no units"):
        HiddenStateCodec.from_schema(pa.schema([pa.field("other", pa.int8())]))
