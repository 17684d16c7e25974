"""The settings of the train stage: `[train]` and the tables below it.

In: TOML values. Out: one frozen, validated table. Imports no heavy library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from potstill.config import Table


class StudentConfig(Table):
    """The student before training: a pruned teacher, or a checkpoint."""

    num_layers: int = Field(default=24, ge=1)
    """Layers to keep of the teacher. 24 of the default teacher's 30 is the preset general's
    trade-off: a fifth of the layers removed, with damage that minutes of training repair. Ignored
    with `checkpoint`, and where `layers` lists them."""
    layers: Literal["influence", "even"] | list[Annotated[int, Field(ge=0)]] = "influence"
    """Which layers of the teacher to keep: those with most influence on its hidden states,
    `num_layers` evenly spread ones (first and last among them), or a list of their numbers from 0.
    Influence is measured, so it is the default."""
    intermediate_size: int | None = Field(default=None, ge=1)
    """Neurons to keep in each layer's MLP, those of the largest activations; a multiple of 256 is
    best. None keeps all: a removed layer also takes its attention and key-value cache along. For
    the same share of parameters neurons cost less fidelity at first (docs/how-to/students.md)."""
    checkpoint: str | None = None
    """Checkpoint or GGUF file, as for `generate.teacher.model`, to start from instead of pruning
    the teacher. A padded vocabulary is fine. With another tokenizer than the teacher's, the
    conversations' text is tokenized again and only sequence-level distillation (`kd.weight = 0`)
    is possible."""
    max_calibration_conversations: int = Field(default=16, ge=1)
    """Validation conversations over which influence and activations are averaged. The ranking of
    layers settles within a few thousand tokens."""

    @model_validator(mode="after")
    def _layers_are_of_a_teacher(self) -> StudentConfig:
        if isinstance(self.layers, list) and len(set(self.layers)) != max(len(self.layers), 1):
            raise ValueError("layers must list at least one layer, and each only once")
        given = isinstance(self.layers, list) or self.intermediate_size is not None
        if given and self.checkpoint is not None:
            raise ValueError(
                "layers and intermediate_size apply to the teacher: omit them or the checkpoint"
            )
        return self


class KDConfig(Table):
    """Token-level distillation and its mix with sequence-level distillation."""

    weight: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of the token-level loss; the rest is cross-entropy on the teacher's tokens. The stored
    distribution has more information than one draw from it, so it gets most of the weight."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"] = (
        "forward_kl"
    )
    """The token-level loss, by its name in `train.losses.DIVERGENCES`. The teacher's own samples
    estimate the gradient of forward KL."""
    tail: Literal["bucket", "sample", "renormalize", "truncate"] = "bucket"
    """Treatment of the tokens that are not stored: one category with their whole mass (a lower
    bound of the full divergence), the teacher's own sampled token as a draw from them (unbiased;
    refused unless sampled at temperature 1 and top-p 1 without selection), or none, with the stored
    ones renormalized or not (biased towards over-confidence; for comparison)."""
    beta: float = Field(default=0.5, gt=0.0, lt=1.0)
    """Weight of the teacher in the mixture of `jsd`; 0.5 is the symmetric one."""
    skew: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the other distribution that `skew_kl` and `skew_reverse_kl` mix in; DistiLLM's
    default."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Both distributions are flattened by it before they are compared, and the loss is multiplied
    by its square so that gradients keep their size. Values other than 1 need the tail `bucket`, the
    only one with which both are complete distributions. The default is the temperature at which the
    student answers."""
    chunk_tokens: int = Field(default=256, ge=1)
    """Tokens whose logits exist at once. 256 x 49,152 logits in float32 are 50 MB; smaller chunks
    read the head's weights more often, larger ones are no faster on a CPU."""

    @model_validator(mode="after")
    def _temperature_needs_whole_distributions(self) -> KDConfig:
        if self.temperature != 1.0 and self.tail != "bucket":
            raise ValueError(
                f"a temperature other than 1 needs the tail 'bucket', not {self.tail!r}: the "
                "tail mass at another temperature is not stored"
            )
        return self


class LoRAConfig(Table):
    """Low-rank adapters, for `method = "lora"`."""

    rank: int = Field(default=16, ge=1)
    """Rank of every adapter. 16 is the usual minimum for distillation."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the adapters; twice the rank keeps the step size when the rank changes."""
    use_rslora: bool = False
    """Divide by the rank's square root instead of the rank: for ranks of 64 and more."""
    use_dora: bool = False
    """Learn the length of each weight's columns separately from their direction: closer to full
    fine-tuning at low rank, but slower."""
    merge: bool = True
    """Whether the student is served with the adapter merged into its weights. False keeps the
    adapter as a small file of its own, so that one base in memory serves several tasks. The student
    must then start from a complete checkpoint, without parts removed."""

    @model_validator(mode="after")
    def _kept_adapter_is_of_low_rank_alone(self) -> LoRAConfig:
        if self.use_dora and not self.merge:
            raise ValueError("use_dora needs merge = true: llama.cpp's adapters have no lengths")
        return self


class FreezeConfig(Table):
    """Parameters that full fine-tuning does not change."""

    embeddings: bool = True
    """Embeddings and head. A frozen head needs no weight gradient, the costliest product of a
    small model's step, and its optimizer state is saved too."""
    layers_below_removed: bool = False
    """The layers below the first removed one. Their inputs are still the teacher's own hidden
    states, and freezing them saves their backward pass. Not with `student.intermediate_size`, after
    which no layer is the teacher's own."""


class EvaluationConfig(Table):
    """Held-out fidelity to the teacher: before, during and after training."""

    max_conversations: int = Field(default=64, ge=1)
    """Most conversations to measure; the standard error is reported with the mean. Before and after
    training they are from the test split, during training from the validation split."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between measurements during training. None measures none, which is
    fastest."""
    patience: int | None = Field(default=None, ge=1)
    """Measurements without a lower held-out loss after which training stops; the student is then
    the best one measured. None: never. Needs `every_steps`."""
    num_generations: int = Field(default=4, ge=0)
    """Prompts that the student answers at each measurement, kept in `generations.jsonl`: a loss
    does not show a student that repeats itself."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest of those answers, in tokens."""

    @model_validator(mode="after")
    def _patience_needs_measurements(self) -> EvaluationConfig:
        if self.patience is not None and self.every_steps is None:
            raise ValueError("patience counts measurements: set every_steps as well")
        return self


class ServedTeacherConfig(Table):
    """A server that runs the teacher and scores token ids, such as vLLM."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address of its API, version included, such as http://127.0.0.1:8001/v1."""
    model: str = Field(min_length=1)
    """The teacher's name there."""
    api_key_variable: str | None = Field(default=None, min_length=1)
    """Environment variable that holds the server's key; None sends none."""
    top_logprobs: int = Field(default=128, ge=1)
    """Most probable tokens whose log-probabilities are compared; all others are one category with
    their whole mass. vLLM must allow as many (`--max-logprobs`)."""
    max_concurrency: int = Field(default=16, ge=1)
    """Answers that are scored at once."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts after a lost connection, a timeout, or status 408, 409, 429 and 5xx."""
    timeout_seconds: float = Field(default=300.0, gt=0.0)
    """Longest wait for one answer's scores."""


class OnPolicyConfig(Table):
    """An on-policy phase, in which the student answers and the teacher corrects it token by token.

    TRL's DistillationTrainer, or its GOLDTrainer where the tokenizers differ. The teacher is in
    memory or on a server, and the student samples while it trains.
    """

    max_steps: int = Field(default=0, ge=0)
    """Optimizer steps; 0 skips the phase. It costs far more per token than the stored
    conversations, and corrects what they do not contain: the student's own mistakes."""
    batch_size: int = Field(default=4, ge=1)
    """Prompts per optimizer step."""
    max_completion_tokens: int = Field(default=128, ge=1)
    """Longest answer that is sampled and corrected."""
    learning_rate: float = Field(default=1e-5, gt=0.0)
    """Peak of the schedule. Lower than before, because the student is already nearly trained."""
    beta: float = Field(default=1.0, ge=0.0, le=1.0)
    """0 is forward KL, 1 reverse KL, between them generalized JSD (TRL's `beta`). The student's own
    samples estimate the gradient of reverse KL."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Of sampling and of the loss (TRL's `temperature`)."""
    teacher: ServedTeacherConfig | None = None
    """Where the teacher runs. None loads it beside the student."""

    @model_validator(mode="after")
    def _served_distributions_are_whole(self) -> OnPolicyConfig:
        if self.teacher is not None and self.temperature != 1.0:
            raise ValueError(
                "on_policy.temperature must be 1 with on_policy.teacher: the tail mass at another "
                "temperature is not known"
            )
        return self


class BaselineConfig(Table):
    """Training on the known answers of a task's examples alone, for `potstill baseline`.

    All other settings are those of the student, but for `kd.weight`, which is 0, and the phases
    that need a teacher.
    """

    num_epochs: int = Field(default=20, ge=1)
    """Most passes over the examples. How many there are is chosen by the loss on a fifth of the
    examples that is held out; the student is then trained again, on all of them."""
    patience: int = Field(default=3, ge=1)
    """Passes without a lower held-out loss after which the choice ends."""


BlockFileType = Literal["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
"""GGUF files whose layers consist of blocks of one type, 32 values each."""


class QuantizationAwareConfig(Table):
    """A last phase that trains the student with the quantized weights of a file.

    It continues on the stored conversations, with the same loss, while its weights are quantized as
    in the file. All parameters are trained, except embeddings and head if they are frozen; adapters
    are merged first.
    """

    type: BlockFileType
    """Type of the file, made without an importance matrix. The smaller it is, the more the phase
    helps."""
    num_epochs: float = Field(default=1.0, gt=0.0)
    """Passes over the train split, when `max_steps` is unset."""
    max_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, instead of `num_epochs`."""
    learning_rate: float = Field(default=2e-4, gt=0.0)
    """Peak of the schedule."""

    @field_validator("type", mode="before")
    @classmethod
    def _type_is_of_small_blocks(cls, value: object) -> object:
        if isinstance(value, str) and value not in get_args(BlockFileType):
            raise ValueError(
                f"a student cannot be trained for {value}, a file with a mix of types: "
                f"take {', '.join(get_args(BlockFileType))}, or leave the table out and "
                "let quantize.types make it with an importance matrix"
            )
        return value


class TrainConfig(Table):
    """The train stage."""

    student: StudentConfig = StudentConfig()
    kd: KDConfig = KDConfig()
    method: Literal["full", "lora"] = "full"
    """Full fine-tuning recovers a pruned student furthest; LoRA needs far less optimizer memory."""
    lora: LoRAConfig = LoRAConfig()
    freeze: FreezeConfig = FreezeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    on_policy: OnPolicyConfig = OnPolicyConfig()
    quantization_aware: QuantizationAwareConfig | None = None
    """None skips the phase, which improves one type of file and hardly changes the others."""
    baseline: BaselineConfig = BaselineConfig()
    replay: tuple[Path, ...] = ()
    """Further runs whose training conversations are learned too, such as those of the student that
    this one starts from, so that it forgets nothing. Their teacher's tokenizer and chat template
    must be this run's; conversations about prompts that are held out here are left out."""
    launch: str | None = None
    """Train in several processes: `ddp`, `fsdp2` or `deepspeed` (train/launch/), or the path of a
    configuration of `accelerate launch`. None: in this process, on one device."""
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
    packing: bool = False
    """Join conversations to rows of up to `max_length` tokens without attention between them,
    instead of padding those of similar length; `batch_size` then counts rows. For attention that
    skips masked parts (on a GPU); a CPU computes and discards them."""
    batch_size: int = Field(default=8, ge=1)
    """Conversations in one forward pass, of similar length so that little is padding. With several
    processes: in each."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Forward passes per optimizer step; the loss is the mean over all their tokens."""
    max_length: int = Field(default=1024, ge=2)
    """Tokens of prompt and completion; the rest of a longer conversation is cut off."""
    learning_rate: float = Field(default=4e-4, gt=0.0)
    """Peak of the schedule. High for fine-tuning, because the damage of pruning must be repaired in
    few steps."""
    warmup_share: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the steps over which the learning rate rises, before it falls as a cosine."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """AdamW's decay; 0, because the student's weights should stay near the teacher's."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients of a larger norm are scaled down to it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third slower, for models that fill the
    memory."""
    compile: bool = False
    """Compile the layers (torch.compile): minutes at the start, for long runs."""
    save_steps: int = Field(default=100, ge=1)
    """Optimizer steps between saved training states, which is what a killed run may lose."""
    logging_steps: int = Field(default=5, ge=1)
    """Optimizer steps between lines in `metrics.jsonl`."""
    report_to: list[str] = Field(default_factory=list)
    """Where metrics go besides `metrics.jsonl`: names that transformers knows, such as
    `tensorboard`, `trackio` or `wandb`, each installed by you."""
    seed: int = 0
    """Seed of the order of conversations and of adapter weights."""

    @model_validator(mode="after")
    def _quantized_weights_can_be_put_back(self) -> TrainConfig:
        if self.quantization_aware is not None and self.launch == "deepspeed":
            raise ValueError(
                "quantization_aware needs launch ddp or fsdp2: DeepSpeed changes the weights while "
                "they are quantized"
            )
        return self

    def deciding(self, exclude: set[str]) -> dict[str, Any]:
        """Return the settings that decide a stage's result, as JSON values.

        Newer ones are left out at their defaults: students of earlier versions stay finished.

        Args:
            exclude: Keys that do not count.
        """
        settings = self.to_json(exclude=exclude)
        if self.lora.merge:
            del settings["lora"]["merge"]
        if self.on_policy.teacher is None and "on_policy" in settings:
            del settings["on_policy"]["teacher"]
        if not self.replay:
            settings.pop("replay", None)
        return settings

    @property
    def keeps_adapter(self) -> bool:
        """Whether the student is an adapter on its base."""
        return self.method == "lora" and not self.lora.merge

    @model_validator(mode="after")
    def _adapter_can_be_kept(self) -> TrainConfig:
        obstacles = {
            'method = "lora"': self.method != "lora",
            "no quantization_aware, which trains merged weights": self.quantization_aware,
            'save_dtype = "float32", in which the adapter is compared': self.save_dtype
            != "float32",
            "no student.intermediate_size": self.student.intermediate_size,
        }
        missing = next((needed for needed, found in obstacles.items() if found), None)
        if missing is not None and not self.lora.merge:
            raise ValueError(f"lora.merge = false needs {missing}")
        return self

    @model_validator(mode="after")
    def _narrowed_layers_are_trained(self) -> TrainConfig:
        if self.freeze.layers_below_removed and self.student.intermediate_size is not None:
            raise ValueError(
                "freeze.layers_below_removed would leave narrowed MLPs (student.intermediate_size) "
                "as pruning damaged them"
            )
        return self
