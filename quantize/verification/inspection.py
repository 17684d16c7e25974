"""A GGUF file in llama.cpp: speed, vocabulary, token ids, greedy text, distributions.

This runs in a child process, which a broken file may abort.

Shape legend: T predicted tokens of all sequences in order, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from potstill.errors import BackendError
from potstill.llama.context import Context, log_softmax, measuring_params
from potstill.llama.model import LlamaModel
from potstill.templates import compile_template, render_template
from potstill.tools.rendering import template_input
from potstill.workers import Handler, json_handler
from quantize.verification.speed import measure_speed

COMPARED = np.dtype(
    [("kl_nats", "<f8"), ("logprob", "<f8"), ("reference_logprob", "<f8"), ("same_top", "?")]
)
"""The measurements on each token: KL(reference‖file), the log-probabilities that both give the
token that follows, and whether both have the same most probable token."""


def service() -> Handler:
    """Return the handler of requests to inspect a file, for `potstill.workers`."""
    return json_handler(inspect)


def inspect(request: dict[str, Any]) -> dict[str, Any]:
    """Measure a file's speed, describe it, tokenize, continue greedily and compare distributions.

    `texts` and rendered `chats` are tokenized, `encoded` ids are detokenized; each of `prompts` is
    continued by `num_greedy` tokens. `logprobs_path` holds the reference [T, V] as float32, one row
    per position from `start` on of each sequence, in order; `compared_path` gets an array [T] of
    COMPARED, unless the file's vocabulary has another size. `adapter_path` is None or an adapter.

    Raises:
        ArtifactError: The file cannot be loaded.
        BackendError: It cannot be evaluated, or its chat template cannot be rendered.
    """
    sequences, num_threads = request["sequences"], request["num_threads"]
    context_tokens = max(len(sequence["token_ids"]) for sequence in sequences)
    context_tokens += request["num_greedy"]
    with LlamaModel(Path(request["path"]), for_measurement=True) as base:
        adapter_path = request["adapter_path"]
        model = base.adapted(Path(adapter_path)) if adapter_path else base
        speed = measure_speed(model, num_threads)  # first: nothing else is in its memory yet
        answer = speed | _describe(model)
        answer["chat_token_ids"] = [
            model.tokenize(_render(model, chat), parse_special=True) for chat in request["chats"]
        ]
        answer["text_token_ids"] = [
            model.tokenize(text, parse_special=True) for text in request["texts"]
        ]
        answer["decoded"] = [model.detokenize(ids) for ids in request["encoded"]]
        reference_TV = np.load(request["logprobs_path"], mmap_mode="r")
        if reference_TV.shape[1] != model.vocab_size:
            return answer
        with Context(model, measuring_params(context_tokens, num_threads)) as context:
            answer["greedy"] = [
                context.greedy(prompt, request["num_greedy"]) for prompt in request["prompts"]
            ]
            np.save(request["compared_path"], _compare(context, sequences, reference_TV))
    return answer


def _describe(model: LlamaModel) -> dict[str, Any]:
    """Return sizes, special token ids (-1 where there is none) and the chat template."""
    return {
        "num_parameters": llama_cpp.llama_model_n_params(model.pointer),
        "tensor_bytes": llama_cpp.llama_model_size(model.pointer),
        "vocab_size": model.vocab_size,
        "eos": llama_cpp.llama_vocab_eos(model.vocab),
        "eog": model.end_tokens,
        "adds_bos": model.adds_bos,
        "chat_template": model.chat_template,
    }


def _render(model: LlamaModel, messages: Sequence[dict[str, str]]) -> str:
    """Render a chat prompt with the file's own template, up to the assistant's turn."""
    source = model.chat_template or ""
    try:
        chat, _ = template_input(source, messages)
        return render_template(compile_template(source), chat, model.named_tokens)
    except TemplateError as error:
        raise BackendError(
            "the file's chat template cannot be rendered", where=model.path, found=error
        ) from error


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
        for target, logits_V in zip(sequence["target_ids"], _rows(context, sequence), strict=True):
            logq_V, logp_V = log_softmax(logits_V), reference_TV[row].astype(np.float64)
            compared_T[row] = (
                np.maximum(np.dot(np.exp(logp_V), logp_V - logq_V), 0.0),
                logq_V[target],
                logp_V[target],
                logp_V.argmax() == logq_V.argmax(),
            )
            row += 1
    return compared_T


def _rows(context: Context, sequence: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    for logits_TV in context.logits(sequence["token_ids"], sequence["start"]):
        yield from logits_TV
