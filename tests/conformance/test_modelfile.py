"""The Modelfile's template in Go's own language, which Ollama renders chats in."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from potstill.checkpoints import find_checkpoint
from potstill.models.named import SMOLLM2_135M
from quantize.loading import load_tokenizer
from quantize.modelfile import write_modelfile

GO = shutil.which("go")
pytestmark = pytest.mark.skipif(GO is None, reason="Go is not installed (Debian: golang-go)")
USER = {"role": "user", "content": "Why is 1 < 2 & \"{{ .x }}\" <|im_end|> 'so'?\n"}
ASSISTANT = {"role": "assistant", "content": "Because."}
CHATS = ([USER], [{"role": "system", "content": " Rhyme. "}, USER], [USER, ASSISTANT, USER])


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Return a function that renders a template with Go."""
    program = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).with_name("render_template.go")
    cache = str(program.parent / "cache")
    environment = {"PATH": f"{Path(str(GO)).parent}:/usr/bin:/bin", "GOCACHE": cache, "GOFLAGS": ""}
    subprocess.run([str(GO), "build", "-o", program, source], check=True, env=environment)

    def run(template, messages):
        asked = json.dumps({"template": template, "messages": messages})
        return subprocess.run(
            [program], input=asked, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    return run


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_chats_are_rendered_as_by_the_checkpoints_tokenizer(render, chat):
    tokenizer = load_tokenizer(find_checkpoint(SMOLLM2_135M.name))
    modelfile = write_modelfile("student.gguf", tokenizer, [tokenizer.eos_token], [])
    parts = dict(
        re.findall(r'^(TEMPLATE|SYSTEM) """(.*?)"""$', modelfile, re.DOTALL | re.MULTILINE)
    )
    # Ollama puts SYSTEM first where a chat has no system message.
    system = [{"role": "system", "content": parts["SYSTEM"]}] * (chat[0]["role"] != "system")
    wanted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert render(parts["TEMPLATE"], [*system, *chat]) == wanted
