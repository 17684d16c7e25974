"""The [compare] table: how student and teacher are compared, and what decides the verdict.

In: values from TOML or `--set`. Out: a validated, frozen table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from compare.cost_config import CostConfig
from compare.gate_config import Gate, check_gate
from compare.judge_config import JudgeConfig
from potstill.config import Table
from potstill.errors import ArtifactError

CHAT_TEMPERATURE = 0.7
CandidateKind = Literal[
    "teacher_file",
    "teacher_zero_shot",
    "untrained",
    "untrained_instructed",
    "known_answers",
    "files",
    "linear_classifier",
]
ClusterBy = Literal["cluster", "source", "conversation"]


class SideConfig(Table):
    """A model of the comparison behind another server's OpenAI API."""

    base_url: str = Field(pattern=r"^https?://[^@/\s]+(/\S*)?$")
    """Address including the version, such as http://127.0.0.1:8000/v1."""
    model: str | None = None
    """The model's name at the server; None takes the only model that the server lists."""
    api_key_variable: str | None = None
    """Environment variable that holds the server's key; None sends none. Keys themselves are never
    in a configuration."""
    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The server's name of the limit on tokens: self-hosted servers know the first, OpenAI's newer
    models require the second."""


class VerdictConfig(Table):
    """The test, fixed before the first answer."""

    margin: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Non-inferiority margin of the win rate (ties count half): at 0.05, PASS needs its lower bound
    above 45%. The default is a difference that a reader of few answers would not notice; it takes
    about 670 prompts to show it."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Probability of PASS for a student exactly at the margin; 0.05 is the convention of one-sided
    tests."""
    cluster_by: ClusterBy = "cluster"
    """One independent observation: near-duplicate prompts ("cluster"), prompts of one file or
    template ("source"), or each prompt ("conversation")."""


class AssayConfig(Table):
    """The test of judges, on pairs whose better side is known."""

    num_prompts: int = Field(default=24, ge=4)
    """Prompts on which each control is judged; with fewer, a sound judge may fail by chance."""
    stop_early: bool = True
    """Whether a judge that has failed one control is not asked further: an invalid judge's win rate
    means nothing, and its readings may cost money."""
    known_worse: SideConfig | None = None
    """A model known to be worse than the teacher, for one more control. None takes the run's
    student before training, if that is the teacher without some layers and far from it."""


class PlanConfig(Table):
    """What `potstill plan`, `init` and `--dry-run` assume of a comparison that is still to be made.

    None of it changes a result.
    """

    power: float = Field(default=0.8, gt=0.5, lt=1.0)
    """Probability that a student equal to its teacher passes; the usual one."""
    tie_share: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of pairs with the same score on both sides. None: 0.3 for a preference judge, 0.8 for
    one that measures (of two models that are right in 90%, both are right or wrong in 82% if
    they err independently)."""
    cluster_size: float = Field(default=1.0, ge=1.0)
    """Mean number of prompts in a cluster."""
    cluster_correlation: float = Field(default=0.1, ge=0.0, le=1.0)
    """Correlation of scores within a cluster."""
    sensitivity: float | None = Field(default=None, ge=0.0, le=1.0)
    """Share of people's preference that a preference judge shows. None is an unknown one, which
    saves no vote."""
    variance: float | None = Field(default=None, gt=0.0)
    """Variance of a pair's score with the effect of clusters, in place of ties and clusters:
    `potstill plan` takes it from a finished comparison."""
    seconds_per_vote: float = Field(default=20.0, gt=0.0)
    """A person's time for one vote on the playground's blind page."""


class MemorizationConfig(Table):
    """How many of its training answers the student completes verbatim."""

    num_answers: int = Field(default=100, ge=0)
    """Most training answers, and most held-out ones, whose completion is measured. With 100 of each
    and none completed, the surplus is shown to be below 4%. 0 measures nothing."""
    min_tokens: int = Field(default=20, ge=1)
    """Fewest tokens of an answer's second half, about a sentence: a shorter one, such as a label,
    may be completed without having been seen."""


class CompareConfig(Table):
    """What is measured, how answers are sampled, the judges, and what decides the verdict."""

    max_conversations: int = Field(default=64, ge=1)
    """Most held-out conversations for fidelity, from the first of the test split. The default is
    the train stage's, so that all rows of the report are of the same tokens."""
    student: SideConfig | None = None
    """Where the student is served; None serves the run's recommended file."""
    teacher: SideConfig | None = None
    """Where the teacher is served; None serves the run's largest teacher file."""
    prompts: Path | None = None
    """The prompts: a JSONL file, or another run, whose test split is used. None takes the known
    answers of this run's task, or else this run's test split."""
    references_path: Path | None = None
    """JSONL file of known answers (`answer`) and checks (`check`) by their `messages` or `prompt`,
    for judges of kind "reference" and "check" on a run's prompts."""
    num_prompts: int = Field(default=1000, ge=1)
    """Most prompts that both models answer: the first of a test split or a file; of a task's known
    answers, a sample by `seed`. The default takes a whole test split: more prompts narrow the
    interval."""
    candidates: tuple[CandidateKind, ...] = get_args(CandidateKind)
    """Who else answers a task's prompts, for the table of candidates: the teacher's file, where its
    stored answers are compared; the teacher without examples,
    if it has some; the student before training, and with the teacher's instructions; the student
    trained on the known answers alone (`potstill baseline`); the student's other files; and for
    labels a linear classifier. Each is left out where it does not exist."""
    teacher_answers: Literal["stored", "served"] = "stored"
    """The teacher's answers to a task's references: those that the generate stage stored, at
    temperature 0, or answers of the teacher's file, asked again. With stored ones the file answers
    `candidate_prompts` of them as a candidate of its own, for its time and energy."""
    task_schema: bool = True
    """Bind the answers of all models that are asked a task's references to its `answer_schema`, or
    to its labels where an answer is a label alone, as `potstill serve` does for the student's
    (`serve.task_schema`). The teacher's stored answers are bound if they were sampled so
    (`generate.sampling.structured`); other servers are not asked for labels."""
    candidate_prompts: int = Field(default=100, ge=1)
    """Prompts of the task that each of them answers, a sample by `seed`; 100 show 10 points."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Answers of each model to one prompt; their mean counts once. More prompts help more than more
    answers."""
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    """Sampling temperature of answers. None: 0 for a task with known answers, whose users want the
    best answer each time; else 0.7, as chats are rarely decoded greedily, and at 0 the teacher
    cannot be compared with another answer of its own."""
    max_tokens: int = Field(default=200, ge=1)
    """Most tokens of one answer; enough to judge a chat answer."""
    seed: int = Field(default=0, ge=0)
    """Seed of answers and of damaged answers."""
    memorization: MemorizationConfig = MemorizationConfig()
    """How the memorization of training answers is measured."""
    judges: tuple[JudgeConfig, ...] = ()
    """The first judge of quality decides; the others are reported. Before them come the metrics of
    a task with known answers. Without either the teacher judges, if it passes the assay."""
    verdict: VerdictConfig = Field(default_factory=VerdictConfig)
    gate: Gate | None = None
    """The requirements of PASS; all must be met. None takes, for a task with known answers, its
    first metric, the schema, refusals, and the suites of stopping and refusing; else only the
    judge that decides."""
    assay: AssayConfig = Field(default_factory=AssayConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    plan: PlanConfig = Field(default_factory=PlanConfig)
    sft_run: Path | None = None
    """Another run on the same conversations, trained on the teacher's tokens alone: its student is
    another row of the report. None omits it."""
    former_run: Path | None = None
    """The run of the student that this one would replace, as `potstill update` sets it: its
    recommended file answers the same prompts, the same judges compare both, and the gate requires
    that this student is worse by less than the margin. None compares with the teacher alone."""
    cache_dir: Path | None = None
    """Where answers and judgments are cached for further comparisons. None caches them only while
    the stage works; with a judge of criteria or of votes, in the run, so that labels and votes are
    of the same answers."""
    max_concurrency: int = Field(default=8, ge=1)
    """Concurrent requests; the default suits a CPU. A server with GPUs takes more."""
    max_retries: int = Field(default=5, ge=0)
    """Retries after a timeout, a lost connection or status 408, 409, 429 and 5xx."""
    speed_rounds: int = Field(default=5, ge=1)
    """Timed answers of each model. Models take turns, so that a slow moment of the machine affects
    all, and the median counts."""
    speed_tokens: int = Field(default=64, ge=2)
    """Most tokens of one timed answer."""
    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads for fidelity; None takes all that the process may use."""
    ready_timeout_seconds: float = Field(default=180.0, gt=0)
    """Timeout for the endpoint to load its models; large files load slowly from a cold disk."""
    request_timeout_seconds: float = Field(default=600.0, gt=0)
    """Timeout for one answer; a large teacher on a CPU needs minutes."""

    @property
    def sampling_temperature(self) -> float:
        """The temperature, where no task with known answers lowers it."""
        return CHAT_TEMPERATURE if self.temperature is None else self.temperature

    @property
    def takes_stored_answers(self) -> bool:
        """Whether the teacher's answers to a task's references are those of the run's samples."""
        is_asked = self.teacher is not None or self.teacher_answers == "served"
        return not (is_asked or self.temperature or self.samples_per_prompt > 1)

    def require_teacher(self, model: str) -> None:
        """Check that a server answers for a teacher that gave text alone.

        Raises:
            ArtifactError: None does, and there is no file of it.
        """
        if self.teacher is None:
            raise ArtifactError(
                "a teacher that gives text alone has no file to compare with",
                where="compare.teacher",
                expected="a server that answers for it",
                found=f"none; {model} taught behind an API",
                hint="name the API there: base_url, model and api_key_variable",
            )

    @property
    def needs_run(self) -> bool:
        """Whether a file of the run is served."""
        return self.student is None or self.teacher is None

    @model_validator(mode="after")
    def _judges_have_names_of_their_own(self) -> Self:
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise ValueError(f"judges need different names: {', '.join(sorted(names))}")
        return self

    @model_validator(mode="after")
    def _gate_stops_something(self) -> Self:
        check_gate(self.gate)
        return self
