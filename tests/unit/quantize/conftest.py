"""Tiny random checkpoints with a tiny real tokenizer, and runs made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potstill.rundir import RunDirectory
from potstill.tables import CONVERSATION_SCHEMA, write_rows
from quantize.checkpoint import Checkpoint
from quantize.hostile_texts import HOSTILE_TEXTS
from quantize.reference import (
    Expected,
    HeldOut,
    read_expected,
    read_held_out,
    write_reference_logprobs,
)

VOCAB_SIZE = 1280
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM_STEPS = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]
MakeCheckpoint = Callable[..., Path]


def save_tokenizer(directory: Path, steps: list[dict[str, Any]] | None = None) -> None:
    """Train on unsplit text: merges that cross word bounds tell pre-tokenizers apart."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(HOSTILE_TEXTS, trainer)
    content = json.loads(tokenizer.to_str())
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps or SMOLLM_STEPS}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return directory


@pytest.fixture
def make_checkpoint(tmp_path: Path, tokenizer_dir: Path) -> MakeCheckpoint:
    """Return a function that saves a random model; its weights are wide enough to matter."""

    def make(
        name: str = "checkpoint", model_type: str = "llama", shard: str = "5GB", **changes: object
    ) -> Path:
        import shutil

        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
        }
        config = AutoConfig.for_model(model_type, **(sizes | changes))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                offset = 1.0 if "norm" in parameter_name else 0.0
                parameter.data = offset + 0.2 * torch.randn_like(parameter)
        directory = tmp_path / name
        model.save_pretrained(directory, max_shard_size=shard)
        for path in tokenizer_dir.iterdir():
            shutil.copy(path, directory)
        return directory

    return make


def load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def write_conversations(directory: Path, tokenizer: Any, num_conversations: int = 3) -> None:
    """Write conversations of split test, and one of split train that must not be used."""
    from potstill.chat import render_prompt
    from potstill.schema import Message

    rows = []
    for number in range(num_conversations + 1):
        message = Message(role="user", content=f"What is {number} plus {number}?")
        completion = f"It is {number + number}, as ever: café № {number}."
        ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
        ids = [*ids, tokenizer.eos_token_id]
        rows.append(
            {
                "prompt_id": f"{number}",
                "split": "test" if number else "train",
                "messages": [message.model_dump()],
                "source": "arithmetic.jsonl",
                "licence": "CC0-1.0",
                "completion": completion,
                "prompt_token_ids": render_prompt(tokenizer, [message]),
                "completion_token_ids": ids,
                "sampled_logprobs": [-1.0] * len(ids),
                "num_top_logprobs": [1] * len(ids),
                "top_token_ids": ids,
                "top_logprobs": [-1.0] * len(ids),
                "finish_reason": "stop",
                "seed": number,
            }
        )
    write_rows(directory / "part-00000.parquet", CONVERSATION_SCHEMA, rows)


@pytest.fixture
def proof(tmp_path: Path) -> Callable[[Path], tuple[Expected, HeldOut, Path]]:
    """Return a function that yields what a checkpoint's files must show."""

    def prove(checkpoint_dir: Path) -> tuple[Expected, HeldOut, Path]:
        tokenizer = load_tokenizer(checkpoint_dir)
        conversations_dir = tmp_path / "held-out"
        conversations_dir.mkdir(exist_ok=True)
        write_conversations(conversations_dir, tokenizer)
        held_out = read_held_out(conversations_dir, 60)
        vocab_size = Checkpoint(checkpoint_dir).config.vocab_size
        logprobs_path = tmp_path / "logprobs.npy"
        write_reference_logprobs(checkpoint_dir, held_out, logprobs_path, label="test")
        expected = read_expected(tokenizer, checkpoint_dir, vocab_size, held_out.chats)
        return expected, held_out, logprobs_path

    return prove


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[Path, Path], RunDirectory]:
    """Return a function that makes a run whose student and conversations are finished."""

    def make(student_dir: Path, teacher_dir: Path) -> RunDirectory:
        import shutil

        from potstill.chat import chat_template_sha256, tokenizer_sha256

        tokenizer = load_tokenizer(student_dir)
        run = RunDirectory(tmp_path / "run")
        facts: dict[str, Any] = {
            "teacher": {"model": "tiny", "path": str(teacher_dir), "num_parameters": 1000},
            "tokenizer_sha256": tokenizer_sha256(student_dir),
            "chat_template_sha256": chat_template_sha256(tokenizer.chat_template),
        }
        session = run.open_stage("conversations", {})
        write_conversations(session.dir, tokenizer)
        session.finish(facts=facts)
        session = run.open_stage("student", {}, inputs=("conversations",))
        for path in student_dir.iterdir():
            shutil.copy(path, session.dir)
        fidelity = {"kl_nats": 0.5, "top1_agreement": 0.75}
        evaluation = {"split": "test", "untrained": fidelity, "trained": fidelity}
        session.finish(
            facts=facts
            | {
                "num_parameters": 1000,
                "num_layers": 2,
                "method": "full",
                "evaluation": evaluation,
            }
        )
        return run

    return make
