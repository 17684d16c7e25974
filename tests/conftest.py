"""What tests of several rooms share: conversations, the real teacher, and a tiny one with a run."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from potstill.chat import chat_template_sha256, render_prompt, tokenize, tokenizer_sha256
from potstill.checkpoints import (
    ModelShape,
    checkpoint_fingerprint,
    count_parameters,
    find_checkpoint,
)
from potstill.distributions import TokenDistributions
from potstill.manifest import Manifest
from potstill.models.named import SMOLLM2_135M
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, FinishReason, Message, Prompt, Split, Turn, turn_positions
from potstill.tables import conversations_to_table, write_table
from tests.fixtures.facts import conversations_facts, teacher_identity
from tests.fixtures.workers import FirstFolders, keep_to_own_cores, shared_first

settings.register_profile(
    "shared machine",
    max_examples=50,  # Each run draws other ones.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared machine")

# Background commands of a shell ignore Ctrl-C, and so do their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

NUM_LAYERS, WIDTH = 4, 32
VOCAB_SIZE = 8_192
"""Of the tiny checkpoints: a sixth of the real teacher's."""
SPLITS: dict[Split, int] = {"train": 24, "validation": 4, "test": 6}
TOP_LOGPROBS = 16
MAX_TOKENS = 20
LINE_SECONDS = 3600
"""Most that the whole line may take, on a slow machine that does other work too."""
QUESTION = Message(role="user", content="How?")
NEXT_QUESTION = Message(role="user", content="Go on.")
NEXT_TURN = "<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n"

STUDENT_TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Unlike the teacher's it trims, and puts no system message before the first question."""

Entries = Sequence[tuple[int, float]]
"""Token ids and their probabilities, the most probable first."""


def pytest_configure(config: pytest.Config) -> None:
    """Let workers of pytest-xdist share the cores."""
    if hasattr(config, "workerinput"):
        keep_to_own_cores(config.workerinput)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are imported, and none of what is loaded by then later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FirstFolders | None:
    """Keep files of a shared folder together where files are not spread over workers."""
    return FirstFolders(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes longest first."""
    shared_first(items)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that `make check` omits."""
    folders = item.path.relative_to(Path(__file__).parent).parts
    if folders[0] in ("integration", "e2e", "fuzz"):
        item.add_marker("slow")
    if "line" in getattr(item, "fixturenames", ()):
        # Whichever test is first makes the run, in the time that it is given.
        item.add_marker(pytest.mark.timeout(LINE_SECONDS))


@pytest.fixture(scope="session")
def make_conversation() -> Callable[..., Conversation]:
    """Return a function that makes a conversation, by default with one answer."""
    return _conversation


def _conversation(
    token_ids: Sequence[int] = (1, 2, 3, 4),
    turns: Sequence[tuple[int, int]] = ((2, 2),),
    *,
    name: str = "prompt",
    answer_index: int = 0,
    given: tuple[Message, ...] = (QUESTION,),
    completion: tuple[Message, ...] = (Message(role="assistant", content="So."),),
    entries: Sequence[Entries] | None = None,
    sampled_logprobs: Sequence[float] | None = None,
    signal: TokenDistributions | None = None,
    finish_reason: FinishReason = "stop",
    **prompt: Any,
) -> Conversation:
    """Make a conversation.

    Args:
        turns: Start and length of each answer.
        entries: What is stored at each token of the answers; each token itself by default.
        sampled_logprobs: -1 for each token by default.
        signal: Both, as it is stored.
        finish_reason: Of every answer.
        prompt: Fields of the prompt.
    """
    spans = tuple(
        Turn(start=start, num_tokens=num_tokens, finish_reason=finish_reason, seed=0)
        for start, num_tokens in turns
    )
    answered = [token_ids[position] for position in turn_positions(spans)]
    entries = entries or [[(token_id, 0.36)] for token_id in answered]
    stored = [entry for row in entries for entry in row]
    signal = signal or TokenDistributions(
        np.array(sampled_logprobs or [-1.0] * len(answered), dtype=np.float32),
        np.array([len(row) for row in entries], dtype=np.int64),
        np.array([token_id for token_id, _ in stored], dtype=np.int32),
        np.array([math.log(probability) for _, probability in stored], dtype=np.float32),
    )
    fields = {"cluster_id": name, "split": "train", "messages": given, "source": "a test"}
    return Conversation(
        prompt=Prompt(prompt_id=name, **(fields | prompt)),
        answer_index=answer_index,
        given=given,
        completion=completion,
        token_ids=np.array(token_ids, dtype=np.int32),
        turns=spans,
        signal=signal,
    )


@pytest.fixture(scope="session")
def write_conversations() -> Callable[..., None]:
    """Return a function that writes conversations into a file for each of their splits."""
    return _write_conversations


def _write_conversations(
    directory: Path,
    conversations: Iterable[Conversation],
    part: int = 0,
    vocab_size: int = VOCAB_SIZE,
) -> None:
    by_split: dict[Split, list[Conversation]] = {}
    for conversation in conversations:
        by_split.setdefault(conversation.prompt.split, []).append(conversation)
    for split, chosen in by_split.items():
        table = conversations_to_table(chosen, vocab_size)
        write_table(directory / f"{split}-{part:05d}.parquet", table)


@pytest.fixture(scope="session")
def finish_conversations() -> Callable[..., Manifest]:
    """Return a function that finishes a run's conversations, with all facts of the real stage."""

    def finish(
        run_directory: RunDirectory,
        teacher_dir: Path,
        conversations: Sequence[Conversation],
        **facts: Any,
    ) -> Manifest:
        template = (teacher_dir / "chat_template.jinja").read_text(encoding="utf-8")
        counts = {
            split: sum(one.prompt.split == split for one in conversations)
            for split in get_args(Split)
        }
        vocab_size = ModelShape.read(teacher_dir, with_weights=False).vocab_size
        session = run_directory.open_stage("conversations", {})
        _write_conversations(session.dir, conversations, vocab_size=vocab_size)
        return session.finish(
            facts=conversations_facts(
                teacher=teacher_identity(
                    model="tiny",
                    path=str(teacher_dir),
                    num_parameters=count_parameters(teacher_dir),
                    fingerprint=checkpoint_fingerprint(teacher_dir),
                ),
                **{
                    "tokenizer_sha256": tokenizer_sha256(teacher_dir),
                    "chat_template_sha256": chat_template_sha256(template),
                    "vocab_size": vocab_size,
                    "top_logprobs": TOP_LOGPROBS,
                    "num_conversations": counts,
                }
                | facts,
            )
        )

    return finish


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread: such small work is slower on more threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def teacher_dir() -> Path:
    """The embedded teacher's checkpoint, SmolLM2-135M-Instruct.

    POTSTILL_TEST_TEACHER names a copy, without weights for the tests that need its tokenizer alone.
    """
    return find_checkpoint(os.environ.get("POTSTILL_TEST_TEACHER", SMOLLM2_135M.name))


@pytest.fixture(scope="session")
def tiny_teacher_dir(teacher_dir, tmp_path_factory) -> Path:
    """A random Llama of four layers with the first tokens of the real teacher's tokenizer."""
    return _tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "teacher", teacher_dir, NUM_LAYERS)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A random llama with the real teacher's vocabulary as a GGUF file."""
    from tests.fixtures.tiny_gguf import write_tiny_gguf

    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture(scope="session")
def tiny_student_dir(teacher_dir, tmp_path_factory) -> Path:
    """A random Llama whose tokenizer has half of the teacher's merges and another chat template."""
    directory = _tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "student", teacher_dir, 2)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = content["model"]["merges"]
    content["model"]["merges"] = merges[: len(merges) // 2]
    path.write_text(json.dumps(content), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(STUDENT_TEMPLATE, encoding="utf-8")
    return directory


def _tiny_checkpoint(directory: Path, teacher_dir: Path, num_layers: int) -> Path:
    """Write a random Llama with the first tokens of the real teacher's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(teacher_dir / name, directory / name)
    content = json.loads((teacher_dir / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    num_merges = VOCAB_SIZE - (len(vocabulary) - len(content["model"]["merges"]))
    content["model"]["vocab"] = {one: id_ for one, id_ in vocabulary.items() if id_ < VOCAB_SIZE}
    content["model"]["merges"] = content["model"]["merges"][:num_merges]
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_conversations(tiny_teacher_dir) -> list[Conversation]:
    """Conversations that the tiny teacher really sampled at temperature 1; one in three goes on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Such small work is slower on more threads.
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    conversations = []
    for index, split in enumerate(splits):
        content = "Tell me about number " + " and ".join(str(index + n) for n in range(index % 5))
        given = (Message(role="user", content=content),)
        lengths = [4 + index % (MAX_TOKENS - 4), 5][: 1 + (index % 3 == 0)]
        conversations.append(
            sample_conversation(
                model, tokenizer, given, lengths, TOP_LOGPROBS, name=f"prompt{index}", split=split
            )
        )
    torch.set_num_threads(num_threads)
    return conversations


@pytest.fixture(scope="session")
def sampled_conversation() -> Callable[..., Conversation]:
    """Return a function that lets a model answer a chat."""
    return sample_conversation


def sample_conversation(
    model: Any,
    tokenizer: Any,
    given: tuple[Message, ...],
    lengths: Sequence[int],
    num_stored: int,
    sharpness: float = 1.0,
    **prompt: Any,
) -> Conversation:
    """Let a model answer, the user say "Go on.", and the model answer again.

    Args:
        lengths: Tokens of each answer.
        num_stored: Log-probabilities stored for each of them.
        sharpness: What the stored distributions' logits are multiplied by.
        prompt: Fields of the prompt.
    """
    import torch

    ids, turns, completion = render_prompt(tokenizer, given), [], []
    cache, num_read = None, 0
    with torch.no_grad():
        for length in lengths:
            if turns:
                ids += tokenize(tokenizer, NEXT_TURN)
                completion.append(NEXT_QUESTION)
            turns.append((len(ids), length))
            for _ in range(length):
                step = model(torch.tensor([ids[num_read:]]), past_key_values=cache, use_cache=True)
                cache, num_read = step.past_key_values, len(ids)
                ids.append(int(torch.multinomial(step.logits[0, -1].softmax(-1), 1)))
            completion.append(Message(role="assistant", content=tokenizer.decode(ids[-length:])))
        logits_LV = sharpness * model(torch.tensor([ids])).logits[0].double()
    positions_T = np.concatenate([np.arange(start, start + length) for start, length in turns])
    logprobs_TV = logits_LV[positions_T - 1].log_softmax(-1)
    top = logprobs_TV.topk(num_stored)
    sampled_T1 = logprobs_TV.gather(-1, torch.tensor(ids)[positions_T][:, None])
    return _conversation(
        ids,
        turns,
        given=given,
        completion=tuple(completion),
        signal=TokenDistributions.from_padded(
            top.indices.numpy(), top.values.numpy(), sampled_T1[:, 0].numpy()
        ),
        **prompt,
    )


@pytest.fixture
def tiny_run(tmp_path, tiny_teacher_dir, tiny_conversations, finish_conversations) -> RunDirectory:
    """A run whose conversations the tiny teacher made."""
    run_directory = RunDirectory(tmp_path / "tiny_run")
    finish_conversations(run_directory, tiny_teacher_dir, tiny_conversations)
    return run_directory
