"""The teacher's checkpoint on disk, and the facts that later stages rely on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generate.teachers.config import TeacherConfig
from generate.teachers.end_tokens import read_end_token_ids
from potstill.checkpoints import checkpoint_fingerprint, count_parameters, find_checkpoint
from potstill.errors import TeacherError, first_line
from potstill.facts.shared import TeacherIdentity
from potstill.models.dequantized import read_source


@dataclass(frozen=True)
class TeacherCheckpoint:
    """A teacher's checkpoint on this machine."""

    name: str
    """Its name in the configuration."""
    dir: Path
    dtype: str
    """Precision of sampling, as vLLM names it."""
    tokenizer: Any
    context_tokens: int
    """Longest prompt plus completion of the model, in tokens."""
    vocab_size: int
    num_parameters: int
    """0 for a served teacher without weights on this machine."""
    fingerprint: str
    """Hash that identifies the checkpoint."""
    gguf_sha256: str | None
    """Of the GGUF file that the checkpoint was made from; None for other checkpoints."""
    served_text: str | None = None
    """The name of a teacher that gives text alone, of which the checkpoint is the student's."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end its answers."""
        return read_end_token_ids(str(self.dir), self.tokenizer)

    @property
    def identity(self) -> TeacherIdentity:
        """What identifies the teacher in a manifest."""
        return TeacherIdentity(
            model=self.served_text or self.name,
            path=str(self.dir),
            num_parameters=self.num_parameters,
            dtype=self.dtype,
            fingerprint=self.fingerprint,
            gguf_sha256=self.gguf_sha256,
            text_only=self.served_text is not None,
        )


def find_teacher(config: TeacherConfig) -> TeacherCheckpoint:
    """Find the teacher's checkpoint; create or download it if it is missing.

    Raises:
        ArtifactError: There is no checkpoint of that name, or one of its files is damaged.
        TeacherError: It is not a chat model.
    """
    directory = find_checkpoint(config.model)
    source = read_source(directory)
    dtype = "bfloat16" if source is not None and config.dtype == "auto" else config.dtype
    model_config = _load(directory, "AutoConfig", "config.json").get_text_config()
    tokenizer = _load(directory, "AutoTokenizer", "tokenizer files")
    if tokenizer.chat_template is None:
        raise TeacherError(
            "the teacher has no chat template",
            where=directory,
            expected="an instruction-tuned model with a chat template",
            hint="choose the model's chat or instruct variant",
        )
    context_tokens = getattr(model_config, "max_position_embeddings", None)
    if context_tokens is None:
        raise TeacherError(
            "the teacher's config has no context length",
            where=directory / "config.json",
            expected="max_position_embeddings",
            hint="choose a transformer, or add the key",
        )
    served, has_weights = config.endpoint is not None, any(directory.glob("*.safetensors"))
    served_text = config.endpoint.model if config.endpoint and config.gives_text else None
    return TeacherCheckpoint(
        name=config.model,
        dir=directory,
        dtype=dtype,
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        vocab_size=model_config.vocab_size,
        num_parameters=0
        if served_text or (served and not has_weights)
        else count_parameters(directory),
        fingerprint=checkpoint_fingerprint(directory),
        gguf_sha256=None if source is None or served_text else source.sha256,
        served_text=served_text,
    )


def _load(directory: Path, kind: str, what: str) -> Any:  # noqa: ANN401  (untyped library)
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(directory, local_files_only=True)
    except Exception as error:  # The tokenizers library raises no narrower one.
        raise TeacherError(
            f"the teacher's {what} cannot be read",
            where=directory,
            found=first_line(error),
            hint="copy or download the checkpoint again",
        ) from error
