"""Which families vLLM samples on this machine, with the log-probabilities of transformers."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conformance.conftest import run
from tests.fixtures.tiny_checkpoints import NEW_FAMILIES, TINY_FAMILIES, save_tiny_checkpoint
from train.students.checkpoints import load_model

SAMPLE = (sys.executable, "-m", "tests.conformance.vllm_sample")
ROOT = Path(__file__).parents[2]
WIDE_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's attention on a CPU has none of 16 values, which the tiny models have."""
FURTHER = {
    "phi": {"num_key_value_heads": 2},
    # vLLM reads these of LFM2's config.json, transformers does not write them.
    "lfm2": {"conv_dim": 64, "conv_dim_out": 64, "block_dim": 64, "block_ff_dim": 128},
}
EARLIER = ("smollm3", "mistral", "qwen2", "qwen3", "gemma3", "phi", "phi3")
MOST_NATS = 1e-4
TORCHVISION = "vLLM 0.32 needs torchvision, whose wheels break transformers beside a CPU's torch"
NOT_ON_A_CPU = {
    "qwen3.5": TORCHVISION,
    "qwen3.5 with vision": TORCHVISION,
    "lfm2": "vLLM 0.32's log-probabilities differ by up to 1 nat",
    "gemma3n": "vLLM 0.32's log-probabilities differ by up to 0.4 nats",
    "ministral3": "beyond the original context, here 32 tokens, they differ by up to 0.05 nats",
}


def cases():
    """Yield the families, those that vLLM does not sample on a CPU as expected failures."""
    for name in (*EARLIER, *NEW_FAMILIES):
        reason = NOT_ON_A_CPU.get(name)
        marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
        yield pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", cases())
def test_vllm_samples_a_family_with_the_log_probabilities_of_transformers(name, tmp_path):
    import torch

    family = (TINY_FAMILIES | NEW_FAMILIES)[name]
    config = {**family.config, **WIDE_HEADS, **FURTHER.get(name, {})}
    checkpoint = save_tiny_checkpoint(replace(family, config=config), tmp_path / "checkpoint")
    # In a process of its own: vLLM replaces classes of transformers.
    run(*SAMPLE, checkpoint, tmp_path / "out.json", cwd=ROOT)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    model = load_model(checkpoint).float()
    prompt = found["prompt"]
    assert len(found["answers"]) == 2
    for answer in found["answers"]:
        ids_A = torch.tensor(answer["token_ids"])
        with torch.no_grad():
            logits_TV = model(torch.tensor([[*prompt, *answer["token_ids"]]])).logits[0]
        logprobs_AV = torch.log_softmax(logits_TV[len(prompt) - 1 : -1], -1)
        expected_A = logprobs_AV.gather(1, ids_A[:, None])[:, 0].numpy()
        assert len(ids_A)
        assert np.abs(np.array(answer["logprobs"]) - expected_A).max() < MOST_NATS
