"""The model card of the GGUF files: README.md with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from potstill.facts.gguf import GgufFile
from potstill.facts.memorization import Memorization
from potstill.facts.shared import Fidelity, FurtherTeacher, TeacherIdentity
from potstill.facts.student import StudentFacts
from potstill.hub import without_revision
from potstill.licenses import UNKNOWN, teacher_license
from potstill.tables import count_sources
from quantize.report.table import cost_table, distance_table

TERMS = (
    "the terms of its API, which allow training on its answers according to whoever made this run"
)
PLOT_NAME = "quality.png"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""A model's name on Hugging Face."""


def write_card(
    files: Sequence[GgufFile],
    recommended: str,
    reason: str,
    student: StudentFacts,
    conversations_dir: Path,
    num_verification_tokens: int,
    further_teachers: Mapping[str, FurtherTeacher] | None = None,
) -> str:
    """Return the card's Markdown.

    Args:
        files: Facts of the files, as in the manifest.
        reason: Why the recommended file is that one, to follow "is".
        num_verification_tokens: Number of tokens the files were measured on.
        further_teachers: Teachers beside the first one, by name.
    """
    teacher = student.teacher
    license = UNKNOWN if teacher.text_only else teacher_license(Path(teacher.path))
    sources, licenses = _data(conversations_dir)
    return f"""{_front_matter(teacher, license)}

# A student of {teacher.model}

Made with potstill by knowledge distillation.

- Teacher: {teacher.model}{_parameters(teacher.num_parameters)}
- Teacher's license: {TERMS if teacher.text_only else license}{_further(further_teachers or {})}
- Student: {student.num_parameters:,} parameters, {student.num_layers} layers, trained by
  method "{student.method}"{_level(teacher)}
- Training prompts from: {sources}; their license: {licenses}
- Distance from the teacher on held-out conversations, before quantization:
  {_distance(student.evaluation.trained, teacher)}

## Files

Each file was loaded with llama.cpp and compared with the checkpoint it was made from: vocabulary,
chat template and end tokens, the token ids of hostile texts and of chats, and the distributions of
the next token on {num_verification_tokens:,} tokens of held-out conversations. The recommended
file, in bold, is {reason}.

{_originals(files)}{_adapters(files)}![Quality against bytes]({PLOT_NAME})

{cost_table(files, recommended)}

Bits per weight are measured: in small models some tensors have more bits than the type's name
suggests. Speeds were measured on the machine that made the files, with a prompt of 512 tokens, 64
tokens decoded one by one, and 16 sequences decoded side by side; memory is the peak of a process
that does only the first two, Python included.

### Distance from the checkpoint

{distance_table(files, recommended)}

KL(checkpoint‖file) per token over the whole vocabulary, as llama.cpp's perplexity tool defines it;
Δp is the change of the probability of the actual next token. A file whose mean KL is beyond its
bound is refused.

## Use

`ollama create NAME -f Modelfile` in this directory imports the recommended file.
"""


def memorization_section(found: Memorization | None) -> str:
    """Return the card's section on what the student gives back of its training answers."""
    text = "Not measured." if found is None else "\n".join(found.sentences)
    return f"\n## Memorization\n\n{text}\n"


def _front_matter(teacher: TeacherIdentity, license: str) -> str:
    """Return the front matter; only a teacher that is a repository there is its base model."""
    base = without_revision(teacher.model)
    is_base = HUB_NAME.fullmatch(base) and not teacher.text_only
    tags = ("gguf", "llama.cpp", "knowledge-distillation", "potstill", "conversational")
    return "\n".join(
        [
            "---",
            f"license: {json.dumps('unknown' if license == UNKNOWN else license.lower())}",
            *([f"base_model: {json.dumps(base)}"] if is_base else []),
            "library_name: gguf",
            "pipeline_tag: text-generation",
            "quantized_by: potstill",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _originals(files: Sequence[GgufFile]) -> str:
    """Return which files were not made here."""
    names = (file.file for file in files if file.is_original)
    return "".join(f"{name} is the file that the teacher came in.\n\n" for name in names)


def _adapters(files: Sequence[GgufFile]) -> str:
    """Return which files are the student only together with an adapter."""
    pairs = [(file.file, file.adapter) for file in files if file.adapter is not None]
    if not pairs:
        return ""
    names = ", ".join(name for name, _ in pairs)
    return (
        f"{names}: the base, which is the student together with the LoRA adapter {pairs[0][1]}. "
        "They were compared with the checkpoint that both are merged to; sizes are of both.\n\n"
    )


def _parameters(count: int) -> str:
    """Return the number of parameters in words; nothing for 0, a served teacher's."""
    return f", {count:,} parameters" if count else ""


def _further(teachers: Mapping[str, FurtherTeacher]) -> str:
    """Return the line on teachers beside the first one; empty without any."""
    names = ", ".join(f"{one.identity.model} ({one.level} level)" for one in teachers.values())
    return f"\n- Further teachers, whose licenses apply too: {names}" if names else ""


def _level(teacher: TeacherIdentity) -> str:
    """Return how a student learned whose teacher has no distributions; else nothing."""
    if not teacher.text_only:
        return ""
    return ", at sequence level (kd.weight = 0): its teacher gave text alone"


def _distance(trained: Fidelity, teacher: TeacherIdentity) -> str:
    if trained.kl_nats is None:
        reason = (
            "the teacher gave text alone"
            if teacher.text_only
            else "the student has its own tokenizer"
        )
        return (
            f"not comparable token by token, because {reason}; "
            f"{trained.nats_per_token:.4f} nats per token of its own"
        )
    return f"KL {trained.kl_nats:.4f} nats per token, top-1 agreement {trained.top1_agreement:.1%}"


def _data(conversations_dir: Path) -> tuple[str, str]:
    found = count_sources(conversations_dir)
    sources = {source for source, _ in found}
    licenses = {license or UNKNOWN for _, license in found}
    return ", ".join(sorted(sources)), ", ".join(sorted(licenses))
