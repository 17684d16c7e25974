import re
from pathlib import Path
from string import ascii_letters

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from generate.dataset import stage as dataset_stage
from generate.dataset.stage import make_dataset
from generate.lazy_teacher import LazyTeacher
from generate.stage import run
from potstill.distributions import SIGNAL_COLUMNS
from potstill.errors import TeacherError
from potstill.rundir import RunDirectory

SPLITS = ("train", "validation", "test")
LONG = {"turns": {"num_answers": 3}, "prompts": {"validation_share": 0.3, "test_share": 0.2}}
"""Thirty conversations, some of each split."""


@pytest.fixture
def made(configured, run_directory, toys):
    """Return a function that runs all stages; keywords are tables. Answers vary in length."""
    toys.answer = lambda request: ascii_letters[: 3 * int(request.request_id[0], 16) + 5] + "|"

    def make(**tables):
        return run(configured(**LONG | tables), run_directory)

    return make


@pytest.fixture
def directory(run_directory) -> Path:
    return run_directory.stage_dir("conversations")


def files(directory: Path) -> dict[str, bytes]:
    """Content by name, without the manifest, which contains the time."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name not in ("manifest.json", "request.json")
    }


def test_rows_are_copied_as_they_are_by_split_and_in_order(made, run_directory, directory, stored):
    manifest = made()
    samples = stored.samples(run_directory)
    assert samples.num_rows == 30
    for split in SPLITS:
        table = pq.read_table(directory / f"{split}-00000.parquet")
        assert table.num_rows > 0
        assert table.equals(samples.filter(pc.equal(samples["split"], split)), check_metadata=True)
    assert {output.path: output.rows for output in manifest.outputs} == {
        **{f"{split}-00000.parquet": manifest.facts.num_conversations[split] for split in SPLITS},
        "dropped.parquet": 0,
        "README.md": None,
        "summary.html": None,
    }


def test_columns_are_encoded_as_in_the_samples(made, run_directory, directory):
    made()
    metadata = [
        pq.read_metadata(path).row_group(0)
        for path in (
            run_directory.stage_dir("samples") / "part-00000.parquet",
            directory / "train-00000.parquet",
        )
    ]
    for at in range(metadata[0].num_columns):
        sample, kept = (one.column(at) for one in metadata)
        assert kept.compression == "ZSTD"
        assert kept.encodings == sample.encodings
        if kept.path_in_schema.partition(".")[0] in SIGNAL_COLUMNS:
            assert "BYTE_STREAM_SPLIT" in kept.encodings


def test_what_is_dropped_is_there_with_filter_and_reason(made, run_directory, directory, stored):
    manifest = made(curation={"min_answer_tokens": 9, "max_answer_tokens": 40})
    dropped = pq.read_table(directory / "dropped.parquet")
    samples = stored.samples(run_directory)
    assert dropped.schema.names == [*samples.schema.names, "filter", "reason"]
    kept = pa.concat_tables(pq.read_table(directory / f"{one}-00000.parquet") for one in SPLITS)
    assert 0 < dropped.num_rows < 30
    assert dropped.num_rows + kept.num_rows == 30
    rows = pa.concat_tables([dropped.drop_columns(["filter", "reason"]), kept])
    assert rows.sort_by("conversation_id").equals(samples.sort_by("conversation_id"))
    assert set(dropped["filter"].to_pylist()) == {"length"}
    for row in dropped.to_pylist():
        (turn,) = row["turns"]
        limit = "minimum 9" if turn["num_tokens"] < 9 else "maximum 40"
        assert row["reason"] == f"an answer of {turn['num_tokens']} tokens, {limit}"
    assert manifest.facts.dropped_conversations == {"length": dropped.num_rows}
    assert manifest.facts.num_dropped == dropped.num_rows
    outputs = {output.path: output.rows for output in manifest.outputs}
    assert outputs["dropped.parquet"] == dropped.num_rows


def test_dropped_prompts_are_reported_too(made):
    manifest = made(curation={"max_prompt_characters": 30})
    assert manifest.facts.dropped_prompts == {"length": 1}
    assert manifest.facts.num_dropped == 0


def test_large_sets_come_in_several_files_of_whole_row_groups(
    made, run_directory, directory, stored, monkeypatch
):
    monkeypatch.setattr(dataset_stage, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(dataset_stage, "ROWS_PER_FILE", 4)
    manifest = made(curation={"min_answer_tokens": 9})
    samples = stored.samples(run_directory)
    dropped = pq.read_table(directory / "dropped.parquet")
    wanted = samples.filter(
        pc.and_(
            pc.equal(samples["split"], "train"),
            pc.invert(pc.is_in(samples["conversation_id"], dropped["conversation_id"])),
        )
    )
    paths = sorted(directory.glob("train-*.parquet"))
    assert len(paths) == -(-wanted.num_rows // 4) > 2
    assert [path.name for path in paths][:2] == ["train-00000.parquet", "train-00001.parquet"]
    sizes = [
        pq.read_metadata(path).row_group(group).num_rows
        for path in paths
        for group in range(pq.read_metadata(path).num_row_groups)
    ]
    assert set(sizes[:-1]) == {2}
    assert pa.concat_tables(map(pq.read_table, paths)).equals(wanted)
    outputs = {output.path: output.rows for output in manifest.outputs}
    assert [outputs[path.name] for path in paths][:-1] == [4] * (len(paths) - 1)


def test_what_an_interruption_left_is_written_again_the_same(
    configured, made, run_directory, directory, monkeypatch
):
    monkeypatch.setattr(dataset_stage, "ROWS_PER_GROUP", 2)
    monkeypatch.setattr(dataset_stage, "ROWS_PER_FILE", 4)
    sort_rows, calls = dataset_stage._sort_rows, []

    def cut_off(*rows):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        sort_rows(*rows)

    with monkeypatch.context() as patched:
        patched.setattr(dataset_stage, "_sort_rows", cut_off)
        with pytest.raises(KeyboardInterrupt):
            made()
    left = files(run_directory.partial_dir("conversations"))
    made()
    whole = files(directory)
    assert 0 < len(left) < len(whole)
    assert left.items() <= whole.items()
    other = RunDirectory(run_directory.root.with_name("other"))
    run(configured(**LONG), other)
    assert files(other.stage_dir("conversations")) == whole


def test_filters_that_drop_the_whole_training_split_are_an_error(made, run_directory):
    with pytest.raises(
        TeacherError, match="dropped every conversation of the training split"
    ) as caught:
        made(curation={"min_answer_tokens": 1000})
    assert caught.value.found == "30 length, 0 failed"
    assert "generate.curation" in caught.value.hint
    assert not run_directory.is_finished("conversations")
    assert run_directory.is_finished("samples")


def test_samples_are_filtered_again_without_the_teacher(configured, made, run_directory, toys):
    """Cheaper than --force: the samples are kept."""
    made()
    run_directory.set_aside("conversations")
    config = configured(**LONG, curation={"min_answer_tokens": 9})
    manifest = make_dataset(config, LazyTeacher(config), run_directory)
    assert manifest.facts.num_dropped > 0
    assert len(toys.loaded) == 1
    assert not run_directory.replaced_dir("conversations").exists()


def test_the_card_is_what_hugging_face_reads(made, directory, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    manifest = made(curation={"min_answer_tokens": 9})
    _, front, _ = (directory / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": one, "path": f"{one}-*.parquet"} for one in SPLITS],
        }
    ]
    assert card["license"] == "unknown"
    assert "en" in card["language"]
    loaded = datasets.load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
    counts = manifest.facts.num_conversations
    assert {split: loaded[split].num_rows for split in loaded} == counts
    stored = pq.read_table(directory / "train-00000.parquet")
    assert loaded["train"]["conversation_id"][:] == stored["conversation_id"].to_pylist()
    assert loaded["train"]["top_token_ids"][0] == stored["top_token_ids"][0].as_py()


def test_the_page_shows_some_conversations_the_same_every_time(made, directory):
    made()
    page = (directory / "summary.html").read_text()
    assert page.count('<article class="prompt">') == dataset_stage.NUM_SAMPLES
    assert "12 of all splits" in page
    assert re.search(r"<p class=\"muted\">30 conversations,", page)
