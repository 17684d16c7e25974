"""llama.cpp in a process of its own: `python -m quantize.llama.worker`.

In: one request as JSON on stdin. Out: one answer as JSON on stdout; llama.cpp's error log and the
reason of a failure on stderr, with a non-zero exit code. A broken file may abort this process and
takes nobody else along. Knows nothing of what an answer should be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from quantize.llama.gguf_model import GgufModel, quantise_file

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR (llama.cpp 0c1e57098, ggml.h); warnings are 3."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log_errors(level: int, text: bytes, _user_data: object) -> None:
    if level == ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))


def quantise(request: dict[str, Any]) -> dict[str, Any]:
    """Write `target` from `source` in `gguf_type`."""
    quantise_file(
        Path(request["source"]),
        Path(request["target"]),
        request["gguf_type"],
        request["num_threads"],
    )
    return {}


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Describe a file, tokenise `texts` and rendered `chats`, and compare log-probabilities.

    `logprobs_path` holds the reference [T, V] as float32, one row per position from `start` on of
    each sequence, in order. KL is summed over V in float64; rounding of the reference can bring it
    below zero by some 1e-9 nats, which is reported as zero.
    """
    sequences = request["sequences"]
    context_tokens = max(len(sequence["token_ids"]) for sequence in sequences)
    with GgufModel(Path(request["path"]), request["num_threads"], context_tokens) as model:
        return {
            **model.describe(),
            "chat_token_ids": [model.tokenize(model.render(chat)) for chat in request["chats"]],
            "text_token_ids": [model.tokenize(text) for text in request["texts"]],
            **_compare(model, sequences, np.load(request["logprobs_path"], mmap_mode="r")),
        }


def _compare(
    model: GgufModel, sequences: list[dict[str, Any]], reference_TV: np.ndarray[Any, Any]
) -> dict[str, float]:
    if reference_TV.shape[1] != model.vocab_size:
        return {"kl_nats": float("inf"), "top1_agreement": 0.0}
    kl, agreements, row = 0.0, 0, 0
    for sequence in sequences:
        for logq_V in model.logprobs(sequence["token_ids"], sequence["start"]):
            logp_V = reference_TV[row].astype(np.float64)
            kl += float((np.exp(logp_V) * (logp_V - logq_V)).sum())
            agreements += int(logp_V.argmax() == logq_V.argmax())
            row += 1
    return {"kl_nats": max(kl / row, 0.0), "top1_agreement": agreements / row}


def main() -> None:
    """Answer one request."""
    llama_cpp.llama_log_set(_log_errors, None)
    tasks = {"quantise": quantise, "inspect": inspect}
    request = json.load(sys.stdin)
    try:
        answer = tasks[request.pop("task")](request)
    except RuntimeError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
