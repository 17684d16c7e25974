"""Configuration of the generate stage."""

from __future__ import annotations

import logging
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from generate.curation.config import CurationConfig
from generate.sources.config import SourceConfig
from generate.teachers.config import EngineConfig, RayConfig, TeacherConfig
from generate.teachers.endpoint.config import EndpointConfig
from potstill.config import Table

logger = logging.getLogger(__name__)


class PromptsConfig(Table):
    """What the teacher is asked."""

    path: str | None = None
    """File of prompts, the short form of one source: see `path` there."""
    sources: tuple[SourceConfig, ...] = ()
    """Where prompts come from, mixed by weight. Neither this nor `path`: the teacher writes the
    prompts itself (Magpie)."""
    num_prompts: int = Field(default=1000, ge=3)
    """How many distinct prompts to take before filters leave some out. A file may hold fewer, or
    more: then they are chosen at random, the same ones every time, because files are often sorted
    by topic."""
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """Temperature at which the teacher writes prompts; 1 keeps its own variety."""
    top_p: float = Field(default=0.995, gt=0.0, le=1.0)
    """Nucleus of written prompts; just below 1 drops the rare tokens that derail a question."""
    max_prompt_tokens: int = Field(default=96, ge=4)
    """Written prompts that are not finished after this many tokens are dropped."""
    validation_share: float = Field(default=0.04, gt=0.0, lt=0.5)
    """Share of prompts held out to choose layers and settings."""
    test_share: float = Field(default=0.08, gt=0.0, lt=0.5)
    """Share of prompts held out for every figure that is reported."""

    @model_validator(mode="after")
    def _one_way_to_name_sources(self) -> Self:
        if self.path is not None and self.sources:
            raise ValueError("give path, or sources, not both")
        if all(source.kind == "evolve" for source in self.sources) and self.sources:
            raise ValueError("evolve rewrites the prompts of other sources; name one")
        return self

    @property
    def all_sources(self) -> tuple[SourceConfig, ...]:
        """The sources in one form."""
        if self.path is not None:
            return (SourceConfig(path=self.path),)
        return self.sources or (SourceConfig(kind="magpie"),)


class SamplingConfig(Table):
    """How the teacher answers."""

    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """1, because the token-level loss wants prefixes drawn from the teacher's own distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """1, for the same reason."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion, in tokens."""
    top_logprobs: int = Field(default=128, ge=1, le=255)
    """Most log-probabilities stored at each position."""
    top_mass: float = Field(default=1.0, gt=0.0, le=1.0)
    """Stop storing at a position once this probability is reached."""
    min_probability: float = Field(default=1e-3, ge=0.0, lt=1.0)
    """Leave out tokens less probable than this: of all ways to spend the same bytes it loses least
    probability (`benchmarks/generate/codec.py`)."""
    seed: int = Field(default=0, ge=0)
    """Seed of the whole stage; each prompt's own seed is derived from it."""


class TurnsConfig(Table):
    """How a conversation goes on, and how many there are of a prompt."""

    kind: Literal["single", "simulate", "replay", "score"] = "single"
    """`single`: the last user's turn is answered. `simulate`: after an answer a simulated user goes
    on. `replay`: the user's turns of a stored conversation are asked one after another, its answers
    left out. `score`: nothing is sampled; the answers that are there get log-probabilities."""
    min_turns: int = Field(default=1, ge=1)
    """Fewest answers in a simulated conversation; their number is drawn evenly per prompt."""
    max_turns: int = Field(default=3, ge=1)
    """Most answers in a conversation, simulated or replayed."""
    max_user_tokens: int = Field(default=96, ge=1)
    """Longest simulated user's turn, in tokens; one that is not finished ends the conversation."""
    user: EndpointConfig | None = None
    """Another model that plays the user. None: the teacher itself, in its template's user slot."""
    system_prompts: tuple[str, ...] = ()
    """System prompts for prompts that have none, one drawn for each; empty leaves them without."""
    num_answers: int = Field(default=1, ge=1)
    """Conversations kept of each prompt."""
    best_of: int = Field(default=1, ge=1)
    """Conversations sampled of each prompt, of which the best `num_answers` are kept. More than
    `num_answers` changes what text is likely, so training's `sample` tail is refused."""
    best_by: Literal["logprob", "length", "reward"] = "logprob"
    """What is best: the teacher's highest mean log-probability, most tokens (finished answers
    first), or the score of `reward_model`."""
    reward_model: str | None = None
    """Hugging Face sequence classifier with one output that scores whole conversations."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_turns > self.max_turns:
            raise ValueError("min_turns is more than max_turns")
        if (self.best_by == "reward") != (self.reward_model is not None):
            raise ValueError("best_by = 'reward' and reward_model go together")
        return self

    @property
    def num_sampled(self) -> int:
        """Conversations sampled of each prompt."""
        return 1 if self.kind == "score" else max(self.best_of, self.num_answers)


class GenerateConfig(Table):
    """The `[generate]` table."""

    teacher: TeacherConfig = TeacherConfig()
    """Which model teaches."""
    prompts: PromptsConfig = PromptsConfig()
    """What it is asked."""
    sampling: SamplingConfig = SamplingConfig()
    """How it answers."""
    turns: TurnsConfig = TurnsConfig()
    """How conversations go on, and how many there are."""
    curation: CurationConfig = CurationConfig()
    """What is left out."""
    copy_to: str | None = Field(default=None, min_length=1)
    """URL to which the finished conversations are copied, such as s3://bucket/name: any that fsspec
    knows, with the file system's package installed. None copies nothing."""
    engine: EngineConfig = EngineConfig()
    """How vLLM runs."""
    ray: RayConfig | None = None
    """A Ray cluster that holds copies of the teacher; None: this machine alone."""

    @model_validator(mode="before")
    @classmethod
    def _without_hidden_states(cls, content: Any) -> Any:  # noqa: ANN401  (not yet validated)
        """Ignore `hidden_states = false`, which earlier runs have in their `config.toml`."""
        if isinstance(content, dict) and content.get("hidden_states") is False:
            logger.warning("generate.hidden_states is ignored: the key was removed")
            return {key: value for key, value in content.items() if key != "hidden_states"}
        return content

    @property
    def has_replicas(self) -> bool:
        """Whether several processes of this machine hold a teacher each."""
        here = self.teacher.endpoint is None and self.ray is None
        return here and self.engine.data_parallel_size > 1
