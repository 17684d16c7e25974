"""The checkpoint's own predictions on held-out conversations, the reference for every GGUF file.

In: a checkpoint and the stored conversations. Out: the sequences to measure on, the checkpoint's
log-probabilities on disk, and its greedy continuations of prompts.

Shape legend: T predicted tokens of all sequences in order, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from potstill.errors import ConversionError
from potstill.files import replacing, write_text_atomically
from potstill.progress import track
from potstill.schema import Message
from quantize.loading import load_model
from quantize.tokenized import Tokenized, read_tokenized

NUM_GREEDY_PROMPTS, NUM_GREEDY_TOKENS = 4, 16
"""Conversations that are continued, and by how many tokens; an error in generation shows within
few tokens."""

TOKENS_BEFORE_END = 4
"""Tokens removed from the end of an answer, which the model then generates."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out conversations, cut to a number of tokens after their prompts.

    Attributes:
        chats: The prompts' messages.
        sequences: Per conversation, `token_ids` to evaluate, the position `start` from which
            predictions are read, and the `target_ids` that follow there, beginning with the first
            token of the first answer. Later turns are included, those of the user too: a file must
            predict them as the checkpoint does.
        num_tokens: T.
    """

    chats: list[list[Message]]
    sequences: list[dict[str, Any]]
    num_tokens: int


@dataclass(frozen=True)
class Continuation:
    """The checkpoint's own greedy continuation of a prompt, up to where it stops.

    Attributes:
        margins_nats: Lead of each token over the second most probable one.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    margins_nats: list[float]


def read_held_out(
    conversations_dir: Path,
    max_tokens: int,
    tokenizer: Any = None,  # noqa: ANN401  (a transformers tokenizer)
) -> HeldOut:
    """Take test conversations in stored order until `max_tokens` tokens follow their prompts.

    Args:
        tokenizer: See `read_tokenized`.

    Raises:
        ConversionError: There are none.
    """
    tokenized = read_tokenized(conversations_dir, "test", tokenizer)
    return held_out_of(tokenized, max_tokens, conversations_dir)


def held_out_of(tokenized: Iterable[Tokenized], max_tokens: int, where: object) -> HeldOut:
    """Take conversations in their order until `max_tokens` tokens follow their prompts.

    Args:
        where: What to name in the error.

    Raises:
        ConversionError: There are none.
    """
    chats: list[list[Message]] = []
    sequences: list[dict[str, Any]] = []
    num_tokens = 0
    for given, token_ids, start in tokenized:
        token_ids = token_ids[: start + max_tokens - num_tokens]
        num_tokens += len(token_ids) - start
        chats.append(list(given))
        sequences.append(
            {
                "token_ids": token_ids[:-1],
                "start": start - 1,
                "target_ids": token_ids[start:],
            }
        )
        if num_tokens == max_tokens:
            break
    if not sequences:
        raise ConversionError(
            "there are no held-out conversations to verify the files with",
            where=where,
            expected="conversations of split test",
            hint="generate from more prompts",
        )
    return HeldOut(chats, sequences, num_tokens)


def write_reference_logprobs(
    checkpoint_dir: Path,
    held_out: HeldOut,
    path: Path,
    *,
    label: str,
    stops: Collection[int] = (),
) -> None:
    """Write the checkpoint's log-probabilities [T, V] as float32, computed in float32.

    Rows are streamed to disk: memory holds one conversation's. The continuations that
    `read_continuations` returns are written first, in the same directory.

    Args:
        label: Name of the checkpoint in the progress bar.
        stops: The tokens at which it stops.

    Raises:
        ConversionError: transformers cannot load the checkpoint.
    """
    import numpy as np
    import torch

    model = load_model(checkpoint_dir)
    with torch.inference_mode():
        continuations = [
            _continuation(model, prompt, stops) for prompt in _greedy_prompts(held_out, stops)
        ]
    text = json.dumps([asdict(one) for one in continuations])
    write_text_atomically(_continuations_path(path), text)
    shape = (held_out.num_tokens, model.config.get_text_config().vocab_size)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as stream,
        torch.inference_mode(),
        track(
            f"evaluating the {label} checkpoint", len(held_out.sequences), "conversations"
        ) as progress,
    ):
        # Written, not mapped: with a mapped file a full disk would be a bus error.
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for sequence in held_out.sequences:
            ids = torch.tensor([sequence["token_ids"]], device=model.device)
            kept = ids.shape[1] - sequence["start"]
            logits_TV = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0]
            logprobs_TV = logits_TV.double().log_softmax(-1).cpu().numpy()
            stream.write(logprobs_TV.astype("<f4").tobytes())
            progress.advance()


def read_continuations(logprobs_path: Path) -> list[Continuation]:
    """Return the checkpoint's continuations, from the directory of `logprobs_path`."""
    text = _continuations_path(logprobs_path).read_text(encoding="utf-8")
    return [Continuation(**one) for one in json.loads(text)]


def _continuations_path(logprobs_path: Path) -> Path:
    return logprobs_path.with_suffix(".json")


def _greedy_prompts(held_out: HeldOut, stops: Collection[int]) -> Iterator[list[int]]:
    """Yield prompts, and each again with its answer up to shortly before its end."""
    for sequence in held_out.sequences[:NUM_GREEDY_PROMPTS]:
        prompt_ids, answer_ids = (
            sequence["token_ids"][: sequence["start"] + 1],
            sequence["target_ids"],
        )
        yield prompt_ids
        end = next((index for index, token in enumerate(answer_ids) if token in stops), 0)
        if end > TOKENS_BEFORE_END:
            yield prompt_ids + answer_ids[: end - TOKENS_BEFORE_END]


def _continuation(
    model: Any,  # noqa: ANN401
    prompt_ids: list[int],
    stops: Collection[int],
) -> Continuation:
    import torch

    token_ids: list[int] = []
    margins: list[float] = []
    fed, cache = prompt_ids, None
    while len(token_ids) < NUM_GREEDY_TOKENS and not (token_ids and token_ids[-1] in stops):
        ids = torch.tensor([fed], device=model.device)
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        (best, second), (token, _) = (part.tolist() for part in output.logits[0, -1].topk(2))
        token_ids.append(token)
        margins.append(best - second)
        fed = [token]
    return Continuation(prompt_ids, token_ids, margins)
