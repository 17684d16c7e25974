"""llama.cpp in a process of its own: `python -m quantize.llama.worker`.

In: one request as JSON on stdin. Out: one answer as JSON on stdout; llama.cpp's error log and the
reason of a failure on stderr, with a non-zero exit code. A broken file may abort this process and
takes nobody else along. Knows nothing of what an answer should be.

Shape legend: T predicted tokens of all sequences in order, V vocabulary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from quantize.llama.gguf_model import Context, GgufModel, exact_params
from quantize.llama.quantize import quantize_file
from quantize.llama.speed import measure_speed

ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR (llama.cpp 0c1e57098, ggml.h); warnings are 3."""

COMPARED = np.dtype(
    [("kl_nats", "<f8"), ("logprob", "<f8"), ("reference_logprob", "<f8"), ("same_top", "?")]
)
"""What is measured on each token: KL(reference‖file), the log-probabilities that both give the
token that follows, and whether the same token is most probable for both."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log_errors(level: int, text: bytes, _user_data: object) -> None:
    if level == ERROR_LEVEL:
        sys.stderr.write(text.decode(errors="replace"))


def quantize(request: dict[str, Any]) -> dict[str, Any]:
    """Write a file from another, see `quantize_file`."""
    paths = {
        name: request[name] and Path(request[name]) for name in ("source", "target", "imatrix_path")
    }
    quantize_file(**(request | paths))
    return {}


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Measure a file's speed, describe it, tokenize, continue greedily and compare distributions.

    `texts` and rendered `chats` are tokenized, `encoded` ids are put into text; each of `prompts`
    is continued by `num_greedy` tokens. `logprobs_path` holds the reference [T, V] as float32, one
    row per position from `start` on of each sequence, in order; `compared_path` gets an array [T]
    of COMPARED, unless the file's vocabulary has another size.
    """
    sequences, num_threads = request["sequences"], request["num_threads"]
    context_tokens = max(len(sequence["token_ids"]) for sequence in sequences)
    context_tokens += request["num_greedy"]
    with GgufModel(Path(request["path"])) as model:
        speed = measure_speed(model, num_threads)  # first: nothing else is in its memory yet
        answer = {**speed, **model.describe()}
        answer["chat_token_ids"] = [model.tokenize(model.render(chat)) for chat in request["chats"]]
        answer["text_token_ids"] = [model.tokenize(text) for text in request["texts"]]
        answer["decoded"] = [model.detokenize(ids) for ids in request["encoded"]]
        reference_TV = np.load(request["logprobs_path"], mmap_mode="r")
        if reference_TV.shape[1] != model.vocab_size:
            return answer
        with Context(model, exact_params(num_threads, context_tokens)) as context:
            answer["greedy"] = [
                context.greedy(prompt, request["num_greedy"]) for prompt in request["prompts"]
            ]
            np.save(request["compared_path"], _compare(context, sequences, reference_TV))
    return answer


def _compare(
    context: Context, sequences: list[dict[str, Any]], reference_TV: NDArray[np.float32]
) -> NDArray[Any]:
    """Return an array [T] of COMPARED.

    KL is summed over V in float64; rounding of the reference can bring it below zero by some 1e-9
    nats, which is reported as zero.
    """
    compared_T = np.empty(len(reference_TV), COMPARED)
    row = 0
    for sequence in sequences:
        logprobs = context.logprobs(sequence["token_ids"], sequence["start"])
        for target, logq_V in zip(sequence["target_ids"], logprobs, strict=True):
            logp_V = reference_TV[row].astype(np.float64)
            compared_T[row] = (
                np.maximum(np.dot(np.exp(logp_V), logp_V - logq_V), 0.0),
                logq_V[target],
                logp_V[target],
                logp_V.argmax() == logq_V.argmax(),
            )
            row += 1
    return compared_T


def main() -> None:
    """Answer one request."""
    llama_cpp.llama_log_set(_log_errors, None)
    tasks = {"quantize": quantize, "inspect": inspect}
    request = json.load(sys.stdin)
    try:
        answer = tasks[request.pop("task")](request)
    except RuntimeError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
