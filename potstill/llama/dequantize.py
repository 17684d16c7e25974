"""Conversion of a GGUF file to a Hugging Face checkpoint, in a child process of `potstill.models`.

In: a GGUF file of an architecture that transformers reads, and an empty directory. Out: the
checkpoint in it. Its tokenizer must give llama.cpp's token ids and its model llama.cpp's
predictions, or the file is refused: typical faults are pre-tokenizers and rotary layouts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AddedToken, AutoTokenizer

from potstill.errors import ArtifactError, first_line
from potstill.llama.context import log_softmax, measuring
from potstill.llama.hostile_texts import CODE, HOSTILE_TEXTS, WORDS, unicode_form
from potstill.llama.model import LlamaModel
from potstill.models.header import GgufHeader
from potstill.workers import Handler, json_handler

PRE_TOKENIZER_KEY = "tokenizer.ggml.pre"
ONE_DIGIT_AT_A_TIME = {"smollm"}
"""llama.cpp's pre-tokenizers that split digits one by one before byte-level BPE."""
NUM_COMPARED_TOKENS = 48
MAX_KL_NATS = 0.1
"""Largest mean KL(llama.cpp‖checkpoint); llama.cpp rounds activations to 8 bits:
Qwen2.5-Coder-0.5B in Q4_K_M is at 0.001, 1.5B at 0.002. A wrong layout is several nats away."""


def service() -> Handler:
    """Return the handler of requests to dequantize a file, for `potstill.workers`."""
    return json_handler(_dequantize)


def _dequantize(request: dict[str, Any]) -> dict[str, Any]:
    """Write the checkpoint of `gguf_path` into `checkpoint_dir`, its weights as `dtype`."""
    dequantize(Path(request["gguf_path"]), Path(request["checkpoint_dir"]), request["dtype"])
    return {}


def dequantize(gguf_path: Path, checkpoint_dir: Path, dtype: str) -> None:
    """Write a GGUF file's checkpoint.

    Raises:
        ArtifactError: A library cannot read the file, or the two read it differently.
    """
    with LlamaModel(gguf_path, vocabulary_only=True) as vocabulary:
        config = _load(gguf_path, "AutoConfig")
        config.save_pretrained(checkpoint_dir)
        tokenizer = _load(gguf_path, "AutoTokenizer", config=config)
        tokenizer.model_max_length = config.max_position_embeddings
        _restore_pre_tokenizer(tokenizer, gguf_path)
        tokenizer = save_tokenizer(tokenizer, vocabulary, checkpoint_dir)
        refuse_other_tokenizer(tokenizer, vocabulary)
        stops = [config.eos_token_id, *vocabulary.end_tokens]
    model = _load(gguf_path, "AutoModelForCausalLM", config=config, dtype=getattr(torch, dtype))
    model.hf_quantizer = None
    del model.config.quantization_config
    refuse_other_predictions(model, tokenizer, gguf_path)
    model.generation_config.eos_token_id = list(dict.fromkeys(stops))
    model.save_pretrained(checkpoint_dir)


def save_tokenizer(tokenizer: Any, vocabulary: LlamaModel, checkpoint_dir: Path) -> Any:  # noqa: ANN401
    """Save a tokenizer with llama.cpp's control tokens; return the tokenizer loaded from there.

    llama.cpp treats some tokens as control tokens that a file does not mark as such, for example
    `</s>` in Qwen2.5. Loading adds what the model's class adds, such as Unicode's form NFC.
    """
    control = filter(vocabulary.is_control, range(vocabulary.vocab_size))
    texts = (vocabulary.detokenize([token_id]) for token_id in control)
    plain = tokenizer.get_vocab().keys() - tokenizer.get_added_vocab()
    missing = [AddedToken(text, normalized=False, special=True) for text in texts if text in plain]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": missing}, replace_extra_special_tokens=False
    )
    tokenizer.save_pretrained(checkpoint_dir)
    loaded = AutoTokenizer.from_pretrained(checkpoint_dir)
    loaded.save_pretrained(checkpoint_dir)
    return loaded


def refuse_other_tokenizer(tokenizer: Any, vocabulary: LlamaModel) -> None:  # noqa: ANN401
    """Check that a tokenizer gives llama.cpp's token ids on hostile texts, and their text.

    Raises:
        ArtifactError: Something differs.
    """
    form = unicode_form(tokenizer)
    added = (f"a{token}b {token} c" for token in tokenizer.get_added_vocab())
    for text in map(form, (*HOSTILE_TEXTS, *added)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = vocabulary.tokenize(text, parse_special=True)
        if ids != expected:
            raise _other_tokenizer(vocabulary.path, text, expected, ids)
        written = vocabulary.detokenize(ids)
        found = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if found != written:
            raise _other_tokenizer(vocabulary.path, text, repr(written), repr(found))


def refuse_other_predictions(model: Any, tokenizer: Any, gguf_path: Path) -> None:  # noqa: ANN401
    """Check that a checkpoint predicts what llama.cpp predicts with its file.

    Raises:
        ArtifactError: The mean KL(llama.cpp‖checkpoint) is too large.
    """
    text = "".join((*CODE, *WORDS))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:NUM_COMPARED_TOKENS]
    with torch.inference_mode():
        logits_TV = model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    logq_TV = logits_TV.double().log_softmax(-1).numpy()
    with measuring(gguf_path, len(ids), None) as context:
        logp_TV = np.concatenate([log_softmax(batch) for batch in context.logits(ids, 0)])
    num_tokens = logp_TV.shape[1]  # without the rows that pad an embedding
    kl_T = (np.exp(logp_TV) * (logp_TV - logq_TV[:, :num_tokens])).sum(-1)
    kl_nats = kl_T[1:].mean()  # Rounding changes a first token, without context, too much.
    if not kl_nats <= MAX_KL_NATS:  # NaN is refused too
        raise ArtifactError(
            "the checkpoint that transformers makes of a GGUF file does not predict as llama.cpp "
            "does with the file",
            where=gguf_path,
            expected=f"mean KL of at most {MAX_KL_NATS} nats",
            found=f"{kl_nats:.3f} nats over {len(ids)} tokens",
            hint="name the model's original checkpoint: transformers reads this file wrongly",
        )


def _load(gguf_path: Path, kind: str, **options: object) -> Any:  # noqa: ANN401  (untyped library)
    try:
        return getattr(transformers, kind).from_pretrained(
            gguf_path.parent, gguf_file=gguf_path.name, **options
        )
    except Exception as error:  # transformers parses by hand: struct.error, IndexError and others.
        raise ArtifactError(
            "transformers cannot read the GGUF file",
            where=gguf_path,
            expected="an architecture that transformers dequantizes",
            found=first_line(error),
            hint="name the model's original checkpoint",
        ) from error


def _restore_pre_tokenizer(tokenizer: Any, gguf_path: Path) -> None:  # noqa: ANN401
    """Split digits one by one where llama.cpp's pre-tokenizer of the file does.

    transformers 5.19 rebuilds such a tokenizer with byte-level splitting only.
    """
    if GgufHeader.read(gguf_path).metadata.get(PRE_TOKENIZER_KEY) in ONE_DIGIT_AT_A_TIME:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _other_tokenizer(path: Path, text: str, expected: object, found: object) -> ArtifactError:
    return ArtifactError(
        "the tokenizer that transformers makes of a GGUF file is not llama.cpp's",
        where=path,
        expected=f"{str(expected)[:200]} for {text[:40]!r}",
        found=str(found)[:200],
        hint="transformers does not know the file's pre-tokenizer: name the original checkpoint",
    )
