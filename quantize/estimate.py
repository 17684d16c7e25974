"""The estimated cost of the quantization stage; no model is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from potstill.checkpoints import ModelShape
from potstill.plan import Estimate, Workload
from quantize.config import TEACHER_TYPES, QuantizeConfig
from quantize.conversion.sources import local_converter_dir, refuse_unknown
from quantize.quantization.file_types import FILE_TYPES, FileTypeName, uses_imatrix

SHARE_OF_PEAK = 0.7
"""llama.cpp's share of the FLOP/s of training an MLP in float32: 0.6 to 0.8 with SmolLM2-135M."""
FIXED_SECONDS = 25.0
SECONDS_PER_FILE = 4.0
SECONDS_PER_MEASURED_TYPE = 10.0
SECONDS_PER_BILLION = 30.0
"""To load a teacher's checkpoint and its file, for each billion of its parameters."""
PROCESS_BYTES = 1.0e9
SUPER_BLOCK = 256
"""Values in a block of K and most IQ types; rows of other lengths get a larger type."""
MATRICES_PER_LAYER = 7
SHARE_OF_LAYERS_RUN = 0.6
"""Of all layers, while tensors are changed in turn: layers before the tensor are skipped."""
NUM_MEASURED_TYPES = 11
EMBEDDING_BITS = 8.5


def estimate(config: QuantizeConfig, workload: Workload) -> tuple[Estimate, Workload]:
    """Estimate conversion, importance matrices, quantization and verification.

    Raises:
        ConversionError: Student or teacher is of an architecture that cannot become GGUF.
    """
    student, teacher = workload.student, workload.teacher
    sources = local_converter_dir()
    if sources is not None:
        refuse_unknown(student.architecture, sources, "the student")
    teacher_types = TEACHER_TYPES if config.teacher_types is None else config.teacher_types
    if workload.text_only:
        teacher_types = ()
    teacher_sizes = [_file_bytes(teacher, name) for name in teacher_types]
    if config.teacher_types is None and teacher.gguf_bytes is not None:
        teacher_types, teacher_sizes = (), [teacher.gguf_bytes]
    if teacher_types and sources is not None:
        refuse_unknown(teacher.architecture, sources, "the teacher")
    num_mixes, num_student_files = len(config.mixes), len(config.types) + len(config.mixes)
    num_files = num_student_files + len(teacher_sizes)
    sizes = [_file_bytes(student, name) for name in config.types]
    sizes += [*teacher_sizes, *config.mixes.values()]
    evaluated = num_student_files * student.num_parameters
    evaluated += len(teacher_sizes) * teacher.num_parameters
    flops = 2.0 * evaluated * config.verification_tokens
    for shape, types in ((student, config.types), (teacher, teacher_types)):
        if _uses_imatrix(types, config) or (num_mixes and shape is student):
            flops += 2.0 * shape.layer_parameters * config.imatrix_tokens
    fixed_seconds = FIXED_SECONDS + SECONDS_PER_FILE * num_files
    if teacher_sizes:
        fixed_seconds += SECONDS_PER_BILLION * teacher.num_parameters / 1e9
    if num_mixes:
        num_measured = MATRICES_PER_LAYER * student.num_layers + NUM_MEASURED_TYPES
        run = SHARE_OF_LAYERS_RUN * student.num_parameters
        flops += 2.0 * num_measured * run * config.mix_tokens
        fixed_seconds += SECONDS_PER_MEASURED_TYPE * NUM_MEASURED_TYPES
    largest = student if config.teacher_types == () else teacher
    cost = Estimate(
        stage="quantize",
        tokens=num_files * config.verification_tokens,
        float32_flops=flops,
        share_of_peak=SHARE_OF_PEAK,
        fixed_seconds=fixed_seconds,
        disk_bytes=sum(sizes) + 4.0 * config.verification_tokens * student.vocab_size,
        memory_bytes=4.0 * largest.num_parameters + PROCESS_BYTES,
    )
    return cost, replace(workload, num_files=num_files)


def _uses_imatrix(types: Iterable[FileTypeName], config: QuantizeConfig) -> bool:
    return any(uses_imatrix(name, config.imatrix) for name in types)


def _file_bytes(shape: ModelShape, name: FileTypeName) -> float:
    """Estimate a file's size: embedding and head have more bits than the layers."""
    bits = FILE_TYPES[name].bits
    if name not in ("F32", "F16", "BF16", "Q8_0") and shape.hidden_size % SUPER_BLOCK:
        bits += 1.0
    outer = shape.num_parameters - shape.layer_parameters
    return (shape.layer_parameters * bits + outer * max(bits, EMBEDDING_BITS)) / 8
