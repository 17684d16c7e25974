"""The settings of the train stage: `[train]` and the tables below it.

In: TOML values. Out: one frozen, validated table. Imports no heavy library.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from potstill.config import Table


class StudentConfig(Table):
    """What the student starts from: a pruned teacher, or a checkpoint."""

    num_layers: int = Field(default=24, ge=1)
    """Layers to keep of the teacher. 24 of the embedded teacher's 30 is the demo's trade: a fifth
    of the layers gone, and little enough damage to mend in minutes. Ignored with `checkpoint`."""
    checkpoint: str | None = None
    """Hugging Face checkpoint (directory or hub name) to start from instead of pruning the teacher.
    It must have the teacher's tokenizer; a padded vocabulary is fine."""
    max_influence_conversations: int = Field(default=16, ge=1)
    """Validation conversations over which block influence is averaged. The ranking of layers
    settles within a few thousand tokens."""


class KDConfig(Table):
    """Token-level distillation and its mix with sequence-level distillation."""

    weight: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of the token-level loss; the rest is cross-entropy on the teacher's tokens. The stored
    distribution says more than one draw from it, so it gets most of the weight."""
    divergence: Literal["forward_kl"] = "forward_kl"
    """Which token-level loss, by its name in `train.losses.DIVERGENCES`."""
    chunk_tokens: int = Field(default=256, ge=1)
    """Tokens whose logits exist at once. 256 x 49,152 logits in float32 are 50 MB; smaller chunks
    read the head's weights more often, larger ones gain nothing on a CPU."""


class LoRAConfig(Table):
    """Low-rank adapters, for `method = "lora"`; merged into the weights at the end."""

    rank: int = Field(default=16, ge=1)
    """Rank of every adapter. 16 is the usual least for distillation."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the adapters; twice the rank keeps the step size when the rank changes."""


class FreezeConfig(Table):
    """What full fine-tuning leaves as it is."""

    embeddings: bool = True
    """Embeddings and head. A frozen head needs no weight gradient, the costliest product of a
    small model's step, and its optimizer state is saved too."""
    layers_below_removed: bool = False
    """The layers below the first removed one. They still see the teacher's own hidden states, and
    freezing them spares their backward pass."""


class EvaluationConfig(Table):
    """Held-out fidelity to the teacher, before and after training."""

    max_conversations: int = Field(default=64, ge=1)
    """Test conversations to measure at most; the standard error is reported beside the mean."""


class TrainConfig(Table):
    """The train stage."""

    student: StudentConfig = StudentConfig()
    kd: KDConfig = KDConfig()
    method: Literal["full", "lora"] = "full"
    """Full fine-tuning recovers a pruned student furthest; LoRA needs far less optimizer memory."""
    lora: LoRAConfig = LoRAConfig()
    freeze: FreezeConfig = FreezeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; weights and optimizer state are float32 in any case. "auto" is
    bfloat16 where the processor multiplies it natively (about three times faster), else float32."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the saved weights. float32 holds the trained weights exactly; bfloat16 halves
    the file and costs the rounding that the reported figures then include."""
    num_epochs: float = Field(default=1.0, gt=0.0)
    """Passes over the train split, when `max_steps` is unset."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; overrides `num_epochs`. None: as many as `num_epochs` needs."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations in one forward pass, of similar length so that little is padding."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step; the loss is the mean over all their tokens."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens of prompt and completion; the rest of a longer conversation is cut off."""
    learning_rate: float = Field(default=4e-4, gt=0.0)
    """Peak of the schedule. High for fine-tuning: pruning has done damage that must be mended in
    few steps."""
    warmup_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises, before it falls as a cosine."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW's decay. None: the teacher's weights are not something to shrink away from."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients of a larger norm are scaled down to it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third slower, for models that fill memory."""
    save_steps: int = Field(default=100, ge=1)
    """Optimizer steps between saved training states; what a killed run may lose."""
    logging_steps: int = Field(default=5, ge=1)
    """Optimizer steps between lines in `metrics.jsonl`."""
    seed: int = 0
    """Seed of the order of conversations and of adapter weights."""
