"""Whether memory grows with the number of prompts: `python benchmarks/generate/memory.py`.

Peak memory of the stages that let the teacher answer and that filter, for 1,000 and for 100,000
prompts, each in a process of its own, with a teacher that makes up its answers. The goal is a ratio
of 1. The stage that makes the prompts compares all with all and holds them; what it takes for each
is printed beside it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _fake_teacher import FakeTeacher
from _workload import configuration, resident_bytes, write_prompts

from generate.dataset.stage import make_dataset
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.stage import finish_samples, make_parts, open_samples
from potstill.rundir import RunDirectory

FEW, MANY = 1_000, 100_000
NUM_TOKENS, TOP_LOGPROBS = 24, 32


def peak_bytes() -> int:
    """Return the most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work(root: Path, what: str) -> int:
    """Do a part of the job; return by how much memory grew at most."""
    config = configuration(
        root / "prompts.jsonl",
        curation={},
        sampling={"max_tokens": NUM_TOKENS, "top_logprobs": TOP_LOGPROBS},
    )
    teacher, run_directory = LazyTeacher(config), RunDirectory(root / "run")
    teacher._loaded = FakeTeacher(teacher.checkpoint.tokenizer, NUM_TOKENS)
    before = resident_bytes()
    if what == "prompts":
        make_prompts(config, teacher, run_directory)
    else:
        session = open_samples(config, run_directory)
        make_parts(config, teacher, run_directory, session)
        finish_samples(config, teacher, session, run_directory)
        make_dataset(config, teacher, run_directory)
    return peak_bytes() - before


def measure(count: int) -> dict[str, int]:
    """Run all stages for so many prompts, each part in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        write_prompts(Path(name) / "prompts.jsonl", count)
        found = {}
        for what in ("prompts", "conversations"):
            command = [sys.executable, __file__, name, what]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[what] = int(output.split()[-1])
        return found


def main() -> None:
    """Measure and print."""
    if len(sys.argv) > 1:
        print(work(Path(sys.argv[1]), sys.argv[2]))
        return
    few, many = measure(FEW), measure(MANY)
    ratio = many["conversations"] / few["conversations"]
    print(
        f"memory to answer and filter: {few['conversations'] / 1e6:.0f} MB for {FEW:,} prompts, "
        f"{many['conversations'] / 1e6:.0f} MB for {MANY:,}: ratio {ratio:.2f}"
    )
    each = (many["prompts"] - few["prompts"]) / (MANY - FEW)
    print(f"memory to make the prompts: {each / 1e3:.1f} kB for each further prompt")


if __name__ == "__main__":
    main()
