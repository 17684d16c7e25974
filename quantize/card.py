"""The model card beside the GGUF files.

In: the manifests of the run and the verified files' facts. Out: README.md as text.
Knows nothing of GGUF.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from potstill.schema import Split
from potstill.tables import conversation_paths, read_conversation_batches

UNKNOWN = "not stated"


def write_card(
    files: Sequence[Mapping[str, Any]],
    recommended: str,
    student: Mapping[str, Any],
    conversations_dir: Path,
    num_verification_tokens: int,
) -> str:
    """Return the card's Markdown.

    Args:
        files: Facts of the files, as in the manifest.
        student: Facts of the student's manifest.
        num_verification_tokens: On how many tokens the files were measured.
    """
    teacher = student["teacher"]
    sources, licences = _data(conversations_dir)
    rows = [
        f"| {'**' + file['file'] + '**' if file['name'] == recommended else file['file']} "
        f"| {file['bytes']:,} | {file['bits_per_weight']:.2f} "
        f"| {file['kl_to_checkpoint_nats']:.6f} | {file['kl_bound_nats']:g} "
        f"| {file['top1_agreement_with_checkpoint']:.1%} |"
        for file in files
    ]
    return f"""# A student of {teacher["model"]}

Made with potstill by knowledge distillation.

- Teacher: {teacher["model"]}{_parameters(teacher["num_parameters"])}
- Teacher's licence: {teacher_licence(Path(teacher["path"]))}
- Student: {student["num_parameters"]:,} parameters, {student["num_layers"]} layers, trained by
  method "{student["method"]}"
- Training prompts from: {sources}; their licence: {licences}
- Closeness to the teacher on held-out conversations, before quantisation:
  {_closeness(student["evaluation"]["trained"])}

## Files

Each file was loaded with llama.cpp and compared with the checkpoint it was made from, on
{num_verification_tokens:,} tokens of held-out conversations: the same token ids, a stop wherever
the checkpoint stops, and a mean KL(checkpoint‖file) within the bound. Bits per weight are measured:
small models keep some tensors at more bits than a type's name says. The recommended file is in
bold.

| File | Bytes | Bits per weight | KL, nats | Bound, nats | Top-1 agreement |
|---|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

`ollama create NAME -f Modelfile` in this directory imports the recommended file.
"""


def teacher_licence(checkpoint_dir: Path) -> str:
    """Return the licence in the front matter of a checkpoint's README.md, if it has one."""
    path = checkpoint_dir / "README.md"
    if path.is_file():
        _, *front = path.read_text(encoding="utf-8", errors="replace").split("---", 2)
        for line in front[0].splitlines() if front else ():
            key, _, value = line.partition(":")
            if key.strip() == "license" and value.strip():
                return value.strip()
    return UNKNOWN


def _parameters(count: int) -> str:
    """Say how many there are; 0 is that of a served teacher whose weights were not at hand."""
    return f", {count:,} parameters" if count else ""


def _closeness(evaluation: Mapping[str, Any]) -> str:
    if evaluation["kl_nats"] is None:
        return (
            "not comparable token by token, the student has a tokenizer of its own; "
            f"{evaluation['nats_per_token']:.4f} nats per token of its own"
        )
    return (
        f"KL {evaluation['kl_nats']:.4f} nats per token, top-1 agreement "
        f"{evaluation['top1_agreement']:.1%}"
    )


def _data(conversations_dir: Path) -> tuple[str, str]:
    sources: set[str] = set()
    licences: set[str] = set()
    splits = get_args(Split)
    for path in (path for split in splits for path in conversation_paths(conversations_dir, split)):
        for batch in read_conversation_batches(path, ["source", "licence"]):
            sources.update(batch["source"].to_pylist())
            licences.update(one or UNKNOWN for one in batch["licence"].to_pylist())
    return ", ".join(sorted(sources)), ", ".join(sorted(licences))
