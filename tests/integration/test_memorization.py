"""A tiny student that has learned its training answers by heart, and the same before training.

Real parts: stored conversations, the converter, llama.cpp, the run's stages, `potstill push`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from compare.answers.cache import JsonCache
from compare.config import CompareConfig
from compare.measurement.memorization import CACHE_NAME, measure_memorization
from compare.measurement.run_files import RunFiles, read_run
from compare.verdict.memorization import memorization_of
from potstill.canaries import make_canaries
from potstill.chat import render_prompt, tokenize
from potstill.cli import app
from potstill.facts.memorization import Memorization
from potstill.rundir import RunDirectory
from potstill.schema import CANARIES, Conversation, Message
from quantize.conversion.convert import write_base_gguf
from tests.fixtures.conversion import shared_converter
from tests.fixtures.facts import (
    comparison_facts,
    gguf_facts,
    gguf_file,
    student_facts,
    taken_from,
)

__all__ = ["shared_converter"]

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_TRAINED, NUM_CANARIES, NUM_HELD_OUT = 10, 3, 6
WORDS = ("amber", "boat", "candle", "dust", "early", "field", "grain", "harbor", "iron", "lamp")
NUM_WORDS = 40
"""Of an answer; each is a token or two."""
LEAST_LOSS, MOST_STEPS = 0.01, 1500
CONFIG = CompareConfig(num_threads=1)


@dataclass(frozen=True)
class Learned:
    """A run whose student was overfitted, and what was measured of it."""

    directory: RunDirectory
    files: RunFiles
    found: Memorization


@pytest.fixture(scope="module")
def conversations(tiny_teacher_dir, make_conversation) -> list[Conversation]:
    """Random answers that nobody can guess, and canaries."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    chance = random.Random(0)

    def conversation(name: str, question: str, answer: str, **prompt: str) -> Conversation:
        given = (Message(role="user", content=question),)
        start = render_prompt(tokenizer, given)
        ids = [*tokenize(tokenizer, answer), tokenizer.eos_token_id]
        completion = (Message(role="assistant", content=answer),)
        return make_conversation(
            [*start, *ids], [(len(start), len(ids))], name=name, given=given,
            completion=completion, **prompt,
        )  # fmt: skip

    splits = ["train"] * NUM_TRAINED + ["validation", "test"] * (NUM_HELD_OUT // 2)
    answered = [
        conversation(
            f"p{number}", f"Say list {number}.", " ".join(chance.choices(WORDS, k=NUM_WORDS)),
            split=split,
        )
        for number, split in enumerate(splits)
    ]  # fmt: skip
    planted = [
        conversation(f"c{number}", one.question, one.answer, split="train", source=CANARIES)
        for number, one in enumerate(make_canaries(NUM_CANARIES, seed=0))
    ]
    return [*answered, *planted]


def overfit(teacher_dir: Path, conversations: list[Conversation], directory: Path) -> None:
    """Train the teacher without its last layer until it knows the training split by heart."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    model.model.layers = model.model.layers[:-1]
    model.config.num_hidden_layers -= 1
    model.config.layer_types = None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    trained = [one for one in conversations if one.prompt.split == "train"]
    longest = max(len(one.token_ids) for one in trained)
    ids_BT = torch.zeros(len(trained), longest, dtype=torch.long)
    labels_BT = torch.full_like(ids_BT, -100)
    for row, one in enumerate(trained):
        ids_BT[row, : len(one.token_ids)] = torch.tensor(one.token_ids)
        labels_BT[row, one.positions_T] = torch.tensor(one.token_ids[one.positions_T]).long()
    for _ in range(MOST_STEPS):
        loss = model(input_ids=ids_BT, labels=labels_BT).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < LEAST_LOSS:
            break
    model.save_pretrained(directory)
    for name in ("tokenizer_config.json", "tokenizer.json", "chat_template.jinja"):
        (directory / name).write_bytes((teacher_dir / name).read_bytes())


@pytest.fixture(scope="module")
def learned(tiny_teacher_dir, conversations, tmp_path_factory, finish_conversations) -> Learned:
    directory = tmp_path_factory.mktemp("memorized")
    run = RunDirectory(directory / "run")
    run.root.mkdir()
    made = finish_conversations(run, tiny_teacher_dir, conversations)
    session = run.open_stage("student", {}, inputs=("conversations",))
    overfit(tiny_teacher_dir, conversations, session.dir)
    student = student_facts(**taken_from(made.facts), removed_layers=(3,))
    session.finish(facts=student)
    session = run.open_stage("gguf", {}, inputs=("student", "conversations"))
    sources = {"student-F32": run.stage_dir("student"), "teacher-F32": tiny_teacher_dir}
    for name, source in sources.items():
        write_base_gguf(source, session.dir / f"{name}.gguf", "F32", name)
    (session.dir / "README.md").write_text("---\nlicense: mit\n---\n\n# A student\n")
    hashes = student.model_dump(include={"tokenizer_sha256", "chat_template_sha256"})
    session.finish(facts=gguf_facts(*map(gguf_file, sources), **hashes))
    files = read_run(run, 2)
    cache = JsonCache(directory / "cache")
    measured = measure_memorization(files, CONFIG, directory, cache)
    assert cache.get(CACHE_NAME) == measured.model_dump(mode="json")
    found = memorization_of(measured, CONFIG.memorization.min_tokens, alpha=0.05)
    session = run.open_stage("comparison", {}, inputs=("gguf", "conversations"))
    session.finish(facts=comparison_facts(recommended="student-F32", memorization=found))
    return Learned(run, files, found)


def test_what_was_learned_by_heart_is_completed_and_nothing_else(learned):
    found = learned.found
    assert found.num_distinct == found.trained.num_answers == NUM_TRAINED
    assert found.trained.share.value >= 0.9
    assert found.untrained.num_answers == NUM_TRAINED
    assert found.untrained.share.value == 0.0
    assert found.held_out.num_answers == NUM_HELD_OUT
    assert found.held_out.share.value == 0.0
    assert found.surplus.value == found.learned.value == found.trained.share.value
    assert 0 < found.surplus.lower < found.surplus.value
    trained = {f"p{number}-0" for number in range(NUM_TRAINED)}
    assert set(found.verbatim) <= trained
    assert len(found.verbatim) == round(found.trained.share.value * NUM_TRAINED)


def test_canaries_of_training_rank_first(learned):
    canaries = learned.found.canaries
    assert (canaries.num_canaries, canaries.num_candidates) == (NUM_CANARIES, 128)
    assert canaries.exposures_bits == (7.0,) * NUM_CANARIES
    assert canaries.num_verbatim >= 2
    assert canaries.p_value < 1e-4


def test_before_training_nothing_is_exposed(learned, tmp_path):
    """The teacher's file in the student's place: it has seen neither answers nor canaries."""
    gguf = learned.files.gguf.model_copy(update={"recommended": "teacher-F32"})
    (file,) = gguf.teacher_files
    files = gguf.model_copy(update={"files": (file,)})
    before = RunFiles(**vars(learned.files) | {"gguf": files})
    measured = measure_memorization(before, CONFIG, tmp_path, JsonCache(tmp_path / "cache"))
    found = memorization_of(measured, 20, alpha=0.05)
    assert found.trained.share.value == found.surplus.value == 0.0
    assert found.canaries.num_verbatim == 0
    assert found.canaries.p_value > 0.001
    assert not found.exceeds(0.0)


def test_push_refuses_what_was_memorized_unless_it_was_checked(learned, tmp_path):
    def push(*options: str):
        command = ["push", str(learned.directory.root), "--to", f"{tmp_path}/there", *options]
        return CliRunner().invoke(app, [*command, "--license-checked"])

    refused = push()
    assert refused.exit_code != 0
    assert not (tmp_path / "there").exists()
    dry = push("--dry-run").stdout
    assert "refused: memorization, see the comparison's report: surplus of" in dry
    done = push("--memorization-checked")
    assert done.exit_code == 0, done.output
    card = (tmp_path / "there" / "README.md").read_text()
    assert all(sentence in card for sentence in learned.found.sentences)
