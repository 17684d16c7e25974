"""What the checkpoint itself does on held-out conversations: the yardstick for every GGUF file.

In: a checkpoint, its tokenizer and the stored conversations. Out: expected token ids, and the
checkpoint's log-probabilities on disk. Knows nothing of GGUF.

Shape legend: T predicted tokens of all sequences in order, V vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from potstill.chat import render_prompt, render_text, tokenise
from potstill.errors import ConversionError
from potstill.files import replacing
from potstill.progress import track
from potstill.schema import Conversation, Message
from potstill.tables import conversation_paths, read_conversations
from quantize.conversion.vocabulary import SpecialTokens, adds_bos, read_special_tokens
from quantize.verification.hostile_texts import HOSTILE_TEXTS


@dataclass(frozen=True)
class HeldOut:
    """Held-out conversations, cut to a number of tokens after their prompts.

    Attributes:
        chats: The prompts' messages.
        sequences: Per conversation, `token_ids` to feed and the position `start` from which on
            predictions are read, that of the first answer's first token being the first. The turns
            after it count too: what a file predicts of a user's turn must be right as well.
        num_tokens: T.
    """

    chats: list[list[Message]]
    sequences: list[dict[str, Any]]
    num_tokens: int


@dataclass(frozen=True)
class Expected:
    """What a GGUF file of the checkpoint must do."""

    vocab_size: int
    chat_template: str | None
    special: SpecialTokens
    adds_bos: bool
    chats: list[list[Message]]
    chat_token_ids: list[list[int]]
    texts: list[str]
    text_token_ids: list[list[int]]


def read_held_out(
    conversations_dir: Path,
    max_tokens: int,
    tokenizer: Any = None,  # noqa: ANN401  (a transformers tokenizer)
) -> HeldOut:
    """Take test conversations in stored order until `max_tokens` tokens follow their prompts.

    Args:
        tokenizer: That of a model with other tokens than the teacher's, which the text is put into;
            conversations that its chat template refuses are left out. None: as they are stored.

    Raises:
        ConversionError: There are none.
    """
    chats: list[list[Message]] = []
    sequences: list[dict[str, Any]] = []
    num_tokens = 0
    paths = conversation_paths(conversations_dir, "test")
    for conversation in chain.from_iterable(map(read_conversations, paths)):
        start, token_ids = conversation.turns[0].start, conversation.token_ids.tolist()
        if tokenizer is not None:
            try:
                start, token_ids = _retokenised(conversation, tokenizer)
            except TemplateError:
                continue
        token_ids = token_ids[: start + max_tokens - num_tokens]
        num_tokens += len(token_ids) - start
        chats.append(list(conversation.given))
        sequences.append({"token_ids": token_ids[:-1], "start": start - 1})
        if num_tokens == max_tokens:
            break
    if not sequences:
        raise ConversionError(
            "there are no held-out conversations to verify the files with",
            where=conversations_dir,
            expected="conversations of split test",
            hint="generate from more prompts",
        )
    return HeldOut(chats, sequences, num_tokens)


def _retokenised(
    conversation: Conversation,
    tokenizer: Any,  # noqa: ANN401
) -> tuple[int, list[int]]:
    messages, tools = [*conversation.given, *conversation.completion], conversation.prompt.tools
    text = render_text(tokenizer, messages, tools=tools, add_generation_prompt=False)
    start = len(render_prompt(tokenizer, conversation.given, tools))
    return start, tokenise(tokenizer, text)


def read_expected(
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    checkpoint_dir: Path,
    vocab_size: int,
    chats: Sequence[list[Message]],
) -> Expected:
    """Ask the checkpoint's tokenizer for what a file's tokenizer must answer.

    llama.cpp applies no Unicode normalisation: for tokenizers that do (NFC) the texts are compared
    in normal form.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    texts = [*HOSTILE_TEXTS, *(f"a{token}b {token}" for token in tokenizer.get_added_vocab())]
    if normalizer is not None:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
        chats = [
            [
                one.model_copy(update={"content": unicodedata.normalize("NFC", one.content)})
                for one in chat
            ]
            for chat in chats
        ]
    return Expected(
        vocab_size=vocab_size,
        chat_template=tokenizer.chat_template,
        special=read_special_tokens(tokenizer, checkpoint_dir),
        adds_bos=adds_bos(tokenizer),
        chats=list(chats),
        chat_token_ids=[render_prompt(tokenizer, messages) for messages in chats],
        texts=texts,
        text_token_ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
    )


def write_reference_logprobs(
    checkpoint_dir: Path, held_out: HeldOut, path: Path, *, label: str
) -> None:
    """Write the checkpoint's log-probabilities [T, V] as float32, computed in float32.

    Rows are streamed to disk: memory holds one conversation's.

    Args:
        label: What to call the checkpoint in the progress.

    Raises:
        ConversionError: transformers cannot load the checkpoint.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConversionError(
            "the checkpoint cannot be loaded to verify its GGUF files",
            where=checkpoint_dir,
            found=str(error).splitlines()[0],
        ) from error
    model = model.eval().to(device)
    shape = (held_out.num_tokens, model.config.vocab_size)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as stream,
        torch.inference_mode(),
        track(
            f"evaluating the {label} checkpoint", len(held_out.sequences), "conversations"
        ) as progress,
    ):
        # Written, not mapped: a full disk then is an error and not a bus error.
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]
        for sequence in held_out.sequences:
            ids = torch.tensor([sequence["token_ids"]], device=device)
            kept = ids.shape[1] - sequence["start"]
            logits_TV = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0]
            logprobs_TV = logits_TV.double().log_softmax(-1).cpu().numpy()
            stream.write(logprobs_TV.astype("<f4").tobytes())
            progress.advance()
