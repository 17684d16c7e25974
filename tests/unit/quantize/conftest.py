"""Tiny random checkpoints with a tiny real tokenizer, and runs made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potstill.manifest import Manifest
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Message
from quantize.conversion.checkpoint import Checkpoint
from quantize.verification.expected import Expected, read_expected
from quantize.verification.hostile_texts import HOSTILE_TEXTS
from quantize.verification.reference import HeldOut, read_held_out, write_reference_logprobs

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


@pytest.fixture
def talk(make_conversation: Callable[..., Conversation]) -> Callable[..., list[Conversation]]:
    """Return a function that makes conversations in a tokenizer's ids.

    The first is of split train and must not be used, the last has two answers.
    """

    def make(tokenizer: Any, num_held_out: int = 3) -> list[Conversation]:
        from potstill.chat import render_prompt, tokenise

        made = []
        for number in range(num_held_out + 1):
            given = (Message(role="user", content=f"What is {number} plus {number}?"),)
            answer = tokenise(tokenizer, f"It is {number + number}, as ever: café № {number}.")
            answer.append(tokenizer.eos_token_id)
            ids = render_prompt(tokenizer, given)
            turns = [(len(ids), len(answer))]
            ids += answer
            if number == num_held_out:
                ids += tokenise(
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
                    licence="CC0-1.0",
                )
            )
        return made

    return make


@pytest.fixture
def proof(
    tmp_path: Path,
    talk: Callable[..., list[Conversation]],
    write_conversations: Callable[..., None],
) -> Callable[[Path], tuple[Expected, HeldOut, Path]]:
    """Return a function that yields what a checkpoint's files must show."""

    def prove(checkpoint_dir: Path) -> tuple[Expected, HeldOut, Path]:
        tokenizer = load_tokenizer(checkpoint_dir)
        conversations_dir = tmp_path / "held-out"
        conversations_dir.mkdir(exist_ok=True)
        write_conversations(conversations_dir, talk(tokenizer))
        held_out = read_held_out(conversations_dir, 60)
        vocab_size = Checkpoint(checkpoint_dir).config.vocab_size
        logprobs_path = tmp_path / "logprobs.npy"
        write_reference_logprobs(checkpoint_dir, held_out, logprobs_path, label="test")
        expected = read_expected(tokenizer, checkpoint_dir, vocab_size, held_out.chats)
        return expected, held_out, logprobs_path

    return prove


@pytest.fixture
def make_run(
    tmp_path: Path,
    talk: Callable[..., list[Conversation]],
    finish_conversations: Callable[..., Manifest],
) -> Callable[[Path, Path], RunDirectory]:
    """Return a function that makes a run whose student and conversations are finished."""

    def make(student_dir: Path, teacher_dir: Path, **more_facts: object) -> RunDirectory:
        import shutil

        run = RunDirectory(tmp_path / "run")
        facts = finish_conversations(run, teacher_dir, talk(load_tokenizer(student_dir))).facts
        session = run.open_stage("student", {}, inputs=("conversations",))
        for path in student_dir.iterdir():
            shutil.copy(path, session.dir)
        fidelity = {"kl_nats": 0.5, "top1_agreement": 0.75}
        pinned = ("teacher", "tokenizer_sha256", "chat_template_sha256")
        session.finish(
            facts={name: facts[name] for name in pinned}
            | {
                "num_parameters": 1000,
                "num_layers": 2,
                "method": "full",
                "evaluation": {"split": "test", "untrained": fidelity, "trained": fidelity},
            }
            | more_facts
        )
        return run

    return make
