"""The files of one model and their sources, each made when it is first needed."""

from __future__ import annotations

import json
import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from potstill.errors import ManifestMismatchError
from potstill.facts.gguf import FileMix, FileTensors
from potstill.files import replacing, sha256_file, write_text_atomically
from potstill.models.files import GgufSource
from potstill.models.rewriting import copy_with_texts
from potstill.processor import usable_threads
from quantize.config import QuantizeConfig
from quantize.conversion.adapter import AdapterType, write_adapter_gguf
from quantize.conversion.convert import BaseType, write_base_gguf
from quantize.models import SourceModel
from quantize.quantization.file_types import BASES, FILE_TYPES, FileTypeName, uses_imatrix
from quantize.quantization.imatrix import write_importance
from quantize.quantization.mix import (
    MixSource,
    TensorCosts,
    choose_mix,
    measure_costs,
    refuse_too_small,
)
from quantize.quantization.quantize import quantize
from quantize.quantization.tensors import describe_tensors, explain_fallbacks
from quantize.records import read_record, write_record

logger = logging.getLogger(__name__)

BASE_TYPE: Literal["F16"] = "F16"
"""Type of the file that quantized files are made from. On SmolLM2-135M-Instruct (1,024 tokens)
files made from F16 and from F32 are equally close to the checkpoint, in nats: Q8_0 0.0051 and
0.0051, Q6_K 0.0128 and 0.0131, Q5_K_M 0.102 and 0.102, Q4_K_M 0.071 and 0.072; F16 is half the size
and usually one of the configured types."""


class FileMaker:
    """Makes a model's files in one directory."""

    def __init__(self, model: SourceModel, config: QuantizeConfig, directory: Path) -> None:
        self._model = model
        self._config = config
        self._dir = directory

    def make(self, name: str, path: Path) -> FileTensors:
        """Make a file of a type or a size, and return the types of its tensors.

        Raises:
            ConversionError: The checkpoint cannot be converted, or llama.cpp fails.
            ConfigError: No file can have that size.
        """
        if self._model.original is not None:
            take_original(self._model.original, path)
            return describe_tensors(path, None)
        if name in self._model.mixes:
            return self._make_mix(name, path)
        file_type = cast(FileTypeName, name)
        if file_type in BASES:
            self._write_base(path, cast(BaseType, file_type))
            return describe_tensors(path, None)
        imatrix_path = self.imatrix_path if self.uses_imatrix(name) else None
        num_threads = usable_threads(self._config.num_threads)
        quantize(self._base_path(), path, file_type, num_threads, imatrix_path=imatrix_path)
        tensor_type = FILE_TYPES[file_type].tensor_type
        if explained := explain_fallbacks(path, tensor_type):
            logger.info("%s: %s", path.stem, explained)
        return describe_tensors(path, tensor_type).model_copy(
            update={"imatrix": imatrix_path is not None}
        )

    def uses_imatrix(self, name: str) -> bool:
        """Return whether a file is made with an importance matrix.

        `auto` uses none for the type that a student was trained for: its weights are already values
        of that type, which an importance matrix would change. Nor for an adapter's base, which
        would then be another file for each task; except for types that need one.
        """
        if self._model.original is not None:
            return False
        if name in self._model.mixes:
            return self._config.imatrix != "never"
        if self._model.adapter is not None and self._config.imatrix == "auto":
            return FILE_TYPES[cast(FileTypeName, name)].requires_imatrix
        if name == self._model.aware_type and self._config.imatrix == "auto":
            return False
        return uses_imatrix(cast(FileTypeName, name), self._config.imatrix)

    def provide_imatrix(self) -> None:
        """Compute the importance matrix, unless it is there and complete."""
        _ = self.imatrix_path

    @cached_property
    def imatrix_path(self) -> Path:
        """The importance matrix, computed unless an earlier run completed it."""
        model, path = self._model, self._dir / f"{self._model.title}.imatrix.gguf"
        record_path = model.scratch_dir / f"{model.title}-imatrix.json"
        if read_record(record_path, path) is None:
            calibration = model.calibration(self._config.imatrix_tokens)
            write_importance(
                self._base_path(),
                calibration,
                path,
                label=model.title,
                num_threads=self._config.num_threads,
            )
            write_record(record_path, path, {"num_tokens": calibration.num_tokens})
        return path

    @cached_property
    def adapter_path(self) -> Path | None:
        """The adapter's file, made unless an earlier run completed it; None without one."""
        model = self._model
        if model.adapter is None:
            return None
        path = self._dir / f"{model.role}-adapter.gguf"
        record_path = model.scratch_dir / f"{path.stem}.json"
        if read_record(record_path, path) is None:
            adapter_type: AdapterType = "F32" if "F32" in model.types else "F16"
            with replacing(path) as temporary:
                plain = model.scratch_dir / path.name
                write_adapter_gguf(model.adapter.dir, model.adapter.base_dir, plain, adapter_type)
                copy_with_texts(plain, temporary, model.lineage)
                plain.unlink()
            write_record(record_path, path, {})
        return path

    def _make_mix(self, name: str, path: Path) -> FileTensors:
        source, max_bytes = self._mix_source, self._model.mixes[name]
        refuse_too_small(source.base_path, max_bytes, path.stem)
        mix = choose_mix(self._costs, max_bytes)
        source.quantize(mix.types, mix.file_type, path)
        described = FileMix(
            target_bytes=round(max_bytes),
            predicted_kl_nats=mix.predicted_kl_nats,
            types=mix.per_group(),
        )
        return describe_tensors(path, None).model_copy(
            update={"imatrix": source.quantizes_with_imatrix, "mix": described}
        )

    @cached_property
    def _mix_source(self) -> MixSource:
        return MixSource(
            self._model.checkpoint,
            self._base_path(),
            json.loads(self._names_path.read_text(encoding="utf-8")),
            self.imatrix_path,
            self._config.imatrix != "never",
            usable_threads(self._config.num_threads),
        )

    @cached_property
    def _costs(self) -> TensorCosts:
        path = self._model.scratch_dir / f"{self._model.title}-measured.json"
        if not path.is_file():
            calibration = self._model.calibration(
                self._config.mix_tokens, skip_tokens=self._config.imatrix_tokens
            )
            measure_costs(self._mix_source, calibration, self._model.scratch_dir).write(path)
        return TensorCosts.read(path)

    def _base_path(self) -> Path:
        """Return the unquantized file: one of the configured files, or a temporary one."""
        model = self._model
        path = self._dir / f"{model.title}-{BASE_TYPE}.gguf"
        if BASE_TYPE not in model.types or not path.is_file():
            path = model.scratch_dir / path.name
        if not path.is_file():
            self._write_base(path, BASE_TYPE)
        return path

    def _write_base(self, path: Path, base_type: BaseType) -> None:
        model = self._model
        with replacing(path) as temporary:
            texts = model.lineage if model.adapter is None else {}  # A base is no student's.
            names = write_base_gguf(model.converted_dir, temporary, base_type, model.name, texts)
        write_text_atomically(self._names_path, json.dumps(names))

    @property
    def _names_path(self) -> Path:
        return self._model.scratch_dir / f"{self._model.title}-names.json"


def take_original(source: GgufSource, path: Path) -> None:
    """Link or copy the file that a teacher came in.

    Raises:
        ManifestMismatchError: It has changed since the checkpoint was made of it.
        ArtifactError: It cannot be read.
    """
    with replacing(path) as temporary:
        try:
            temporary.hardlink_to(source.path.resolve())
        except OSError:  # Another file system, or one without links.
            shutil.copyfile(source.path, temporary)
        found = sha256_file(temporary)
        if found != source.sha256:
            raise ManifestMismatchError(
                "the teacher's GGUF file has changed since its checkpoint was made",
                where=source.path,
                expected=f"sha256 {source.sha256}",
                found=found,
                hint="restore the file, or name it as generate.teacher.model and generate again",
            )
