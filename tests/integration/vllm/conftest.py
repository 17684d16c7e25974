"""SmolLM2 in vLLM, loaded once in the tests' process and once in a server.

Both are float32, so that what should be equal is so to the rounding of float32.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from generate.teachers.config import EngineConfig
from generate.teachers.vllm_engine import EngineSpec, VllmTeacher
from potstill.processes import free_port

TOP_LOGPROBS = 40
CONTEXT_TOKENS, KV_CACHE_BYTES = 512, 1 << 28
READY_SECONDS = 600
# `vllm serve` asks for the version of a package named vllm, which the CPU build is not: the same
# server by its module.
VLLM_SERVE = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")


@pytest.fixture(scope="session")
def adapted_model(teacher_dir) -> Any:
    """The teacher in transformers with a random LoRA adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    return model


@pytest.fixture(scope="session")
def adapted_teacher(teacher_dir, adapted_model, tmp_path_factory) -> Iterator[VllmTeacher]:
    """The engine of this process, with the adapter on top."""
    adapter_dir = tmp_path_factory.mktemp("lora") / "adapter"
    adapted_model.save_pretrained(adapter_dir)
    spec = EngineSpec(
        model=str(teacher_dir),
        dtype="float32",
        max_model_len=CONTEXT_TOKENS,
        max_logprobs=TOP_LOGPROBS,
        seed=0,
        lora_path=adapter_dir,
    )
    loaded = VllmTeacher(spec, EngineConfig(max_num_seqs=8, kv_cache_bytes=KV_CACHE_BYTES))
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def teacher(adapted_teacher) -> VllmTeacher:
    """The same engine without the adapter."""
    plain = copy.copy(adapted_teacher)
    plain._lora = None
    return plain


@pytest.fixture(scope="session")
def vllm_url(teacher_dir, tmp_path_factory) -> Iterator[str]:
    """The base URL of vLLM's own server."""
    port = free_port()
    options = {
        "model": teacher_dir,
        "served-model-name": "teacher",
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": CONTEXT_TOKENS,
        "max-num-seqs": 4,
        "max-logprobs": TOP_LOGPROBS,
        "logprobs-mode": "raw_logprobs",
        "kv-cache-memory-bytes": KV_CACHE_BYTES,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [*VLLM_SERVE, *flags, "--enforce-eager", "--no-enable-chunked-prefill"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser=hermes"]
    with running(command, f"http://127.0.0.1:{port}/health", tmp_path_factory.mktemp("vllm")):
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def running(command: list[str], ready_url: str, directory: Path) -> Iterator[None]:
    """Start a server, wait until it answers, and end it afterwards."""
    log_path = directory / "log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"VLLM_NO_USAGE_STATS": "1"}
        )
    try:
        wait_until_ready(process, ready_url, log_path)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen, url: str, log_path: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log_path.read_text())
