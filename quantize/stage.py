"""The quantization stage: student checkpoint → GGUF files that were verified against it.

In: a run with finished student and conversations. Out: the gguf stage: one verified file per model
and type or size, the importance matrices, a model card and a Modelfile.

A file is made, verified, and only then recorded in the scratch directory with its hash; a resumed
run keeps files that are recorded and intact, and makes all others again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from potstill.errors import ManifestMismatchError
from potstill.facts.conversations import ConversationsFacts
from potstill.facts.gguf import FileTensors, GgufFacts, GgufFile
from potstill.facts.student import StudentFacts
from potstill.files import disk_errors, write_text_atomically
from potstill.manifest import Manifest
from potstill.processor import usable_threads
from potstill.progress import Progress, append_metrics, track
from potstill.rundir import RunDirectory
from quantize.config import FASTEST, QuantizeConfig
from quantize.file_maker import FileMaker
from quantize.modelfile import write_modelfile
from quantize.models import SourceModel, source_models
from quantize.quantization.file_types import FILE_TYPES, FileTypeName, bound_of_bits
from quantize.quantization.tensors import bits_per_weight
from quantize.records import read_record, write_record
from quantize.report.card import PLOT_NAME, write_card
from quantize.report.pareto import mark_pareto_fronts
from quantize.report.plot import draw_quality
from quantize.verification.verify import verify_file

NEAR_FASTEST = 0.9
"""Share of the fastest file's speed from which a file counts as fast: speeds are noisy."""


def run(config: QuantizeConfig, run_directory: RunDirectory) -> Manifest:
    """Make and verify the run's GGUF files.

    Raises:
        ConversionError: A checkpoint cannot be converted, or a file does not match it.
        ConfigError: A size is smaller than any file of the student can be.
        ManifestMismatchError: Student or teacher is not of these conversations.
        ArtifactError: An input is missing or damaged, or the disk is full.
    """
    session = run_directory.open_stage(
        "gguf", config.to_json(exclude={"num_threads"}), inputs=("student", "conversations")
    )
    if session.finished:
        return session.finished
    conversations_dir = run_directory.stage_dir("conversations")
    student = run_directory.facts(StudentFacts)
    conversations = run_directory.facts(ConversationsFacts)
    _refuse_other_tokens(student, conversations, run_directory)
    with disk_errors("making GGUF files", session.dir):
        session.scratch_dir.mkdir(exist_ok=True)
        models = source_models(config, run_directory, student, session.scratch_dir)
        num_tokens = models[0].held_out.num_tokens
        files = []
        num_files = sum(len(model.file_names) for model in models)
        with track("GGUF files", num_files, "files") as progress:
            for model in models:
                for file in make_files(model, config, session.dir, progress):
                    append_metrics(run_directory.metrics_path, "gguf", **_figures(file))
                    files.append(file)
        files = mark_pareto_fronts(files)
        recommended, reason = _recommend(files, config)
        draw_quality(files, recommended.name, session.dir / PLOT_NAME)
        card = write_card(
            files,
            recommended.name,
            reason,
            student,
            conversations_dir,
            num_tokens,
            conversations.further_teachers,
        )
        write_text_atomically(session.dir / "README.md", card)
        write_text_atomically(session.dir / "Modelfile", _modelfile(models[0], recommended))
    return session.finish(
        facts=GgufFacts(
            files=tuple(files),
            recommended=recommended.name,
            tokenizer_sha256=student.tokenizer_sha256,
            chat_template_sha256=student.chat_template_sha256,
        ),
        stats={"verification_tokens": num_tokens},
    )


def make_files(
    model: SourceModel, config: QuantizeConfig, directory: Path, progress: Progress
) -> Iterator[GgufFile]:
    """Make and verify a model's files; what is recorded in its scratch directory is kept.

    Raises:
        ConversionError: The checkpoint cannot be converted, or a file does not match it.
    """
    maker = FileMaker(model, config, directory)
    adapter_path = maker.adapter_path
    for name in model.file_names:
        path = directory / f"{model.title}-{name}.gguf"
        record_path = model.scratch_dir / f"{path.stem}.json"
        known = read_record(record_path, path)
        if known is None:
            tensors = maker.make(name, path)
            file = _verify(model, name, path, config, tensors, adapter_path)
            write_record(record_path, path, file.model_dump(mode="json"))
        else:
            file = GgufFile.model_validate(known)
        progress.advance(note=f"{path.stem}: KL {file.kl_to_checkpoint_nats:.5f} nats")
        yield file
    if any(map(maker.uses_imatrix, model.file_names)):
        maker.provide_imatrix()
    for leftover in model.scratch_dir.glob(f"{model.title}-*"):
        if leftover.suffix != ".json":
            leftover.unlink()


def _verify(
    model: SourceModel,
    name: str,
    path: Path,
    config: QuantizeConfig,
    tensors: FileTensors,
    adapter_path: Path | None,
) -> GgufFile:
    of_type = name in FILE_TYPES and name not in model.mixes
    bound = (
        config.kl_bound_nats(cast(FileTypeName, name))
        if of_type
        else bound_of_bits(bits_per_weight(path))
    )
    measurement = verify_file(
        path,
        model.expected,
        model.held_out,
        model.logprobs_path,
        file_type=name,
        kl_bound_nats=bound,
        num_threads=usable_threads(config.num_threads),
        adapter_path=adapter_path,
    )
    paths = [one for one in (path, adapter_path) if one is not None]
    return GgufFile(
        name=path.stem if adapter_path is None else f"{model.role}-{name}",
        file=path.name,
        adapter=None if adapter_path is None else adapter_path.name,
        role=model.role,
        type=name,
        bytes=sum(one.stat().st_size for one in paths),
        kl_bound_nats=bound,
        is_original=model.original is not None,
        on_pareto_front=False,
        **measurement.model_dump(),
        **tensors.model_dump(),
    )


def _figures(file: GgufFile) -> dict[str, Any]:
    """Return the scalar facts; lists and tables are in the manifest only."""
    left_out = {"tensor_types", "fallbacks", "mix", "on_pareto_front"}
    return file.model_dump(exclude=left_out, exclude_none=True)


def _recommend(files: Sequence[GgufFile], config: QuantizeConfig) -> tuple[GgufFile, str]:
    """Return the configured file of the student, and why it is that one."""
    students = [file for file in files if file.role == "student"]
    if config.recommended is None:
        return min(students, key=lambda file: file.bytes), "the smallest"
    if config.recommended != FASTEST:
        named = next(file for file in students if file.type == config.recommended)
        return named, "named by `quantize.recommended`"
    least = NEAR_FASTEST * max(file.batch_decode_tokens_per_second or 0.0 for file in students)
    fast = [file for file in students if (file.batch_decode_tokens_per_second or 0.0) >= least]
    reason = "the smallest of those that decode 16 sequences at most 10% slower than the fastest"
    return min(fast, key=lambda file: file.bytes), reason


def _modelfile(model: SourceModel, file: GgufFile) -> str:
    tokenizer = model.tokenizer
    stops = [tokenizer.decode([token]) for token in sorted(model.expected.special.eog)]
    return write_modelfile(file.file, tokenizer, stops, model.held_out.chats, file.adapter)


def _refuse_other_tokens(
    student: StudentFacts, conversations: ConversationsFacts, run_directory: RunDirectory
) -> None:
    if student.own_tokenizer:
        return
    for key in ("tokenizer_sha256", "chat_template_sha256"):
        if getattr(student, key) != getattr(conversations, key):
            raise ManifestMismatchError(
                f"student and conversations have different values of {key}",
                where=run_directory.root,
                expected=getattr(conversations, key),
                found=getattr(student, key),
                hint="train the student again from these conversations with --force",
            )
