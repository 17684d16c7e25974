"""Requests to llama.cpp, each answered by a fresh process.

In: a task of `worker` and its arguments. Out: its answer, or a ConversionError that carries
llama.cpp's own words. Knows nothing of what an answer should be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.errors import ConversionError
from potstill.files import replacing
from potstill.processes import end_with_parent
from quantize.quantization.file_types import FileTypeName

QUOTED_LINES = 3
"""Lines of llama.cpp's error log that are quoted in an error; the first one names the cause."""


def usable_threads(num_threads: int) -> int:
    """Return the number of threads to use: the configured one, or all this process may use."""
    return num_threads or len(os.sched_getaffinity(0))


def quantize(
    source: Path,
    target: Path,
    file_type: FileTypeName,
    num_threads: int,
    *,
    imatrix_path: Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
) -> None:
    """Let llama.cpp make one GGUF file of another, see `quantize_file`; it is whole or absent.

    Raises:
        ConversionError: It fails.
    """
    with replacing(target) as temporary:
        ask_llama(
            f"quantizing to {file_type}",
            target,
            task="quantize",
            source=source,
            target=temporary,
            file_type=file_type,
            num_threads=num_threads,
            imatrix_path=imatrix_path,
            tensor_types=tensor_types,
        )


def ask_llama(doing: str, subject: Path, **request: object) -> dict[str, Any]:
    """Let llama.cpp do one task.

    Args:
        doing: The task in words, for the error.
        subject: The file it is about, for the error.
        request: `task` and its arguments; paths become strings.

    Raises:
        ConversionError: It failed, or ended its process.
    """
    completed = subprocess.run(
        [sys.executable, "-P", "-m", "quantize.llama.worker"],
        input=json.dumps(request, default=str),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        preexec_fn=end_with_parent(),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "GGML_NO_BACKTRACE": "1",
        },
    )
    if completed.returncode == 0:
        return dict(json.loads(completed.stdout))
    lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
    ended = f"exit code {completed.returncode}"
    raise ConversionError(
        f"llama.cpp failed while {doing}",
        where=subject,
        found="; ".join([*lines[:QUOTED_LINES], ended]),
        hint="is the disk full, or the file damaged? make the stage again with --force",
    )
