"""Our files in llama.cpp's own server, of a build that is not ours: it must render and stop.

All its information on templates and ends of turns is from the file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest

from potstill.checkpoints import find_checkpoint
from potstill.models.named import SMOLLM2_135M
from potstill.processes import end_with_parent
from quantize.conversion.convert import write_base_gguf
from quantize.loading import load_tokenizer
from quantize.quantization.quantize import quantize

SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 1024, 1, 0
params.no_extra_bufts = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
KNOWN_END, UNKNOWN_END = "<|im_end|>", "<|over|>"
"""llama.cpp recognizes the first one as an end by its text, the other one only by a key of the
file."""
SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
QUESTION = {"role": "user", "content": "Hi!"}
ANSWER = "Hello! How can I assist you today?"
"""Each of its tokens leads by at least 0.5 nats, so that all builds of llama.cpp write it."""
CHATS = (
    [QUESTION],
    [SYSTEM, QUESTION],
    [SYSTEM, QUESTION, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": ""}],
    [{"role": "user", "content": " \n naïve 🏳️‍🌈 <|im_start|> {{ 7*7 }}\t"}],
)


@dataclass(frozen=True)
class Served:
    """A file that llama.cpp's server has loaded, and the tokenizer of its checkpoint."""

    url: str
    tokenizer: Any

    def ask(self, route: str, **body: Any) -> dict[str, Any]:
        request = Request(self.url + route, json.dumps(body).encode())
        with urlopen(request) as response:
            return dict(json.load(response))


@pytest.fixture(scope="module", params=[KNOWN_END, UNKNOWN_END])
def served(request, python, tmp_path_factory):
    """SmolLM2, whose turns end with a token of this text."""
    root = tmp_path_factory.mktemp("file")
    directory = root / "checkpoint"
    shutil.copytree(find_checkpoint(SMOLLM2_135M.name), directory)
    for path in (*directory.glob("*.json"), directory / "chat_template.jinja"):
        text = path.read_text(encoding="utf-8").replace(KNOWN_END, request.param)
        path.write_text(text, encoding="utf-8")
    base, path = root / "F16.gguf", root / "Q8_0.gguf"
    write_base_gguf(directory, base, "F16", "SmolLM2")
    quantize(base, path, "Q8_0", 1)
    with subprocess.Popen(
        [python, "-c", SERVER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=end_with_parent(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Served(process.stdout.readline().strip(), load_tokenizer(directory))
        process.stdin.close()


@pytest.mark.parametrize("chat", CHATS, ids=range(len(CHATS)))
def test_chats_are_rendered_as_by_the_checkpoints_tokenizer(served, chat):
    wanted = served.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert served.ask("/apply-template", messages=chat)["prompt"] == wanted
    ids = served.tokenizer(wanted, add_special_tokens=False)["input_ids"]
    assert served.ask("/tokenize", content=wanted, parse_special=True)["tokens"] == ids


def test_an_answer_ends_by_itself(served):
    answer = served.ask("/v1/chat/completions", messages=[QUESTION], temperature=0, max_tokens=40)
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", ANSWER)
    ids = served.tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True)["input_ids"]
    assert answer["usage"]["prompt_tokens"] == len(ids)
