"""The [compare] table: how student and teacher are compared, and what decides.

In: values from TOML or `--set`. Out: a validated, frozen table. Knows nothing of models or files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from compare.cost_config import CostConfig
from compare.judge_config import JudgeConfig
from potstill.config import Table

ClusterBy = Literal["cluster", "source", "conversation"]


class SideConfig(Table):
    """One side of the comparison where it is served elsewhere, over OpenAI's API."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address up to and with the version, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """The model's name at the server; None takes the only one that it lists."""
    api_key_variable: str | None = None
    """Environment variable that holds the server's key; None sends none. The key itself never
    stands in a configuration."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of an answer: every server of one's own knows the first
    name, OpenAI's newer models want the second."""


class VerdictConfig(Table):
    """What decides, fixed before any answer is looked at."""

    margin: float = Field(default=0.05, gt=0.0, lt=0.5)
    """How much of the win rate the student may be short of one half and still pass: at 0.05 it
    passes when it surely wins more than 45 % (ties count half). A difference that a reader of few
    answers would not notice; proving it takes about 600 prompts."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Chance of a PASS for a student exactly at the margin; the convention of one-sided tests."""
    cluster_by: ClusterBy = "cluster"
    """What counts as one independent observation: prompts that say nearly the same ("cluster"),
    that come from one file or template ("source"), or each prompt for itself ("conversation")."""


class AssayConfig(Table):
    """Whether a judge can tell good from bad: it is shown pairs whose better side is known."""

    num_prompts: int = Field(default=24, ge=4)
    """Prompts on which each control is judged; with fewer, a fair judge may fail by chance."""
    stop_early: bool = True
    """Whether a judge that has failed one control is asked no more: an invalid judge's win rate
    means nothing, and its answers may cost money."""
    known_worse: SideConfig | None = None
    """A model known to be worse than the teacher, as one more control. None takes the run's student
    as it was before training, where that is the teacher with parts left out and far from it."""


class CompareConfig(Table):
    """How much to measure, how answers are drawn, who judges them and what decides."""

    max_conversations: int = Field(default=64, ge=1)
    """Held-out conversations for fidelity: the first so many of the test split, in stored order.
    The default is the training stage's, so that all rows of the report speak of the same tokens."""
    student: SideConfig | None = None
    """Where the student is served; None serves the run's recommended file."""
    teacher: SideConfig | None = None
    """Where the teacher is served; None serves the run's largest teacher file."""
    prompts: Path | None = None
    """What both are asked: a JSONL file of prompts, or another run, whose test split is taken. None
    takes this run's test split."""
    references_path: Path | None = None
    """JSONL file of known answers (`answer`) and checks (`check`) by their `messages` or `prompt`,
    for judges of kind "reference" and "check" on a run's prompts."""
    num_prompts: int = Field(default=1000, ge=1)
    """Prompts at most that both answer: the first so many. The default takes a whole test split:
    each prompt makes the verdict surer."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Answers of each model to one prompt; their mean counts once. More help less than more
    prompts do."""
    temperature: float = Field(default=0.7, ge=0.0, le=2.0)
    """Sampling temperature of answers. Users of a chat seldom get the most probable answer; at 0
    the teacher cannot be compared with another answer of its own."""
    max_tokens: int = Field(default=200, ge=1)
    """Tokens at most in one answer; enough to judge a chat answer by."""
    seed: int = Field(default=0, ge=0)
    """Where the seeds of answers and of damaged answers start from."""
    judges: tuple[JudgeConfig, ...] = ()
    """Who says which answer is better. The first one that judges quality decides; the others are
    shown. None listed lets the teacher judge, if it passes the assay."""
    verdict: VerdictConfig = Field(default_factory=VerdictConfig)
    assay: AssayConfig = Field(default_factory=AssayConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    sft_run: Path | None = None
    """Another run on the same conversations, trained on the teacher's tokens alone: its student is
    one more step of the loss budget. None leaves the step out."""
    cache_dir: Path | None = None
    """Where answers and judgments are kept for further comparisons. None keeps them while the
    stage works only."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests in flight at once; as many as a CPU decodes together well. A server with GPUs takes
    more."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts after a timeout, a lost connection or status 408, 409, 429 and 5xx."""
    speed_rounds: int = Field(default=5, ge=1)
    """Times each model is timed; models take turns, so that a slow moment of the machine hits all,
    and the median round counts."""
    speed_tokens: int = Field(default=64, ge=2)
    """Tokens at most decoded in one timed answer."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads for fidelity; None takes as many as the process may use."""
    ready_timeout_seconds: float = Field(default=180.0, gt=0)
    """Patience for the endpoint to load its models; large files come slowly from a cold disk."""
    request_timeout_seconds: float = Field(default=600.0, gt=0)
    """Patience for one answer; a large teacher on a CPU needs minutes."""

    @property
    def needs_run(self) -> bool:
        """Whether a file of the run is served."""
        return self.student is None or self.teacher is None

    @model_validator(mode="after")
    def _endpoints_are_asked_something(self) -> Self:
        if not self.needs_run and self.prompts is None:
            raise ValueError("student and teacher are served elsewhere: say which prompts they get")
        return self

    @model_validator(mode="after")
    def _judges_have_names_of_their_own(self) -> Self:
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ValueError(f"two judges have one name: {', '.join(sorted(names))}")
        return self
