"""The generate stage with the real teacher: several processes, several turns, stored answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from potstill.chat import render_text
from potstill.files import write_text_atomically
from potstill.rundir import RunDirectory
from potstill.tables import conversation_paths, read_conversations

QUESTIONS = (
    "Hi!", "What is 2 + 2?", "Say yes.", "What is the capital of France?", "Who are you?",
    "Name a color.", "Is water wet?", "Say good night.", "What comes after Monday?",
)  # fmt: skip
POTSTILL = Path(sys.executable).with_name("potstill")
SETTINGS = {
    # In float32, so that what is scored is what was sampled to the rounding of float32.
    "teacher.dtype": '"float32"',
    "curation.prompt_filters": "[]",
    "curation.conversation_filters": "[]",
    "sampling.max_tokens": 160,
    # Cool, so that most answers end.
    "sampling.temperature": 0.3,
    "sampling.top_logprobs": 32,
    "engine.max_num_seqs": 4,
    "engine.kv_cache_bytes": 1 << 28,
    "engine.max_model_len": 512,
    "engine.conversations_per_part": 2,
}


@pytest.fixture
def generate(tmp_path, teacher_dir):
    """Return a function that runs the stage through the command line."""
    assert teacher_dir.is_dir()
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS))

    def run(name: str, *options: str, prompts=prompts, **settings) -> RunDirectory:
        root = tmp_path / name
        given = SETTINGS | {"prompts.path": f'"{prompts}"'}
        given |= {key.replace("__", "."): value for key, value in settings.items()}
        flags = [f"--set=generate.{key}={value}" for key, value in given.items()]
        command = [POTSTILL, "generate", root, *options, *flags]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return RunDirectory(root)

    return run


def kept(run_directory):
    directory = run_directory.stage_dir("conversations")
    return [
        one
        for split in ("train", "validation", "test")
        for path in conversation_paths(directory, split)
        for one in read_conversations(path)
    ]


def asked(conversations):
    return sorted(one.given[-1].content for one in conversations)


def test_shards_make_a_run_together(generate):
    run_directory = generate("sharded", "--shard=2/2")
    assert run_directory.is_finished("prompts")
    assert not run_directory.is_finished("samples")
    parts = sorted(path.name for path in run_directory.partial_dir("samples").glob("part-*"))
    assert parts == ["part-00001.parquet", "part-00003.parquet"]
    generate("sharded", "--shard=1/2")
    assert run_directory.is_finished("conversations")
    assert asked(kept(run_directory)) == sorted(QUESTIONS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two copies want two cores")
def test_copies_of_the_teacher_share_the_work(generate):
    run_directory = generate("copies", engine__data_parallel_size=2)
    conversations = kept(run_directory)
    assert asked(conversations) == sorted(QUESTIONS)
    assert len({turn.seed for one in conversations for turn in one.turns}) == len(QUESTIONS)


def test_turns_go_on_by_token_ids_and_stored_answers_score_alike(generate, tmp_path, teacher_dir):
    run_directory = generate(
        "turns",
        turns__kind='"simulate"',
        turns__min_turns=2,
        turns__max_turns=3,
        turns__max_user_tokens=48,
    )
    conversations = kept(run_directory)
    assert asked(conversations) == sorted(QUESTIONS)
    finished = [one for one in conversations if one.turns[-1].finish_reason == "stop"]
    assert any(len(one.turns) > 1 for one in conversations)
    assert len(finished) >= 3
    tokenizer = AutoTokenizer.from_pretrained(teacher_dir)
    for one in finished:
        written = render_text(tokenizer, [*one.given, *one.completion], add_generation_prompt=False)
        assert tokenizer.decode(one.token_ids) == written.removesuffix("\n")

    stored = [
        {"messages": [turn.to_chat() for turn in (*one.given, *one.completion)]} for one in finished
    ]
    path = tmp_path / "stored.jsonl"
    write_text_atomically(path, "".join(json.dumps(row) + "\n" for row in stored))
    scored = generate("scored", prompts=path, turns__kind='"score"')
    # The template writes a line's end after the last turn, which nobody samples.
    again = {tuple(one.token_ids[:-1]): one for one in kept(scored)}
    same = [(one, again[key]) for one in finished if (key := (*one.token_ids,)) in again]
    # Where text of a sampled token is tokenized in another way, there is nothing to compare.
    assert len(same) > len(finished) // 2
    for one, other in same:
        assert [(turn.start, turn.num_tokens) for turn in one.turns] == [
            (turn.start, turn.num_tokens) for turn in other.turns
        ]
        np.testing.assert_allclose(
            one.signal.sampled_logprobs_T, other.signal.sampled_logprobs_T, rtol=2e-3, atol=2e-3
        )
