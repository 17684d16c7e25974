"""The teacher's final hidden states along conversations, for teachers of small width.

In: conversations by token ids. Out: the vectors its output head multiplies. Logits are the head's
rows times them, and what the model does to logits after that, such as a soft cap.
Knows nothing of files or of how the vectors are stored.

Shapes: T tokens of the teacher, D width, B sequences of a batch, L their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from potstill.errors import TeacherError
from potstill.schema import Conversation

MAX_BATCHED_TOKENS = 4096
"""Padding included. On a CPU larger batches are no faster; a GPU's memory holds this of any model
whose width is worth storing."""
PADDING = 0
"""Any token id: padding stands at the end, where nothing before it attends to it."""


class HiddenStateReader:
    """A teacher that reads instead of sampling.

    Args:
        checkpoint_dir: Hugging Face checkpoint of a causal language model.
        dtype: Precision of the forward pass; "auto" is the checkpoint's.
        lora: A PEFT adapter on top, merged; None for none.

    Raises:
        TeacherError: Checkpoint or adapter cannot be loaded.
    """

    def __init__(self, checkpoint_dir: Path, dtype: str, lora: Path | None = None) -> None:
        import torch

        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _load(checkpoint_dir, dtype, lora).to(self._device).eval()

    def read(self, conversations: Sequence[Conversation]) -> list[NDArray[np.float32]]:
        """Return the states [T, D] that predicted the conversations' `positions_T`, in order."""
        import torch

        states: list[Any] = [None] * len(conversations)
        for indices in _batches([len(one.token_ids) for one in conversations]):
            token_ids_BL, attended_BL = _padded(
                [conversations[index].token_ids for index in indices]
            )
            with torch.inference_mode():
                hidden_BLD = self._model(
                    input_ids=torch.from_numpy(token_ids_BL).to(self._device),
                    attention_mask=torch.from_numpy(attended_BL).to(self._device),
                    use_cache=False,
                ).last_hidden_state
                for index, hidden_LD in zip(indices, hidden_BLD, strict=True):
                    positions_T = torch.from_numpy(conversations[index].positions_T - 1)
                    states[index] = hidden_LD[positions_T.to(self._device)].float().cpu().numpy()
        return states


def _load(checkpoint_dir: Path, dtype: str, lora: Path | None) -> Any:  # noqa: ANN401  (untyped)
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint_dir, dtype=dtype, local_files_only=True
        )
        if lora is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, lora).merge_and_unload()
    except Exception as error:  # Both libraries raise what theirs below raise.
        raise TeacherError(
            "the teacher cannot be loaded to read its hidden states",
            where=checkpoint_dir if lora is None else f"{checkpoint_dir}, {lora}",
            found=(str(error) or type(error).__name__).splitlines()[0],
            hint="copy or download the checkpoint again, or store top log-probabilities instead",
        ) from error
    return model.base_model


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices of sequences of like length; the longest first, where memory runs out."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > MAX_BATCHED_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(
    sequences: Sequence[NDArray[np.int32]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids [B, L], and 1 where they are no padding."""
    attended_BL = np.arange(max(map(len, sequences))) < np.array([[len(one)] for one in sequences])
    token_ids_BL = np.full(attended_BL.shape, PADDING, dtype=np.int64)
    token_ids_BL[attended_BL] = np.concatenate(sequences)
    return token_ids_BL, attended_BL.astype(np.int64)
