"""A checkpoint as an unquantized GGUF file, by llama.cpp's own converter.

The converter decides how weights and settings are laid out. What the file says about the tokenizer
is taken from the loaded tokenizer instead, see `vocabulary`: the converter recognizes tokenizers by
the ids of one text, and the end of a turn by the text of its token.

The converter runs in a process of its own, with the gguf package that belongs to it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from potstill.errors import ConversionError, PotstillError
from potstill.files import disk_errors
from potstill.llama.child import ask_in_child
from potstill.workers import Handler, json_handler
from quantize.conversion.adapter import convert_adapter
from quantize.conversion.added_tokens import name_for_stripping
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.settings import add_sliding_window, use_former_layer_types
from quantize.conversion.sources import GGUF, VARIABLE, converter_dir
from quantize.conversion.vocabulary import Vocabulary
from quantize.loading import load_tokenizer

BaseType = Literal["F32", "F16", "BF16"]
FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16"}


def write_base_gguf(
    checkpoint_dir: Path,
    path: Path,
    base_type: BaseType,
    name: str,
    texts: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a checkpoint to `path` as GGUF; matrices in `base_type`, vectors in F32.

    Args:
        name: The model's name in the file's metadata.
        texts: Further texts in it, by key.

    Returns:
        The checkpoint's tensor by the file's tensor, where one is made of one.

    Raises:
        ConversionError: The converter does not know the architecture, a tensor does not fit the
            type, or the converter cannot be fetched.
        ArtifactError: The checkpoint is damaged, or the disk is full.
        ConfigError: The checkout of llama.cpp that the user named has no converter.
    """
    answer = ask_in_child(
        "quantize.conversion.convert:service",
        "converting a checkpoint",
        checkpoint_dir,
        sources=converter_dir(),
        checkpoint_dir=checkpoint_dir,
        path=path,
        base_type=base_type,
        name=name,
        texts=json.dumps(texts or {}),
    )
    return dict(answer["names"])


def service() -> Handler:
    """Return the handler of requests to convert a checkpoint or an adapter, for a worker."""
    return json_handler(convert)


def convert(request: Mapping[str, str]) -> dict[str, Any]:
    """Convert what a request names. This process must not have imported another gguf package."""
    sources = Path(request["sources"])
    if str(sources) not in sys.path:
        sys.path[:0] = [str(sources / GGUF), str(sources)]
    return convert_adapter(request) if "adapter_dir" in request else _convert_checkpoint(request)


def _convert_checkpoint(request: Mapping[str, str]) -> dict[str, Any]:
    checkpoint_dir = Path(request["checkpoint_dir"])
    gguf, conversion = import_module("gguf"), import_module("conversion")
    base = import_module("conversion.base")
    import torch

    checkpoint = Checkpoint(checkpoint_dir)
    checkpoint.refuse_unfit(request["base_type"])
    tokenizer = load_tokenizer(checkpoint_dir)
    names: dict[str, str] = {}
    try:
        settings = use_former_layer_types(base.ModelBase.load_hparams(checkpoint_dir, False))
        architecture = base.get_model_architecture(settings, base.ModelType.TEXT)
        converter = conversion.get_model_class(architecture)
        # transformers does not save the layers that predict further tokens.
        converter.no_mtp = converter.supports_mtp_export
        file_type = gguf.LlamaFileType[FILE_TYPES[request["base_type"]]]
        with torch.inference_mode(), _adapted(base, tokenizer, request, names):
            path = Path(request["path"])
            model = converter(checkpoint_dir, file_type, path, hparams=settings)
            with disk_errors("writing the file", path):
                model.write()
    except PotstillError:
        raise
    except Exception as error:  # It raises whatever its parts raise.
        raise ConversionError(
            "llama.cpp's converter cannot convert the checkpoint",
            where=checkpoint_dir,
            found=f"{type(error).__name__}: {error}",
            hint=f"choose another model, or name a newer checkout of llama.cpp in {VARIABLE}",
        ) from error
    return {"names": names}


@contextmanager
def _adapted(
    base: Any,  # noqa: ANN401  (a module of llama.cpp)
    tokenizer: Any,  # noqa: ANN401  (a transformers tokenizer)
    request: Mapping[str, str],
    names: dict[str, str],
) -> Iterator[None]:
    """Let converters write the loaded tokenizer, and a model's name and further texts.

    Args:
        names: Gets the checkpoint's tensor names, by the file's.
    """
    text_model = base.TextModel
    prepare, find_name = text_model.prepare_metadata, text_model.map_tensor_name
    vocabulary = Vocabulary.of(tokenizer, text_model)

    def prepare_metadata(model: Any, vocab_only: bool) -> None:  # noqa: ANN401
        model.set_vocab = partial(vocabulary.write_in_own_way, model.set_vocab, model)
        prepare(model, vocab_only)
        model.gguf_writer.add_name(name_for_stripping(tokenizer, request["name"]))
        for key, text in json.loads(request["texts"]).items():
            model.gguf_writer.add_string(key, text)
        add_sliding_window(model.gguf_writer, model.hparams)
        vocabulary.add_to(model.gguf_writer, model.dir_model, model.hparams["vocab_size"])

    def map_tensor_name(model: Any, source: str, **options: Any) -> str:  # noqa: ANN401
        target = str(find_name(model, source, **options))
        names[target] = source
        return target

    adapted = {
        "prepare_metadata": prepare_metadata,
        "map_tensor_name": map_tensor_name,
        "get_vocab_base_pre": lambda model, loaded: vocabulary.pre_tokenizer(model, loaded),
        "_create_vocab_sentencepiece": lambda model: vocabulary.sentence_piece(model),
        "_set_vocab_gpt2": lambda model: vocabulary.write(model),
        "_set_vocab_llama_hf": lambda model: vocabulary.write(model),
    }
    originals = {attribute: getattr(text_model, attribute) for attribute in adapted}
    for attribute, function in adapted.items():
        setattr(text_model, attribute, function)
    try:
        yield
    finally:
        for attribute, function in originals.items():
            setattr(text_model, attribute, function)
