"""The quantisation stage: student checkpoint → GGUF files that were proved against it.

In: a run with finished student and conversations. Out: the gguf stage: one verified file per model
and type, a model card and a Modelfile. Knows nothing of training or serving.

A file is made, verified, and only then recorded in the scratch directory with its hash; an
interrupted run skips what is recorded and intact, and makes everything else again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from potstill.checkpoints import find_checkpoint, refuse_other_checkpoint
from potstill.errors import ConversionError, ManifestMismatchError
from potstill.files import disk_errors, replacing, sha256_file, write_text_atomically
from potstill.manifest import Manifest, read_manifest
from potstill.progress import Progress, append_metrics, track
from potstill.rundir import RunDirectory, StageSession
from quantize.card import write_card
from quantize.config import GgufType, QuantizeConfig
from quantize.conversion.checkpoint import Checkpoint
from quantize.conversion.convert import BaseType, write_base_gguf
from quantize.llama.process import ask_llama, usable_threads
from quantize.modelfile import write_modelfile
from quantize.verification.reference import (
    Expected,
    HeldOut,
    read_expected,
    read_held_out,
    write_reference_logprobs,
)
from quantize.verification.verify import verify_file

BASE_TYPE: BaseType = "F16"
"""What quantised files are made from. On SmolLM2-135M-Instruct (1,024 tokens) files made from F16
and from F32 are equally close to the checkpoint, in nats: Q8_0 0.0051 and 0.0051, Q6_K 0.0128 and
0.0131, Q5_K_M 0.102 and 0.102, Q4_K_M 0.071 and 0.072; F16 is half the size and mostly wanted
anyway."""


@dataclass(frozen=True)
class SourceModel:
    """A checkpoint and the files to make of it.

    Attributes:
        scratch_dir: Where to keep what only verification needs.
    """

    role: Literal["student", "teacher"]
    checkpoint: Checkpoint
    types: tuple[GgufType, ...]
    held_out: HeldOut
    scratch_dir: Path

    @cached_property
    def tokenizer(self) -> Any:  # noqa: ANN401  (a transformers tokenizer)
        """The checkpoint's tokenizer."""
        return _load_tokenizer(self.checkpoint.dir)

    @cached_property
    def expected(self) -> Expected:
        """What the files' tokenizers must answer."""
        config = self.checkpoint.config
        return read_expected(
            self.tokenizer, self.checkpoint.dir, config.vocab_size, self.held_out.chats
        )

    @cached_property
    def logprobs_path(self) -> Path:
        """The checkpoint's log-probabilities, computed once for all types."""
        path = self.scratch_dir / f"{self.role}-logprobs.npy"
        if not path.is_file():
            write_reference_logprobs(self.checkpoint.dir, self.held_out, path, label=self.role)
        return path


def run(config: QuantizeConfig, run_directory: RunDirectory) -> Manifest:
    """Make and verify the run's GGUF files.

    Raises:
        ConversionError: A checkpoint cannot be converted, or a file does not match it.
        ManifestMismatchError: Student or teacher is not of these conversations.
        ArtifactError: An input is missing or damaged, or the disk is full.
    """
    session = run_directory.open_stage(
        "gguf", config.to_json(exclude={"num_threads"}), inputs=("student", "conversations")
    )
    if session.finished:
        return session.finished
    conversations_dir = run_directory.stage_dir("conversations")
    student = read_manifest(run_directory.stage_dir("student")).facts
    _refuse_other_tokens(student, read_manifest(conversations_dir).facts, run_directory)
    with disk_errors("making GGUF files", session.dir):
        session.scratch_dir.mkdir(exist_ok=True)
        models = _source_models(config, run_directory, student, session.scratch_dir)
        num_tokens = models[0].held_out.num_tokens
        files = []
        with track("GGUF files", sum(len(model.types) for model in models), "files") as progress:
            for model in models:
                for facts in _make_files(model, config, session, progress):
                    append_metrics(run_directory.metrics_path, "gguf", **facts)
                    files.append(facts)
        recommended = _recommend(files, config)
        card = write_card(files, recommended["name"], student, conversations_dir, num_tokens)
        write_text_atomically(session.dir / "README.md", card)
        write_text_atomically(session.dir / "Modelfile", _modelfile(models[0], recommended["file"]))
    return session.finish(
        facts={
            "files": files,
            "recommended": recommended["name"],
            "tokenizer_sha256": student["tokenizer_sha256"],
            "chat_template_sha256": student["chat_template_sha256"],
        },
        stats={"verification_tokens": num_tokens},
    )


def _source_models(
    config: QuantizeConfig,
    run_directory: RunDirectory,
    student: dict[str, Any],
    scratch_dir: Path,
) -> list[SourceModel]:
    conversations_dir = run_directory.stage_dir("conversations")
    student_dir = run_directory.stage_dir("student")
    held_out = student_held_out = read_held_out(conversations_dir, config.verification_tokens)
    if student.get("own_tokenizer"):
        student_held_out = read_held_out(
            conversations_dir, config.verification_tokens, _load_tokenizer(student_dir)
        )
    models = [
        SourceModel("student", Checkpoint(student_dir), config.types, student_held_out, scratch_dir)
    ]
    if config.teacher_types:
        teacher_dir = find_checkpoint(student["teacher"]["path"])
        refuse_other_checkpoint(teacher_dir, student["teacher"]["fingerprint"])
        checkpoint = Checkpoint(teacher_dir)
        models.append(
            SourceModel("teacher", checkpoint, config.teacher_types, held_out, scratch_dir)
        )
    return models


def _make_files(
    model: SourceModel, config: QuantizeConfig, session: StageSession, progress: Progress
) -> Iterator[dict[str, Any]]:
    for gguf_type in model.types:
        path = session.dir / f"{model.role}-{gguf_type}.gguf"
        record_path = session.scratch_dir / f"{path.stem}.json"
        facts = _read_record(record_path, path)
        if facts is None:
            _make_file(model, gguf_type, path, config)
            facts = _verify(model, gguf_type, path, config)
            record = {"sha256": sha256_file(path), "facts": facts}
            write_text_atomically(record_path, json.dumps(record))
        progress.advance(note=f"{path.stem}: KL {facts['kl_to_checkpoint_nats']:.5f} nats")
        yield facts
    for leftover in session.scratch_dir.glob(f"{model.role}-*"):
        if leftover.suffix != ".json":
            leftover.unlink()


def _make_file(model: SourceModel, gguf_type: GgufType, path: Path, config: QuantizeConfig) -> None:
    if gguf_type in ("F32", "F16"):
        _write_base(model, path, gguf_type)
        return
    base_path = path.with_name(f"{model.role}-{BASE_TYPE}.gguf")
    if BASE_TYPE not in model.types or not base_path.is_file():
        base_path = model.scratch_dir / base_path.name
    if not base_path.is_file():
        _write_base(model, base_path, BASE_TYPE)
    with replacing(path) as temporary:
        ask_llama(
            f"quantising to {gguf_type}",
            path,
            task="quantise",
            source=base_path,
            target=temporary,
            gguf_type=gguf_type,
            num_threads=usable_threads(config.num_threads),
        )


def _write_base(model: SourceModel, path: Path, base_type: BaseType) -> None:
    with replacing(path) as temporary:
        name = f"{model.role} {model.checkpoint.dir.name}"
        write_base_gguf(model.checkpoint, model.tokenizer, temporary, base_type, name)


def _verify(
    model: SourceModel, gguf_type: GgufType, path: Path, config: QuantizeConfig
) -> dict[str, Any]:
    bound = config.kl_bounds_nats.of(gguf_type)
    measurement = verify_file(
        path,
        model.expected,
        model.held_out,
        model.logprobs_path,
        kl_bound_nats=bound,
        num_threads=usable_threads(config.num_threads),
    )
    return {
        "name": path.stem,
        "file": path.name,
        "role": model.role,
        "type": gguf_type,
        "bytes": path.stat().st_size,
        **asdict(measurement),
        "kl_bound_nats": bound,
    }


def _read_record(record_path: Path, path: Path) -> dict[str, Any] | None:
    """Return the facts of a file that was verified before and has not changed since."""
    if not record_path.is_file() or not path.is_file():
        return None
    record = json.loads(record_path.read_text(encoding="utf-8"))
    return dict(record["facts"]) if record["sha256"] == sha256_file(path) else None


def _recommend(files: list[dict[str, Any]], config: QuantizeConfig) -> dict[str, Any]:
    """Choose the configured type, or the smallest of the student's files: all passed."""
    students = [file for file in files if file["role"] == "student"]
    chosen = [file for file in students if config.recommended in (None, file["type"])]
    return min(chosen, key=lambda file: int(file["bytes"]))


def _modelfile(model: SourceModel, file_name: str) -> str:
    tokenizer = model.tokenizer
    stops = [tokenizer.decode([token]) for token in sorted(model.expected.special.eog)]
    return write_modelfile(file_name, tokenizer, stops, model.held_out.chats)


def _refuse_other_tokens(
    student: dict[str, Any], conversations: dict[str, Any], run_directory: RunDirectory
) -> None:
    if student.get("own_tokenizer"):
        return
    for key in ("tokenizer_sha256", "chat_template_sha256"):
        if student[key] != conversations[key]:
            raise ManifestMismatchError(
                f"student and conversations have different values of {key}",
                where=run_directory.root,
                expected=conversations[key],
                found=student[key],
                hint="train the student again from these conversations with --force",
            )


def _load_tokenizer(checkpoint_dir: Path) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint_dir)
    except (OSError, ValueError) as error:
        raise ConversionError(
            "the checkpoint's tokenizer cannot be loaded",
            where=checkpoint_dir,
            found=str(error).splitlines()[0],
        ) from error
