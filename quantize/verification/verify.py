"""A GGUF file against the checkpoint it was made from.

In: a file, and the results of its checkpoint's tokenizer and model. Out: the file's figures, or a
refusal that names the file and the fault.
"""

from __future__ import annotations

import logging
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import ConversionError
from potstill.facts.gguf import FileMeasurement
from potstill.llama.child import ask_in_child
from quantize.verification.expected import Expected
from quantize.verification.measurement import measurement_of
from quantize.verification.reference import (
    NUM_GREEDY_TOKENS,
    Continuation,
    HeldOut,
    read_continuations,
)

logger = logging.getLogger(__name__)

NUM_QUOTED_IDS = 8

NEAR_TIES_NATS = {"F32": 0.01, "F16": 0.1, "BF16": 0.5}
"""Types whose greedy continuation must be the checkpoint's, and the lead in nats up to which the
file may choose another token. llama.cpp rounds activations as it does weights: SmolLM2's logits
then move by up to 0.05 in F32, 0.44 in BF16."""


def verify_file(
    path: Path,
    expected: Expected,
    held_out: HeldOut,
    logprobs_path: Path,
    *,
    file_type: str,
    kl_bound_nats: float,
    num_threads: int,
    adapter_path: Path | None = None,
) -> FileMeasurement:
    """Load a file with llama.cpp and compare tokens, stops and predictions.

    Args:
        file_type: Name of its type, or of its size.
        logprobs_path: The file that `write_reference_logprobs` wrote for the checkpoint and
            `held_out`.
        adapter_path: The adapter that makes the checkpoint's model of the file; None: none.

    Raises:
        ConversionError: The file cannot be loaded, or differs by more than is allowed.
    """
    continuations = read_continuations(logprobs_path)
    with tempfile.TemporaryDirectory(dir=logprobs_path.parent) as directory:
        compared_path = Path(directory) / "compared.npy"
        answer = ask_in_child(
            "quantize.verification.inspection:service",
            "reading a GGUF file back",
            path,
            path=path,
            adapter_path=adapter_path,
            num_threads=num_threads,
            chats=[[message.to_chat() for message in chat] for chat in expected.chats],
            texts=expected.texts,
            encoded=expected.encoded,
            sequences=held_out.sequences,
            prompts=[one.prompt_ids for one in continuations],
            num_greedy=NUM_GREEDY_TOKENS,
            logprobs_path=logprobs_path,
            compared_path=compared_path,
        )
        _check_vocabulary(path, answer, expected)
        compared_T = np.load(compared_path)
    _check_token_ids(path, answer, expected)
    _check_kl(path, compared_T, kl_bound_nats)
    near_tie_nats = NEAR_TIES_NATS.get(file_type)
    if near_tie_nats is not None:
        _check_continuations(path, answer["greedy"], continuations, near_tie_nats)
    return measurement_of(answer, compared_T, held_out.sequences)


def _check_kl(path: Path, compared_T: NDArray[Any], kl_bound_nats: float) -> None:
    kl_nats = float(compared_T["kl_nats"].mean())
    if not kl_nats <= kl_bound_nats:  # NaN is refused too
        raise _refusal(
            path,
            "its next-token distributions are too far from the checkpoint's",
            f"mean KL of at most {kl_bound_nats} nats (quantize.kl_bounds_nats)",
            f"{kl_nats:.6f} nats, top-1 agreement {compared_T['same_top'].mean():.1%}",
            "a coarse type may need a wider bound, set with --force; several nats mean that the "
            "file is another checkpoint's, or that this architecture is converted wrongly, in "
            "rotary layout, norms, head or scaling",
        )


def _check_continuations(
    path: Path, found: list[list[int]], continuations: list[Continuation], near_tie_nats: float
) -> None:
    """Compare up to the first difference, after which the prompts differ."""
    for index, (ids, wanted) in enumerate(zip(found, continuations, strict=True)):
        first = _first_difference(ids, wanted.token_ids)
        if first == len(wanted.token_ids) < len(ids):
            raise _refusal(
                path,
                f"it continues where the checkpoint stops, in greedy continuation {index}",
                f"the end after token {first - 1}, {wanted.token_ids[-1]}",
                f"{ids[first]}",
            )
        if (
            first < min(len(ids), len(wanted.token_ids))
            and wanted.margins_nats[first] > near_tie_nats
        ):
            raise _refusal(
                path,
                f"its greedy continuation {index} is not the checkpoint's",
                f"at token {first} {wanted.token_ids[first]}, which leads by "
                f"{wanted.margins_nats[first]:.3f} nats",
                f"{ids[first]}",
            )


def _check_vocabulary(path: Path, answer: dict[str, Any], expected: Expected) -> None:
    checks = {
        "vocabulary size": (answer["vocab_size"], expected.vocab_size),
        "chat template": (answer["chat_template"], expected.chat_template),
        "adding the bos token": (answer["adds_bos"], expected.adds_bos),
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
    """Refuse other ids; of hostile texts with combining marks, warn.

    llama.cpp splits words at such marks with the pre-tokenizers of Mistral (Tekken) and GPT-4o, and
    has none that does not.
    """
    texts = ["".join(message.content for message in chat) for chat in expected.chats]
    texts[: expected.num_held_out] = [""] * expected.num_held_out
    cases = {
        "prompt": (answer["chat_token_ids"], expected.chat_token_ids, texts),
        "test text": (answer["text_token_ids"], expected.text_token_ids, expected.texts),
    }
    num_marked = 0
    for kind, lists in cases.items():
        for index, (found, wanted, text) in enumerate(zip(*lists, strict=True)):
            if found != wanted and _has_marks(text):
                num_marked += 1
            elif found != wanted:
                first = _first_difference(found, wanted)
                end = first + NUM_QUOTED_IDS
                raise _refusal(
                    path,
                    f"its token ids of {kind} {index} are not the checkpoint's",
                    f"from token {first} on {wanted[first:end]}",
                    f"{found[first:end]}",
                )
    if num_marked:
        logger.warning(
            "%s: llama.cpp splits words at combining marks, such as the vowels of Hindi, and the "
            "checkpoint's tokenizer does not: %d test texts have other tokens",
            path.name,
            num_marked,
        )
    for index, (text, wanted_text) in enumerate(
        zip(answer["decoded"], expected.decoded, strict=True)
    ):
        if text != wanted_text:
            raise _refusal(
                path,
                f"its text of the tokens of test text {index} is not the checkpoint's",
                repr(wanted_text),
                repr(text),
            )


def _has_marks(text: str) -> bool:
    return any(unicodedata.category(character).startswith("M") for character in text)


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
