"""The generate stage with the real teacher: several turns, and stored answers scored."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import numpy as np
import pytest

from generate import stage
from generate.config import GenerateConfig
from generate.lazy_teacher import LazyTeacher
from potstill.chat import render_text
from potstill.files import write_text_atomically
from potstill.rundir import RunDirectory
from potstill.tables import conversation_paths, read_conversations
from potstill.task.config import TaskConfig
from potstill.task.stage import write_task

QUESTIONS = (
    "Hi!", "What is 2 + 2?", "Say yes.", "What is the capital of France?", "Who are you?",
    "Name a color.", "Is water wet?", "Say good night.", "What comes after Monday?",
)  # fmt: skip
TABLES = {
    "curation": {"prompt_filters": [], "conversation_filters": []},
    # Cool, so that most answers end.
    "sampling": {"max_tokens": 160, "temperature": 0.3, "top_logprobs": 32},
    "engine": {"max_model_len": 512, "conversations_per_part": 5},
}


@pytest.fixture
def generate(tmp_path, teacher, monkeypatch):
    """Return a function that runs the stage with the engine of this process."""
    shared = copy.copy(teacher)
    shared.close = lambda: None
    monkeypatch.setattr(LazyTeacher, "_load", lambda _: shared)

    def run(
        name: str, prompts: Sequence[dict], task: TaskConfig | None = None, **tables
    ) -> RunDirectory:
        path = tmp_path / f"{name}.jsonl"
        write_text_atomically(path, "".join(json.dumps(row) + "\n" for row in prompts))
        config = GenerateConfig.model_validate(TABLES | {"prompts": {"path": str(path)}} | tables)
        run_directory = RunDirectory(tmp_path / name)
        write_task(task or TaskConfig(), run_directory)
        stage.run(config, run_directory)
        return run_directory

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


def test_turns_go_on_by_token_ids_and_stored_answers_score_alike(generate, teacher):
    run_directory = generate(
        "turns",
        [{"prompt": one} for one in QUESTIONS],
        turns={"kind": "simulate", "min_turns": 2, "max_turns": 3, "max_user_tokens": 48},
    )
    conversations = kept(run_directory)
    assert asked(conversations) == sorted(QUESTIONS)
    finished = [one for one in conversations if one.turns[-1].finish_reason == "stop"]
    assert any(len(one.turns) > 1 for one in conversations)
    assert len(finished) >= 3
    for one in finished:
        written = render_text(
            teacher.tokenizer, [*one.given, *one.completion], add_generation_prompt=False
        )
        assert teacher.tokenizer.decode(one.token_ids) == written.removesuffix("\n")

    stored = [
        {"messages": [turn.to_chat() for turn in (*one.given, *one.completion)]} for one in finished
    ]
    scored = generate("scored", stored, turns={"kind": "score"})
    # The template writes a line's end after the last turn, which is never sampled.
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

    # Under a task's long prompt other distributions belong to the same answers, stored under the
    # student's prompt.
    task = TaskConfig(instructions="Answer like a pirate.", student_instructions="Pirate.")
    distilled = {
        one.given[-1].content: one
        for one in kept(generate("distilled", stored, task, turns={"kind": "score"}))
    }
    assert distilled
    for one in kept(scored):
        other = distilled.get(one.given[-1].content)
        if other is None:  # A token spans its prompt and its answer.
            continue
        system, *rest = other.given
        assert system.content == "Pirate."
        written = render_text(
            teacher.tokenizer, [*other.given, *other.completion], add_generation_prompt=False
        )
        assert teacher.tokenizer.decode(other.token_ids) == written
        assert tuple(rest) == one.given
        answers = [
            conversation.token_ids[conversation.positions_T] for conversation in (one, other)
        ]
        np.testing.assert_array_equal(*answers)
        logprobs = [conversation.signal.sampled_logprobs_T for conversation in (one, other)]
        assert np.abs(logprobs[0] - logprobs[1]).max() > 0.1
