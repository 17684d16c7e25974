"""Common parts of the benchmarks in this folder: prompts, a run with them, the loaded teacher."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from generate.config import GenerateConfig
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import PROMPTS_NAME, make_prompts
from generate.teachers.cpu_sampling import install
from generate.teachers.vllm_engine import VllmTeacher
from potstill.chat import render_prompt
from potstill.rundir import RunDirectory
from potstill.tables import PROMPT_SCHEMA, prompt_from_row, read_rows

SUBJECTS = (
    *("rivers", "bread", "clocks", "winter", "chess", "paper", "bees"),
    *("money", "sleep", "bridges", "maps", "rain", "salt", "stars"),
)
QUESTIONS = (
    "Why do people care about {}?",
    "Write three sentences about {} for a child.",
    "What should I know about {} before I travel?",
    "Give me a short list of facts about {}.",
    "How did {} change in the last century?",
)


def write_prompts(path: Path, count: int) -> None:
    """Write `count` different questions as a file of prompts, the same every time."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            question = draw.choice(QUESTIONS).format(draw.choice(SUBJECTS))
            codes = " ".join(f"{draw.getrandbits(40):x}" for _ in range(4))
            file.write(json.dumps({"prompt": f"{question} Codes: {codes}"}) + "\n")


def configuration(prompts: Path, **tables: Any) -> GenerateConfig:  # noqa: ANN401  (settings)
    """Return a configuration that asks all prompts of a file."""
    curation = {"prompt_filters": [], "pii": "keep"}
    return GenerateConfig.model_validate(
        {"prompts": {"path": str(prompts), "num_prompts": 10**9}, "curation": curation} | tables
    )


def prepare(config: GenerateConfig, root: Path) -> tuple[LazyTeacher, RunDirectory]:
    """Return the loaded teacher, and a run whose prompts are made."""
    teacher, run_directory = LazyTeacher(config), RunDirectory(root)
    make_prompts(config, teacher, run_directory)
    teacher.load()
    return teacher, run_directory


def rendered(teacher: LazyTeacher, run_directory: RunDirectory) -> list[list[int]]:
    """Return the token ids of a run's prompts."""
    path = run_directory.stage_dir("prompts") / PROMPTS_NAME
    prompts = map(prompt_from_row, read_rows(path, PROMPT_SCHEMA))
    return [render_prompt(teacher.checkpoint.tokenizer, one.messages) for one in prompts]


@contextmanager
def vllms_own_sampler(teacher: VllmTeacher) -> Iterator[None]:
    """Undo `fast_cpu_sampling` for a while, to compare both; on a GPU there is nothing to undo."""
    (worker,) = teacher._llm.collective_rpc(lambda worker: worker)
    sampler = worker.model_runner.sampler
    if "gather_logprobs" not in vars(sampler):
        yield
        return
    sampler.topk_topp_sampler.forward = sampler.topk_topp_sampler.forward_cpu
    del sampler.gather_logprobs
    try:
        yield
    finally:
        install(worker)


def resident_bytes() -> int:
    """Return the memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
