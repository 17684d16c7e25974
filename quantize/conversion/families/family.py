"""How an architecture is laid out in GGUF, with the defaults that most share.

In: a Hugging Face configuration and weights. Out: GGUF hyperparameters and weights in the layout
llama.cpp expects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from potstill.errors import ConversionError
from quantize.conversion.rope import add_rope, rope_settings

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from torch import Tensor

Settings = Mapping[str, tuple[object, tuple[object, ...]]]
"""By the name of a setting: the configuration's value, and the values llama.cpp supports."""


def keep_as_is(name: str, weights: Tensor, config: Any) -> Tensor:  # noqa: ANN401, ARG001
    """Return the weights unchanged: llama.cpp uses the checkpoint's own layout."""
    return weights


def nothing_else(config: Any) -> Settings:  # noqa: ANN401, ARG001
    """Return no settings besides those checked in every architecture."""
    return {}


def head_dim(config: Any) -> int:  # noqa: ANN401
    """Return the number of dimensions of one attention head."""
    explicit = getattr(config, "head_dim", None)
    return int(explicit or config.hidden_size // config.num_attention_heads)


def add_shape(
    writer: GGUFWriter,
    config: Any,  # noqa: ANN401
    *,
    context_tokens: int | None = None,
) -> None:
    """Write a decoder's sizes and rotary embedding into the GGUF header.

    Args:
        context_tokens: Longest sequence the file supports; None: `max_position_embeddings`.
    """
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context_tokens or config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_eps)
    add_rope(writer, config, head_dim(config))


def add_shape_within_window(writer: GGUFWriter, config: Any) -> None:  # noqa: ANN401
    """Write a decoder's sizes; a sliding window, if any, becomes the longest context.

    llama.cpp ignores the window of this architecture, which makes no difference up to its length.
    """
    window = config.sliding_window or config.max_position_embeddings
    add_shape(writer, config, context_tokens=min(window, config.max_position_embeddings))


@dataclass(frozen=True)
class Family:
    """How one architecture is laid out in GGUF.

    Attributes:
        gguf_arch: Its name in llama.cpp.
        transform: Called with a tensor's checkpoint name, weights and configuration.
        add_hyperparameters: Writes its sizes into the header.
        activations: Activation functions that llama.cpp uses for it.
        rope_types: Scalings of its rotary embedding that llama.cpp supports.
        settings: Returns further settings of which llama.cpp does not support every value.
        needs_head: Whether llama.cpp refuses to use the embedding for a missing head.
    """

    gguf_arch: str
    transform: Callable[[str, Tensor, Any], Tensor] = keep_as_is
    add_hyperparameters: Callable[[GGUFWriter, Any], None] = add_shape
    activations: tuple[str, ...] = ("silu",)
    rope_types: tuple[str, ...] = ("default", "linear", "yarn")
    settings: Callable[[Any], Settings] = field(default=nothing_else)
    needs_head: bool = False

    def refuse_unsupported(self, config: Any, where: object) -> None:  # noqa: ANN401
        """Refuse settings that llama.cpp would ignore silently.

        Raises:
            ConversionError: The configuration has one of them.
        """
        activation = getattr(config, "hidden_act", None) or config.hidden_activation
        settings: Settings = {
            "hidden_act": (activation, self.activations),
            "quantization_config": (getattr(config, "quantization_config", None), (None,)),
            **rope_settings(config, self.rope_types),
            **self.settings(config),
        }
        for key, (found, supported) in settings.items():
            if found not in supported:
                raise ConversionError(
                    f"the model's {key} cannot be expressed in GGUF by this converter",
                    where=where,
                    expected=" | ".join(map(str, supported)),
                    found=found,
                    hint="choose a teacher or student without it",
                )
