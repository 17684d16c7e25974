import math

import pytest

from generate.config import SamplingConfig
from generate.conversations import (
    build_requests,
    part_path,
    sample_conversations,
    split_into_parts,
    summarise,
    unfinished_parts,
)
from generate.engine import Sample, derive_seed
from potstill.chat import render_prompt
from potstill.errors import ArtifactError, TeacherError
from potstill.tables import CONVERSATION_SCHEMA, conversation_from_row, read_rows, write_rows

SAMPLING = SamplingConfig(temperature=0.8, top_p=0.9, max_tokens=12, top_logprobs=3, seed=5)
PER_PART = 2


@pytest.fixture
def answer(prompts, tmp_path):
    """Return a function that lets a teacher answer all that is missing."""

    def run(engine, directory=tmp_path):
        parts = split_into_parts(prompts, PER_PART)
        requests = build_requests(engine.tokenizer, SAMPLING, prompts)
        missing = unfinished_parts(parts, directory)
        sample_conversations(engine, 3, missing, requests, directory, num_done=0)

    return run


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def stored(directory, index) -> list:
    path = part_path(directory, index)
    return [conversation_from_row(row) for row in read_rows(path, CONVERSATION_SCHEMA)]


def test_parts_are_of_consecutive_prompts_and_the_last_may_be_short():
    assert split_into_parts("abcde", 2) == ["ab", "cd", "e"]
    assert split_into_parts("abcd", 2) == ["ab", "cd"]
    assert split_into_parts("", 2) == []


def test_parts_are_named_so_that_they_sort(tmp_path):
    assert part_path(tmp_path, 7) == tmp_path / "part-00007.parquet"
    assert part_path(tmp_path, 9) < part_path(tmp_path, 10)


def test_a_request_is_the_rendered_prompt_with_a_seed_of_its_own(answering, prompts):
    tokenizer = answering().tokenizer
    requests = build_requests(tokenizer, SAMPLING, prompts)
    assert list(requests) == [prompt.prompt_id for prompt in prompts]
    for prompt in prompts:
        request = requests[prompt.prompt_id]
        assert request.request_id == prompt.prompt_id
        assert request.prompt_token_ids == render_prompt(tokenizer, prompt.messages)
        assert request.sampling.model_dump() == {
            "temperature": 0.8,
            "top_p": 0.9,
            "max_tokens": 12,
            "seed": derive_seed(5, prompt.prompt_id),
        }


def test_a_prompts_seed_does_not_depend_on_the_others(answering, prompts):
    tokenizer = answering().tokenizer
    alone = build_requests(tokenizer, SAMPLING, prompts[3:4])
    assert alone["s"] == build_requests(tokenizer, SAMPLING, prompts)["s"]
    other = build_requests(tokenizer, SAMPLING.model_copy(update={"seed": 6}), prompts[3:4])
    assert other["s"].sampling.seed != alone["s"].sampling.seed


def test_answers_are_stored_with_what_the_teacher_saw_and_sampled(
    answering, answer, tmp_path, prompts
):
    engine = answering()
    answer(engine)
    assert names(tmp_path) == [f"part-0000{index}.parquet" for index in range(3)]
    found = [one for index in range(3) for one in stored(tmp_path, index)]
    assert [one.prompt for one in found] == prompts
    assert engine.top_logprobs == {3}
    first, cut_off = found[0], found[2]
    assert first.completion == "re p"
    assert "".join(map(chr, first.prompt_token_ids)) == "<user>question |<assistant>"
    assert first.completion_token_ids == (*map(ord, "re p"), 0)
    assert first.logprobs.top_token_ids == ((0, 1, 2),) * 5
    assert first.logprobs.sampled_logprobs == pytest.approx([math.log(0.25)] * 5)
    assert (first.finish_reason, cut_off.finish_reason) == ("stop", "length")
    assert cut_off.completion_token_ids == tuple(map(ord, "re x"))
    assert first.seed == derive_seed(5, "p")


def test_answers_that_end_out_of_order_are_stored_in_order(answering, answer, tmp_path):
    answer(answering(), tmp_path)
    (tmp_path / "other").mkdir()
    answer(answering(order=lambda asked: asked[::-1]), tmp_path / "other")
    for index in range(3):
        assert stored(tmp_path / "other", index) == stored(tmp_path, index)


@pytest.mark.parametrize(
    ("lives", "whole"), [(0, []), (1, []), (2, [0]), (3, [0]), (4, [0, 1]), (5, [0, 1, 2])]
)
def test_parts_are_whole_or_absent(answering, answer, tmp_path, prompts, lives, whole):
    engine = answering(lives=lives)
    if lives < len(prompts):
        with pytest.raises(KeyboardInterrupt):
            answer(engine)
    else:
        answer(engine)
    assert names(tmp_path) == [part_path(tmp_path, index).name for index in whole]
    parts = split_into_parts(prompts, PER_PART)
    assert unfinished_parts(parts, tmp_path) == {
        index: parts[index] for index in range(3) if index not in whole
    }


def test_a_part_is_written_as_soon_as_its_last_prompt_is_answered(answering, answer, tmp_path):
    """The last prompt of each part first: x, q and t end before s and p."""
    engine = answering(order=lambda asked: [asked[n] for n in (1, 3, 4, 2, 0)], lives=4)
    with pytest.raises(KeyboardInterrupt):
        answer(engine)
    assert names(tmp_path) == ["part-00001.parquet", "part-00002.parquet"]


def test_an_interrupted_process_is_gone_on_with(answering, answer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        answer(answering(lives=3))
    before = part_path(tmp_path, 0).read_bytes()
    engine = answering()
    answer(engine)
    assert engine.calls == [["x", "s", "t"]]
    assert part_path(tmp_path, 0).read_bytes() == before
    assert [one.prompt.prompt_id for one in stored(tmp_path, 1)] == ["x", "s"]


def test_a_damaged_part_is_made_again_and_only_it(answering, answer, tmp_path, prompts):
    answer(answering())
    damaged = part_path(tmp_path, 1)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    missing = unfinished_parts(split_into_parts(prompts, PER_PART), tmp_path)
    assert list(missing) == [1]
    assert not damaged.exists()
    engine = answering()
    answer(engine)
    assert engine.calls == [["x", "s"]]
    assert damaged.read_bytes() == content


def test_a_part_of_other_columns_is_made_again(prompts, tmp_path):
    schema = CONVERSATION_SCHEMA.remove(0)
    write_rows(part_path(tmp_path, 0), schema, [{"split": "train"}])
    assert list(unfinished_parts([prompts], tmp_path)) == [0]


def test_a_teacher_without_log_probabilities_is_refused(fake_engine, answer, tmp_path):
    def bare(request, _top_logprobs):
        return Sample(request.request_id, (1, 2), None, "length")

    with pytest.raises(TeacherError, match="no log-probabilities") as caught:
        answer(fake_engine(bare))
    assert caught.value.where == "p"
    assert names(tmp_path) == []


def test_a_part_that_cannot_be_written_is_an_error_that_names_it(answering, answer, tmp_path):
    with pytest.raises(ArtifactError, match="writing conversations failed") as caught:
        answer(answering(), tmp_path / "absent")
    assert "absent" in str(caught.value.where)


def test_a_summary_counts_rows_splits_and_tokens(answering, answer, tmp_path):
    answer(answering())
    summary = summarise(tmp_path)
    assert summary.rows_by_part == {
        "part-00000.parquet": 2,
        "part-00001.parquet": 2,
        "part-00002.parquet": 1,
    }
    assert summary.num_conversations == {"train": 3, "validation": 1, "test": 1}
    around = len("<user>question |<assistant>")
    assert summary.prompt_tokens == 5 * around + 0 + 1 + 2 + 3 + 4
    assert summary.completion_tokens == 4 * len("re p|") + len("re x")
    assert summary.truncated_share == pytest.approx(1 / 5)
    assert summary.mean_tail_mass == pytest.approx(0.25, abs=1e-6)


def test_the_tail_mass_is_a_mean_over_tokens_of_ragged_rows(tmp_path):
    masses = [[0.5, 0.25], [0.9], [0.1, 0.1, 0.1]]
    row = {field.name: None for field in CONVERSATION_SCHEMA} | {
        "split": "test",
        "prompt_token_ids": [1],
        "num_top_logprobs": [len(one) for one in masses],
        "top_logprobs": [math.log(mass) for one in masses for mass in one],
        "finish_reason": "stop",
    }
    write_rows(part_path(tmp_path, 0), CONVERSATION_SCHEMA, [row])
    summary = summarise(tmp_path)
    assert summary.mean_tail_mass == pytest.approx((0.25 + 0.1 + 0.7) / 3, abs=1e-6)
    assert summary.num_conversations == {"train": 0, "validation": 0, "test": 1}
    assert summary.truncated_share == 0.0


def test_a_summary_of_a_damaged_part_is_an_error(answering, answer, tmp_path):
    answer(answering())
    part_path(tmp_path, 2).write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"part-00002\.parquet"):
        summarise(tmp_path)
