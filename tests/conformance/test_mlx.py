"""mlx-lm, which runs models on Macs and here on the CPU, loads an exported student."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import environment, run

REQUIREMENTS = Path(__file__).with_name("requirements-mlx.txt")
SETTINGS = {
    "train": ("train.max_steps=4", "train.batch_size=4", "train.student.num_layers=2"),
    "quantize": ("quantize.types=['F16']", "quantize.teacher_types=[]"),
}
NUM_TOKENS = 12
PROMPT = "What is two and two?"
GREEDY = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
chat = tokenizer.apply_chat_template([{"role": "user", "content": sys.argv[2]}],
                                     add_generation_prompt=True, return_tensors="pt")
found = model.generate(**chat, max_new_tokens=int(sys.argv[3]), do_sample=False)
print(tokenizer.decode(found[0, chat["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@pytest.fixture(scope="module")
def mlx() -> Path:
    """The directory of mlx-lm's commands."""
    return environment(REQUIREMENTS).parent


def test_an_exported_student_is_converted_and_says_what_the_checkpoint_says(
    mlx, tiny_run, tmp_path
):
    for stage, settings in SETTINGS.items():
        run(
            sys.executable, "-m", "potstill", stage, tiny_run.root,
            *(f"--set={setting}" for setting in settings),
        )  # fmt: skip
    exported = tmp_path / "student"
    printed = run(
        sys.executable, "-m", "potstill", "export", tiny_run.root, "--for", "mlx", "--to", exported
    )
    (convert,) = (line for line in printed.splitlines() if "mlx_lm.convert" in line)
    asked = ("--prompt", PROMPT, "--max-tokens", str(NUM_TOKENS), "--temp", "0")
    answer = run(mlx / "mlx_lm.generate", "--model", exported, *asked, "--verbose", "False")
    expected = run(sys.executable, "-c", GREEDY, exported, PROMPT, str(NUM_TOKENS))
    assert answer.strip().splitlines()[-1].strip() == expected.strip().splitlines()[-1].strip()
    command, *arguments = shlex.split(convert)
    run(mlx / command, *arguments)
    small = tmp_path / "student-4bit"
    assert run(mlx / "mlx_lm.generate", "--model", small, *asked).count("Generation:") == 1
