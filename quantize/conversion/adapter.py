"""An adapter in PEFT's format as a GGUF file, by llama.cpp's own script.

The script is run in the converter's process (`quantize.conversion.convert`), with its gguf package.
"""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from potstill.errors import ConversionError, PotstillError
from potstill.files import disk_errors
from potstill.llama.child import ask_in_child
from quantize.conversion.sources import ADAPTER_SCRIPT, VARIABLE, converter_dir

SCRIPT_LOGGER = "lora-to-gguf"
AdapterType = Literal["F32", "F16"]


def write_adapter_gguf(
    adapter_dir: Path, base_dir: Path, path: Path, adapter_type: AdapterType
) -> None:
    """Write an adapter to `path` as GGUF.

    Args:
        base_dir: The checkpoint that it adapts; only its configuration is read.

    Raises:
        ConversionError: The converter cannot convert it, or cannot be fetched.
        ArtifactError: The disk is full.
    """
    ask_in_child(
        "quantize.conversion.convert:service",
        "converting an adapter",
        adapter_dir,
        sources=converter_dir(),
        adapter_dir=adapter_dir,
        checkpoint_dir=base_dir,
        path=path,
        base_type=adapter_type,
    )


def convert_adapter(request: Mapping[str, str]) -> dict[str, Any]:
    """Run the script in this process, which must have its gguf package on the path."""
    script = Path(request["sources"]) / ADAPTER_SCRIPT
    path = Path(request["path"])
    arguments = [request["adapter_dir"], "--base", request["checkpoint_dir"]]
    arguments += ["--outfile", str(path), "--outtype", request["base_type"].lower()]
    with _last_error() as logged, _arguments(str(script), *arguments):
        try:
            with disk_errors("writing the adapter's file", path):
                runpy.run_path(str(script), run_name="__main__")
        except PotstillError:
            raise
        except (Exception, SystemExit) as error:  # It raises whatever its parts raise.
            raise ConversionError(
                "llama.cpp's converter cannot convert the adapter",
                where=request["adapter_dir"],
                found=logged[-1] if logged else f"{type(error).__name__}: {error}",
                hint="merge it (train.lora.merge = true), or name a newer checkout of llama.cpp in "
                f"{VARIABLE}",
            ) from error
    return {}


@contextmanager
def _arguments(*arguments: str) -> Iterator[None]:
    former = sys.argv
    sys.argv = list(arguments)
    try:
        yield
    finally:
        sys.argv = former


@contextmanager
def _last_error() -> Iterator[list[str]]:
    """Yield the list of errors that the script logs before it exits."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(logging.ERROR)
    logging.getLogger(SCRIPT_LOGGER).addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger(SCRIPT_LOGGER).removeHandler(handler)
