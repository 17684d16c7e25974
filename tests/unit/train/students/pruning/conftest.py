"""Tiny random models of several families, and texts for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB_SIZE = 50


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Return a function that makes a tiny model of a family, all its weights random."""

    def make(model_type: str, **changes: Any) -> Any:
        torch.manual_seed(0)
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.5,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = AutoConfig.for_model(model_type, **(sizes | changes))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return make


@pytest.fixture
def conversations() -> list[torch.Tensor]:
    """Token ids [L] of a long and a short text."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCAB_SIZE, (length,), generator=generator) for length in (12, 7)]


@pytest.fixture
def reloaded(tmp_path: Path) -> Callable[[Any], Any]:
    """Return a function that saves a model and loads it again."""

    def reload(model: Any) -> Any:
        model.save_pretrained(tmp_path / "model")
        return AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()

    return reload
