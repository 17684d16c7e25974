"""A GGUF file against the checkpoint it was made from.

In: a file, and what its checkpoint expects and predicts. Out: the measured closeness, or a refusal
that names the file and the fault. Knows nothing of how the file was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import ConversionError
from quantize.llama.process import ask_llama
from quantize.verification.reference import Expected, HeldOut

NUM_QUOTED_IDS = 8


@dataclass(frozen=True)
class Measurement:
    """What was measured on one verified file.

    `bits_per_weight` counts tensors only, not the tokenizer; `kl_to_checkpoint_nats` is the mean of
    KL(checkpoint‖file) over held-out completion tokens, the whole vocabulary summed.
    """

    num_parameters: int
    bits_per_weight: float
    kl_to_checkpoint_nats: float
    top1_agreement_with_checkpoint: float


def verify_file(
    path: Path,
    expected: Expected,
    held_out: HeldOut,
    logprobs_path: Path,
    *,
    kl_bound_nats: float,
    num_threads: int,
) -> Measurement:
    """Load a file with llama.cpp and compare tokens, stops and predictions with the checkpoint.

    Raises:
        ConversionError: The file cannot be loaded, or something differs by more than it may.
    """
    answer = ask_llama(
        "reading a GGUF file back",
        path,
        task="inspect",
        path=path,
        num_threads=num_threads,
        chats=[[message.to_chat() for message in chat] for chat in expected.chats],
        texts=expected.texts,
        sequences=held_out.sequences,
        logprobs_path=logprobs_path,
    )
    _check_vocabulary(path, answer, expected)
    _check_token_ids(path, answer, expected)
    kl_nats = answer["kl_nats"]
    if not kl_nats <= kl_bound_nats:  # NaN is refused too
        raise _refusal(
            path,
            "its next-token distributions are too far from the checkpoint's",
            f"mean KL of at most {kl_bound_nats} nats (quantize.kl_bounds_nats)",
            f"{kl_nats:.6f} nats, top-1 agreement {answer['top1_agreement']:.1%}",
            "a coarse type may need a wider bound, set with --force; several nats mean a wrong "
            "conversion",
        )
    return Measurement(
        num_parameters=answer["num_parameters"],
        bits_per_weight=round(8 * answer["tensor_bytes"] / answer["num_parameters"], 3),
        kl_to_checkpoint_nats=kl_nats,
        top1_agreement_with_checkpoint=answer["top1_agreement"],
    )


def _check_vocabulary(path: Path, answer: dict[str, Any], expected: Expected) -> None:
    checks = {
        "vocabulary size": (answer["vocab_size"], expected.vocab_size),
        "chat template": (answer["chat_template"], expected.chat_template),
        "adding of the bos token": (answer["adds_bos"], expected.adds_bos),
        "eos token": (answer["eos"], -1 if expected.special.eos is None else expected.special.eos),
    }
    for name, (found, wanted) in checks.items():
        if found != wanted:
            raise _refusal(path, f"its {name} is not the checkpoint's", repr(wanted), repr(found))
    missing = expected.special.eog - set(answer["eog"])
    if missing:
        raise _refusal(
            path,
            "llama.cpp would not stop at a token that ends the checkpoint's answers",
            f"end-of-generation tokens {sorted(expected.special.eog)}",
            f"{answer['eog']}",
        )


def _check_token_ids(path: Path, answer: dict[str, Any], expected: Expected) -> None:
    cases = {
        "held-out prompt": (answer["chat_token_ids"], expected.chat_token_ids),
        "test text": (answer["text_token_ids"], expected.text_token_ids),
    }
    for kind, (found_lists, wanted_lists) in cases.items():
        for index, (found, wanted) in enumerate(zip(found_lists, wanted_lists, strict=True)):
            if found != wanted:
                first = _first_difference(found, wanted)
                end = first + NUM_QUOTED_IDS
                raise _refusal(
                    path,
                    f"it gives other token ids than the checkpoint for {kind} {index}",
                    f"from token {first} on {wanted[first:end]}",
                    f"{found[first:end]}",
                )


def _first_difference(found: list[int], wanted: list[int]) -> int:
    pairs = zip(found, wanted, strict=False)
    shorter = min(len(found), len(wanted))
    return next((index for index, (a, b) in enumerate(pairs) if a != b), shorter)


def _refusal(
    path: Path, what: str, expected: str, found: str, hint: str | None = None
) -> ConversionError:
    return ConversionError(
        f"a GGUF file does not match its checkpoint: {what}",
        where=path,
        expected=expected,
        found=found,
        hint=hint or "the file was damaged or converted wrongly: run the same command again",
    )
