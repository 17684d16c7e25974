"""Tiny random checkpoints with a tiny real tokenizer, and runs made of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potstill.manifest import Manifest
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Message
from quantize.loading import load_tokenizer
from tests.fixtures.conversion import shared_converter
from tests.fixtures.facts import student_facts, taken_from
from tests.fixtures.tiny_checkpoints import PRE_TOKENIZERS, save_tiny_model, train_byte_level

__all__ = ["shared_converter"]

VOCAB_SIZE = 1280
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_byte_level(PRE_TOKENIZERS["smollm"], CHAT_TEMPLATE).save_pretrained(directory)
    return directory


@pytest.fixture
def make_checkpoint(tmp_path: Path, tokenizer_dir: Path) -> MakeCheckpoint:
    """Return a function that saves a random model with the tokenizer."""

    def make(name: str = "checkpoint", model_type: str = "llama", **changes: object) -> Path:
        return save_checkpoint(tmp_path / name, tokenizer_dir, model_type, **changes)

    return make


def save_checkpoint(
    directory: Path, tokenizer_dir: Path, model_type: str = "llama", **changes: object
) -> Path:
    save_tiny_model(directory, model_type, **changes)
    shutil.copytree(tokenizer_dir, directory, dirs_exist_ok=True)
    return directory


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a mix consist of fewer types, each of which takes time to measure."""
    few = ("IQ4_NL", "Q5_1", "Q8_0", "Q4_K")
    monkeypatch.setattr("quantize.quantization.mix.CANDIDATES", few)


@pytest.fixture(scope="session")
def talk(make_conversation: Callable[..., Conversation]) -> Callable[..., list[Conversation]]:
    """Return a function that makes conversations in a tokenizer's ids.

    The first is of split train and must not be used, the last has two answers.
    """

    def make(tokenizer: Any, num_held_out: int = 3) -> list[Conversation]:
        from potstill.chat import render_prompt, tokenize

        made = []
        for number in range(num_held_out + 1):
            given = (Message(role="user", content=f"What is {number} plus {number}?"),)
            answer = tokenize(tokenizer, f"It is {number + number}, as ever: café № {number}.")
            answer.append(tokenizer.eos_token_id)
            ids = render_prompt(tokenizer, given)
            turns = [(len(ids), len(answer))]
            ids += answer
            if number == num_held_out:
                ids += tokenize(
                    tokenizer, "\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
                )
                turns.append((len(ids), len(answer)))
                ids += answer
            made.append(
                make_conversation(
                    ids,
                    turns,
                    name=f"{number}",
                    given=given,
                    split="test" if number else "train",
                    source="arithmetic.jsonl",
                    license="CC0-1.0",
                )
            )
        return made

    return make


@pytest.fixture
def make_run(
    tmp_path: Path,
    talk: Callable[..., list[Conversation]],
    finish_conversations: Callable[..., Manifest],
) -> Callable[[Path, Path], RunDirectory]:
    """Return a function that makes a run whose student and conversations are finished."""

    def make(student_dir: Path, teacher_dir: Path, **more_facts: object) -> RunDirectory:
        run = RunDirectory(tmp_path / "run")
        made = finish_conversations(run, teacher_dir, talk(load_tokenizer(student_dir)))
        session = run.open_stage("student", {}, inputs=("conversations",))
        shutil.copytree(student_dir, session.dir, dirs_exist_ok=True)
        session.finish(facts=student_facts(**taken_from(made.facts) | more_facts))
        return run

    return make


@pytest.fixture
def tiny_quantize_run(
    make_checkpoint: MakeCheckpoint, make_run: Callable[[Path, Path], RunDirectory]
) -> RunDirectory:
    """A run whose student has one layer and its teacher two."""
    student = make_checkpoint("student", num_hidden_layers=1)
    return make_run(student, make_checkpoint("teacher"))
