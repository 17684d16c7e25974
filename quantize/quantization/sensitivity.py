"""Mean KL(checkpoint‖changed) over conversations when some of a checkpoint's weights are replaced.

Every layer's output is kept for each conversation, so that for a change in a late layer the early
ones are not run again.

Shape legend: T tokens of one conversation, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantize.loading import load_model

if TYPE_CHECKING:
    from torch import Tensor

IN_LAYER = re.compile(r"\blayers\.(\d+)\.")


@dataclass
class _Conversation:
    token_ids: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    """Of each layer."""
    probabilities_TV: Any = None
    entropy_T: Any = None
    """Computed by `_cross_entropy`, so that rounding errors cancel."""


class ChangedCheckpoint:
    """A checkpoint in memory, in float32, whose weights can be replaced temporarily."""

    def __init__(self, checkpoint_dir: Path, sequences: Sequence[list[int]]) -> None:
        """Load the checkpoint and run it over conversations.

        Raises:
            ConversionError: transformers cannot load it.
        """
        import torch

        self._model = load_model(checkpoint_dir)
        self._layers = list(self._model.get_decoder().layers)
        self._parameters = dict(self._model.named_parameters())
        with torch.inference_mode():
            self._conversations = [self._run_unchanged(ids) for ids in sequences]

    @cached_property
    def num_tokens(self) -> int:
        """Number of predictions that a KL is the mean of."""
        return sum(one.token_ids.shape[1] for one in self._conversations)

    def kl_nats(self, changes: Mapping[str, NDArray[np.float32]]) -> float:
        """Return the mean KL(checkpoint‖changed) per token, the whole vocabulary summed.

        Args:
            changes: New weights by the checkpoint's names; tied weights change together.
        """
        import torch

        first = min(map(self._first_layer, changes), default=len(self._layers))
        total = 0.0
        with torch.inference_mode(), self._changed(changes):
            for one in self._conversations:
                with self._skipping(first, one.outputs):
                    logits_TV = self._model(one.token_ids, use_cache=False).logits[0]
                cross_T = _cross_entropy(one.probabilities_TV, logits_TV)
                total += float((cross_T - one.entropy_T).double().sum())
        return max(total / self.num_tokens, 0.0)

    def _first_layer(self, name: str) -> int:
        """Return the first layer that a weight acts in or before."""
        if found := IN_LAYER.search(name):
            return int(found[1])
        is_embedding = self._parameters[name] is self._model.get_input_embeddings().weight
        return 0 if is_embedding else len(self._layers)

    @contextmanager
    def _changed(self, changes: Mapping[str, NDArray[np.float32]]) -> Iterator[None]:
        import torch

        kept = {name: self._parameters[name].data for name in changes}
        try:
            for name, weights in changes.items():
                self._parameters[name].data = torch.tensor(weights).to(self._model.device)
            yield
        finally:
            for name, weights in kept.items():
                self._parameters[name].data = weights

    @contextmanager
    def _skipping(self, first: int, outputs: Sequence[Tensor]) -> Iterator[None]:
        """Let the layers before `first` return their kept outputs."""
        try:
            for layer, output in zip(self._layers[:first], outputs, strict=False):
                layer.forward = lambda *_, _output=output, **__: _output
            yield
        finally:
            for layer in self._layers[:first]:
                del layer.forward

    def _run_unchanged(self, token_ids: list[int]) -> _Conversation:
        import torch

        one = _Conversation(torch.tensor([token_ids], device=self._model.device))
        handles = [
            layer.register_forward_hook(lambda _, __, output: one.outputs.append(output))
            for layer in self._layers
        ]
        logits_TV = self._model(one.token_ids, use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        one.probabilities_TV = logits_TV.softmax(-1)
        one.entropy_T = _cross_entropy(one.probabilities_TV, logits_TV)
        return one


def _cross_entropy(probabilities_TV: Tensor, logits_TV: Tensor) -> Tensor:
    return logits_TV.logsumexp(-1) - (probabilities_TV * logits_TV).sum(-1)
