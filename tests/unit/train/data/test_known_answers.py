import pytest
from transformers import AutoTokenizer

from potstill.errors import TrainingError
from potstill.schema import Message
from potstill.task.known_answers import KnownConversation
from train.data.known_answers import load_known_answers


def asked(question, answer):
    return KnownConversation(
        given=(Message(role="user", content=question),),
        answer=Message(role="assistant", content=answer),
    )


def test_what_is_learned_is_the_answer_and_its_end(tiny_student_dir, tmp_path):
    answers = {"train": ["cards", "cash"], "validation": ["loans"], "test": ["none"]}
    splits = {
        split: [asked(f"Question {n}?", answer) for n, answer in enumerate(texts)]
        for split, texts in answers.items()
    }
    data = load_known_answers(splits, tiny_student_dir, 64, tmp_path / "scratch")
    tokenizer = AutoTokenizer.from_pretrained(tiny_student_dir)
    for split, texts in answers.items():
        rows = list(getattr(data, split))
        batch = data.collator(rows)
        learned = [tokenizer.decode(one[one >= 0]) for one in batch["labels"]]
        assert sorted(learned) == sorted(f"{text}<|im_end|>" for text in texts)
        asked_ids = [row["token_ids"][: row["turn_starts"][0]] for row in rows]
        expected = "<|im_start|>user\nQuestion 0?<|im_end|>\n<|im_start|>assistant\n"
        assert tokenizer.decode(asked_ids[0]) == expected
    assert not data.tokens_are_draws


def test_a_split_without_a_prompt_that_fits_is_refused(tiny_student_dir, tmp_path):
    splits = {split: [asked("Why? " * 99, "So.")] for split in ("train", "validation", "test")}
    with pytest.raises(TrainingError, match="the train split has no conversation"):
        load_known_answers(splits, tiny_student_dir, 64, tmp_path / "scratch")
