"""Whether kills change anything: `python benchmarks/generate/kills.py`.

The whole generate stage for 2,000 prompts, with a teacher that makes its answers up from the
requests' seeds, is killed (SIGKILL) at twenty random moments and then left to end. The finished
conversations must be byte for byte those of an undisturbed run, each prompt answered once.

With the real teacher the same holds for which conversations there are and for their seeds, but not
for their text: in vLLM a token may depend on what else is in the batch.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _fake_teacher import FakeTeacher
from _workload import configuration, write_prompts

from generate import stage
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import PROMPTS_NAME
from potstill.manifest import verify_manifest
from potstill.rundir import RunDirectory
from potstill.tables import PROMPT_SCHEMA, conversation_paths, read_conversations, read_rows

NUM_PROMPTS, NUM_KILLS = 2_000, 20
NUM_TOKENS, TOP_LOGPROBS = 24, 32
SECONDS_EACH = 0.04
MOMENTS = (2.0, 14.0)
"""Range of seconds from a process's start to its kill; loading takes some of them."""


def work(root: Path, prompts: Path, seconds_each: float) -> None:
    """Run the stage."""
    config = configuration(
        prompts,
        curation={},
        sampling={"max_tokens": NUM_TOKENS, "top_logprobs": TOP_LOGPROBS},
        engine={"conversations_per_part": 16},
    )

    def load(teacher: LazyTeacher) -> FakeTeacher:
        tokenizer = teacher.checkpoint.tokenizer
        return FakeTeacher(tokenizer, NUM_TOKENS, max_num_seqs=16, seconds_each=seconds_each)

    LazyTeacher._load = load  # type: ignore[method-assign]
    stage.run(config, RunDirectory(root))


def start(root: Path, prompts: Path, seconds_each: float) -> subprocess.Popen[bytes]:
    """Begin the stage in a process of its own."""
    command = [sys.executable, __file__, str(root), str(prompts), str(seconds_each)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def where(root: Path) -> str:
    """Return the stage that a run is in."""
    run = RunDirectory(root)
    for name in ("conversations", "samples", "prompts"):
        if run.is_finished(name) or run.partial_dir(name).is_dir():
            return name
    return "loading"


def main() -> None:
    """Kill, let end, compare and print."""
    if len(sys.argv) > 1:
        work(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
        return
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        prompts, killed, whole = (Path(name) / one for one in ("p.jsonl", "killed", "whole"))
        write_prompts(prompts, NUM_PROMPTS)
        kills: Counter[str] = Counter()
        while kills.total() < NUM_KILLS:
            process = start(killed, prompts, SECONDS_EACH)
            time.sleep(draw.uniform(*MOMENTS))
            if process.poll() is not None:
                break
            kills[where(killed)] += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
        for root in (killed, whole):
            if start(root, prompts, 0.0).wait() != 0:
                sys.exit("the stage failed")
        ends = [
            verify_manifest(RunDirectory(root).stage_dir("conversations")).outputs
            for root in (killed, whole)
        ]
        run = RunDirectory(killed)
        asked = [
            row["prompt_id"]
            for row in read_rows(run.stage_dir("prompts") / PROMPTS_NAME, PROMPT_SCHEMA)
        ]
        answered = [
            one.prompt.prompt_id
            for split in ("train", "validation", "test")
            for path in conversation_paths(run.stage_dir("conversations"), split)
            for one in read_conversations(path)
        ]
    print(f"{kills.total()} kills, by the stage they met: {dict(kills)}")
    print(f"{len(answered)} conversations of {len(asked)} prompts, each once: "
          f"{sorted(asked) == sorted(answered)}")  # fmt: skip
    print(f"all files byte for byte those of an undisturbed run: {ends[0] == ends[1]}")
    if ends[0] != ends[1] or kills.total() < NUM_KILLS:
        sys.exit("kills changed the result, or there was no time for them")


if __name__ == "__main__":
    main()
