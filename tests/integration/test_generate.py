"""The verb `potstill generate` in several processes, with a toy teacher instead of vLLM."""

import json
import os
import subprocess
import sys
from pathlib import Path

from potstill.rundir import RunDirectory
from potstill.tables import conversation_paths, read_conversations

TOY_REPLICA = Path(__file__).parents[1] / "fixtures" / "toy_replica.py"
QUESTIONS = [f"What is {number} plus seven?" for number in range(9)]


def test_shards_make_a_run_together(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in QUESTIONS))
    run_directory = RunDirectory(tmp_path / "run")
    settings = {
        "prompts.path": f'"{prompts}"',
        "curation.prompt_filters": "[]",
        "curation.conversation_filters": "[]",
        "engine.conversations_per_part": 2,
    }

    def generate(*options: str) -> None:
        flags = [f"--set=generate.{key}={value}" for key, value in settings.items()]
        command = [sys.executable, TOY_REPLICA, "-m", "potstill", "generate", run_directory.root]
        environment = os.environ | {"TOY_DIR": str(tmp_path)}
        subprocess.run([*command, *options, *flags], env=environment, check=True)

    generate("--shard=2/2")
    assert run_directory.is_finished("prompts")
    assert not run_directory.is_finished("samples")
    parts = sorted(path.name for path in run_directory.partial_dir("samples").glob("part-*"))
    assert parts == ["part-00001.parquet", "part-00003.parquet"]
    generate("--shard=1/2")
    directory = run_directory.stage_dir("conversations")
    asked = [
        one.given[-1].content
        for split in ("train", "validation", "test")
        for path in conversation_paths(directory, split)
        for one in read_conversations(path)
    ]
    assert sorted(asked) == sorted(QUESTIONS)
