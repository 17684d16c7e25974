"""The `model.yaml` by which LM Studio's hub describes a model whose files are on another hub.

Source: LM Studio's documentation, "Introduction to model.yaml" (a draft of a specification). JSON
is YAML, too.
"""

from __future__ import annotations

import json
from typing import Any

from potstill.facts.gguf import GgufFacts
from potstill.models.header import GgufHeader
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task

NAME = "model.yaml"


def model_yaml(run_directory: RunDirectory, repository: str) -> str:
    """Return the description of a run's student in a repository, `user/name`.

    Raises:
        ArtifactError: The recommended file cannot be read.
    """
    user, name = repository.split("/")
    file, task = run_directory.facts(GgufFacts).recommended_file, read_task(run_directory)
    metadata = GgufHeader.read(run_directory.stage_dir("gguf") / file.file).metadata
    architecture = str(metadata["general.architecture"])
    source = {"type": "huggingface", "user": user, "repo": name}
    described: dict[str, Any] = {
        "model": repository,
        "base": [{"key": repository, "sources": [source]}],
        "metadataOverrides": {
            "domain": "llm",
            "architectures": [architecture],
            "compatibilityTypes": ["gguf"],
            "paramsStrings": [f"{file.num_parameters / 1e6:.0f}M"],
            "minMemoryUsageBytes": file.peak_memory_bytes,
            "contextLengths": [metadata[f"{architecture}.context_length"]],
            "vision": False,
            "trainedForToolUse": bool(task and task.tools),
        },
    }
    if task and task.student_instructions:
        field = {"key": "llm.prediction.systemPrompt", "value": task.student_instructions}
        described["config"] = {"operation": {"fields": [field]}}
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"
