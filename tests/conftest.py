"""What tests of several rooms share: the real teacher, a tiny one, and a run of the tiny one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from generate.config import TeacherConfig
from generate.embedded import embedded_checkpoint
from potstill.chat import chat_template_sha256, render_prompt, tokenizer_sha256
from potstill.rundir import RunDirectory
from potstill.schema import Message, Prompt
from potstill.tables import CONVERSATION_SCHEMA, prompt_to_row, write_rows

NUM_LAYERS, WIDTH = 4, 32
SPLITS = {"train": 24, "validation": 4, "test": 6}
TOP_LOGPROBS = 16
MAX_TOKENS = 20


@pytest.fixture(scope="session")
def teacher_dir() -> Path:
    """The embedded teacher's checkpoint, SmolLM2-135M-Instruct."""
    return embedded_checkpoint(TeacherConfig().cache_dir.expanduser())


@pytest.fixture(scope="session")
def tiny_teacher_dir(teacher_dir, tmp_path_factory) -> Path:
    """A random Llama of four layers with the real teacher's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    directory = tmp_path_factory.mktemp("tiny") / "teacher"
    LlamaForCausalLM(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(teacher_dir / name, directory / name)
    return directory


@pytest.fixture(scope="session")
def tiny_conversations(tiny_teacher_dir) -> list[dict]:
    """Conversations that the tiny teacher really sampled at temperature 1, as table rows."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher_dir)
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    rows = []
    for index, split in enumerate(splits):
        content = "Tell me about number " + " and ".join(str(index + n) for n in range(index % 5))
        prompt = Prompt(
            prompt_id=f"prompt{index}",
            split=split,
            messages=(Message(role="user", content=content),),
            source="a test",
        )
        prompt_ids = render_prompt(tokenizer, prompt.messages)
        rows.append(
            prompt_to_row(prompt) | _sampled(model, prompt_ids, 4 + index % (MAX_TOKENS - 4))
        )
    return rows


def _sampled(model, prompt_ids: list[int], num_tokens: int) -> dict:
    import torch

    ids = list(prompt_ids)
    with torch.no_grad():
        for _ in range(num_tokens):
            probabilities = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
            ids.append(int(torch.multinomial(probabilities, 1)))
        logprobs_TV = model(torch.tensor([ids])).logits[0, len(prompt_ids) - 1 : -1]
        logprobs_TV = logprobs_TV.log_softmax(-1)
    completion = ids[len(prompt_ids) :]
    top = logprobs_TV.topk(TOP_LOGPROBS)
    return {
        "completion": "",
        "prompt_token_ids": list(prompt_ids),
        "completion_token_ids": completion,
        "sampled_logprobs": logprobs_TV.gather(-1, torch.tensor(completion)[:, None])[
            :, 0
        ].tolist(),
        "num_top_logprobs": [TOP_LOGPROBS] * num_tokens,
        "top_token_ids": top.indices.flatten().tolist(),
        "top_logprobs": top.values.flatten().tolist(),
        "finish_reason": "length",
        "seed": 0,
    }


@pytest.fixture
def tiny_run(tmp_path, tiny_teacher_dir, tiny_conversations) -> RunDirectory:
    """A run whose conversations the tiny teacher made."""
    run_directory = RunDirectory(tmp_path / "tiny_run")
    session = run_directory.open_stage("conversations", {})
    write_rows(session.dir / "part-00000.parquet", CONVERSATION_SCHEMA, tiny_conversations)
    template = (tiny_teacher_dir / "chat_template.jinja").read_text()
    session.finish(
        facts={
            "teacher": {"model": "tiny", "path": str(tiny_teacher_dir), "num_parameters": 1},
            "tokenizer_sha256": tokenizer_sha256(tiny_teacher_dir),
            "chat_template_sha256": chat_template_sha256(template),
            "vocab_size": 49_152,
            "logprobs_mode": "raw_logprobs",
            "top_logprobs": TOP_LOGPROBS,
            "generation_temperature": 1.0,
            "generation_top_p": 1.0,
            "num_conversations": SPLITS,
        }
    )
    return run_directory
