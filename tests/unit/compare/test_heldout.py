from pathlib import Path

import pytest

from compare.heldout import distinct_prompts, longest_first, read_held_out
from potstill.errors import ArtifactError
from potstill.tables import CONVERSATION_SCHEMA, write_rows


def row(index: int, split: str, num_tokens: int = 2) -> dict:
    return {
        "prompt_id": f"p{index}",
        "split": split,
        "messages": [{"role": "user", "content": f"question {index}"}],
        "source": "made in a test",
        "licence": None,
        "completion": "yes",
        "prompt_token_ids": [1, 2],
        "completion_token_ids": [3] * num_tokens,
        "sampled_logprobs": [-0.5] * num_tokens,
        "num_top_logprobs": [1] * num_tokens,
        "top_token_ids": [3] * num_tokens,
        "top_logprobs": [-0.5] * num_tokens,
        "finish_reason": "stop",
        "seed": index,
    }


def write_parts(directory: Path, *parts: list[dict]) -> None:
    for index, rows in enumerate(parts):
        write_rows(directory / f"part-{index:05d}.parquet", CONVERSATION_SCHEMA, rows)


def test_first_test_rows_in_stored_order_over_parts(tmp_path):
    write_parts(
        tmp_path,
        [row(0, "train"), row(1, "test"), row(2, "validation")],
        [row(3, "test"), row(4, "train"), row(5, "test")],
    )
    assert [found["prompt_id"] for found in read_held_out(tmp_path, 2)] == ["p1", "p3"]
    assert len(read_held_out(tmp_path, 64)) == 3


def test_no_held_out_conversation_is_an_error(tmp_path):
    write_parts(tmp_path, [row(0, "train")])
    with pytest.raises(ArtifactError, match="no held-out conversation"):
        read_held_out(tmp_path, 64)


def test_several_answers_to_one_prompt_count_once():
    rows = [row(7, "test"), row(7, "test"), row(8, "test"), row(9, "test")]
    assert [found["prompt_id"] for found in distinct_prompts(rows, 2)] == ["p7", "p8"]


def test_longest_first_keeps_stored_order_among_equals():
    rows = [row(0, "test", 3), row(1, "test", 9), row(2, "test", 3)]
    assert [found["prompt_id"] for found in longest_first(rows)] == ["p1", "p0", "p2"]
