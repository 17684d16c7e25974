import datasets
import torch
from transformers import AutoTokenizer

from potstill.tables import conversation_paths, read_conversations
from train.on_policy.prompts import collate_prompts, draw_prompts, teacher_prompts


def split():
    rows = [
        {"token_ids": [10 * n + 1, 2, 3, 4], "turn_starts": [1 + n % 3], "conversation_id": f"{n}"}
        for n in range(5)
    ]
    return datasets.Dataset.from_list(rows).with_format("numpy")


def test_prompts_end_before_the_first_answer_and_come_again_only_after_all_others():
    prompts = draw_prompts(split(), 7, seed=0)
    ids = prompts["conversation_id"][:]
    assert set(ids[:5]) == {"0", "1", "2", "3", "4"}
    assert ids[5:] == ids[:2]
    for row in prompts:
        n = int(row["conversation_id"])
        assert row["prompt"] == [10 * n + 1, 2, 3, 4][: 1 + n % 3]
    assert draw_prompts(split(), 7, seed=0)["prompt"][:] == prompts["prompt"][:]
    assert draw_prompts(split(), 7, seed=1)["prompt"][:] != prompts["prompt"][:]


def test_prompts_are_padded_on_the_left():
    rows = [
        {"prompt": [1, 2, 3], "teacher_prompt_text": "long"},
        {"prompt": [4], "teacher_prompt_text": "short"},
    ]
    batch = collate_prompts(rows, pad_token_id=9)
    assert batch["prompts"].tolist() == [[1, 2, 3], [9, 9, 4]]
    assert batch["prompt_attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["teacher_prompt_text"] == ["long", "short"]
    assert batch["prompts"].dtype == torch.int64


def test_the_teacher_gets_the_text_that_it_answered(tiny_run, tiny_teacher_dir):
    """Its tokens are those that are stored."""
    conversations_dir = tiny_run.stage_dir("conversations")
    (path,) = conversation_paths(conversations_dir, "train")
    wanted = [one for one in read_conversations(path) if one.answer_index == 0][:3]
    ids = [one.conversation_id for one in wanted]
    texts = teacher_prompts(conversations_dir, tiny_teacher_dir, ids)
    assert set(texts) == set(ids)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    for one in wanted:
        prompt_ids = one.token_ids[: one.turns[0].start].tolist()
        assert tokenizer(texts[one.conversation_id])["input_ids"] == prompt_ids
