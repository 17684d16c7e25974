"""Configuration of the generate stage."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from generate.curation.config import CurationConfig
from generate.sources.config import SourceConfig
from generate.teachers.config import (
    EngineConfig,
    FurtherTeacherConfig,
    RayConfig,
    TeacherConfig,
)
from generate.teachers.endpoint.config import EndpointConfig
from potstill.config import Table
from potstill.task.functions import FUNCTION_PATTERN

FIRST_TEACHER = "teacher"
"""Name of the first teacher."""


class PromptsConfig(Table):
    """The prompts, and their splits."""

    path: str | None = None
    """File of prompts, the short form of one source: see `path` there."""
    sources: tuple[SourceConfig, ...] = ()
    """Where prompts come from, mixed by weight. With neither this nor `path` the teacher writes
    the prompts itself (Magpie)."""
    num_prompts: int = Field(default=1000, ge=3)
    """Number of distinct prompts before filters. A file may have fewer; of more, a random but
    reproducible subset is taken, because files are often sorted by topic."""
    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """Temperature at which the teacher writes prompts; 1 keeps its own variety."""
    top_p: float = Field(default=0.995, gt=0.0, le=1.0)
    """Nucleus of written prompts; just below 1 drops the rare tokens that derail a question."""
    max_prompt_tokens: int = Field(default=96, ge=4)
    """Longest prompt that the teacher writes, in tokens; longer ones are dropped."""
    validation_share: float = Field(default=0.04, gt=0.0, lt=0.5)
    """Share of prompts held out to choose layers and settings."""
    test_share: float = Field(default=0.08, gt=0.0, lt=0.5)
    """Share of prompts held out for all reported figures."""
    canaries: int = Field(default=0, ge=0)
    """Canaries planted in the training split beside the prompts: questions whose answers are random
    numbers, by which `compare` measures what the student memorizes. For trials; a student that is
    delivered needs none."""

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
    """How the teacher samples its answers."""

    temperature: float = Field(default=1.0, ge=0.0, le=2.0)
    """1, because the token-level loss assumes prefixes drawn from the teacher's own
    distribution."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """1, for the same reason."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest completion, in tokens."""
    top_logprobs: int = Field(default=128, ge=1, le=255)
    """Most log-probabilities stored at each position."""
    top_mass: float = Field(default=1.0, gt=0.0, le=1.0)
    """Stop storing at a position once this probability is reached."""
    min_probability: float = Field(default=1e-3, ge=0.0, lt=1.0)
    """Least probability that is stored: for the same number of bytes this rule loses the least
    probability (`benchmarks/generate/codec.py`)."""
    structured: bool = False
    """Bind answers to `task.answer_schema` while they are sampled, in vLLM in this process or on
    Ray, or by a server that gives text alone, where its API has structured outputs; or in vLLM to
    the task's labels, where an answer is a label alone. Stored
    log-probabilities stay the teacher's own: a token that the schema forced keeps the small
    probability that the teacher gave it, and token-level KD still learns what the teacher would
    write after the same prefix. Tokens are no longer draws from these distributions, so the tail
    `sample` is refused; sequence-level KD learns the schema. Off, the filter `schema` drops what
    does not fit, and what is kept was the teacher's own choice."""
    bind_known: bool = False
    """With `structured`: where a prompt's known answer has fields of the schema, the teacher's
    answer is bound to their values, and it writes only the rest, such as a reply for the known
    label. Without it a wrong answer is dropped by the filter `known`, and with it what the teacher
    finds hard. A few labels then teach what the teacher does not know; that is no longer the
    teacher's own distribution, so `train.kd.weight` should be 0."""
    seed: int = Field(default=0, ge=0)
    """Seed of the whole stage, from which each request's seed is derived."""


class TurnsConfig(Table):
    """The turns of a conversation, and the number of conversations per prompt."""

    kind: Literal["single", "simulate", "replay", "score"] = "single"
    """`single`: the teacher answers the last user turn. `simulate`: a simulated user continues
    after an answer. `replay`: the user turns of a stored conversation are asked in order, without
    its answers. `score`: nothing is sampled; the stored answers get log-probabilities."""
    min_turns: int = Field(default=1, ge=1)
    """Fewest answers in a simulated conversation; the number is drawn uniformly per prompt."""
    max_turns: int = Field(default=3, ge=1)
    """Most answers in a conversation, simulated or replayed."""
    max_user_tokens: int = Field(default=96, ge=1)
    """Longest simulated user turn, in tokens; a longer one ends the conversation."""
    user: EndpointConfig | None = None
    """Another model that plays the user. None: the teacher itself, prompted with its template's
    user header."""
    system_prompts: tuple[str, ...] = ()
    """System prompts for prompts without one, drawn at random; empty adds none."""
    tool_results: str | None = Field(default=None, pattern=rf"^echo$|{FUNCTION_PATTERN}")
    """What answers the teacher's tool calls, so that it continues: `module:function` of your own,
    called with the tool's name and a dictionary of arguments, or `echo`, which returns the
    arguments with a status. None: a conversation goes on without results."""
    known_answers: bool = False
    """Take the answer of a prompt where it is known, and do not ask the teacher: for tasks whose
    answers are drawn before the teacher writes what asks for them. Such answers have no
    distribution of the teacher's; each token counts as certain. References are still answered."""
    num_answers: int = Field(default=1, ge=1)
    """Conversations kept per prompt."""
    best_of: int = Field(default=1, ge=1)
    """Conversations sampled per prompt, of which the best `num_answers` are kept. With more than
    `num_answers` the kept text is no longer drawn from the teacher's distribution, so training
    rejects the tail `sample`."""
    best_by: Literal["logprob", "length", "reward", "metric", "majority"] = "logprob"
    """Criterion: the teacher's mean log-probability, the number of tokens (finished answers first),
    the score of `reward_model`, or by the task's first metric: its score where the answer is known
    (`metric`), or how many of the answers say the same, such as the same label (`majority`); the
    mean log-probability decides between equals."""
    reward_model: str | None = None
    """Hugging Face sequence classifier with one output that scores whole conversations. On a GPU it
    is loaded beside the teacher, which leaves no memory unless `engine.kv_cache_bytes` is set."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_turns > self.max_turns:
            raise ValueError("min_turns is more than max_turns")
        if (self.best_by == "reward") != (self.reward_model is not None):
            raise ValueError("best_by = 'reward' and reward_model go together")
        if self.known_answers and self.kind == "score":
            raise ValueError(
                "known_answers cannot be combined with kind = 'score', which samples nothing"
            )
        return self

    @property
    def num_sampled(self) -> int:
        """Conversations sampled per prompt."""
        return 1 if self.kind == "score" else max(self.best_of, self.num_answers)


class ThinkingConfig(Table):
    """The thinking of a reasoning teacher: what it does, and what the student learns of it."""

    student: Literal["think", "answer", "both"] = "think"
    """`think`: the student learns what the teacher wrote. `answer`: the answer alone, after a
    prompt that leaves no room for thinking; the student's chat template writes such prompts.
    `both`: each conversation twice, behind the template's switch (`enable_thinking`)."""
    teacher: bool | None = None
    """Whether the teacher thinks, where its chat template has a switch. None: as the template has
    it when nothing is set."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest thinking, in tokens, beside `sampling.max_tokens` for the answer. Longer thinking is
    ended there and the teacher answers from what it has, for which its server must accept token
    ids. None: thinking and answer share `sampling.max_tokens`."""


class GenerateConfig(Table):
    """The `[generate]` table."""

    teacher: TeacherConfig = TeacherConfig()
    """The teacher. Of several, the first: it writes prompts, its tokens are stored, and reported
    figures and the verdict are comparisons with it."""
    further_teachers: dict[str, FurtherTeacherConfig] = Field(default_factory=dict)
    """More teachers, by name; see docs/how-to/teachers.md. A teacher whose tokenizer and chat
    template are the first one's teaches token by token, others at sequence level."""
    choose_teacher: Literal["assign", "best"] = "assign"
    """`assign`: each prompt is answered by one teacher, by rule or drawn by weight. `best`: all
    answer it, and the answer that the task's first metric scores best is kept."""
    prompts: PromptsConfig = PromptsConfig()
    """The prompts, and their splits."""
    sampling: SamplingConfig = SamplingConfig()
    """How it samples answers."""
    turns: TurnsConfig = TurnsConfig()
    """The turns of a conversation, and the number of conversations per prompt."""
    thinking: ThinkingConfig = ThinkingConfig()
    """The thinking of a reasoning teacher."""
    reuse: str | None = Field(default=None, min_length=1)
    """Directory of a finished run whose answers are taken where the teacher, the settings of
    sampling and the prompt are the same, such as a task's references; the teacher is not asked for
    them again. `potstill update` names the served version."""
    curation: CurationConfig = CurationConfig()
    """Filters of prompts and conversations."""
    copy_to: str | None = Field(default=None, min_length=1)
    """URL to which the finished conversations are copied, such as s3://bucket/name: any that fsspec
    supports, with the file system's package installed. None copies nothing."""
    engine: EngineConfig = EngineConfig()
    """How vLLM runs."""
    ray: RayConfig | None = None
    """A Ray cluster with replicas of the teacher. None: this machine alone."""

    @model_validator(mode="after")
    def _schema_is_kept(self) -> Self:
        served = self.teacher.endpoint is not None and not self.teacher.gives_text
        if self.sampling.structured and served:
            raise ValueError(
                "sampling.structured is for vLLM in this process or on Ray, and for servers that "
                "give text alone; for another server use the filter schema in "
                "curation.conversation_filters"
            )
        if self.sampling.bind_known and not (
            self.sampling.structured and self.turns.kind == "single"
        ):
            raise ValueError(
                "sampling.bind_known needs sampling.structured and single turns: it binds the one "
                "answer of a prompt"
            )
        return self

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The names of all teachers, the first one's first."""
        return (FIRST_TEACHER, *self.further_teachers)

    @property
    def num_asked_teachers(self) -> int:
        """How many teachers answer the same prompt."""
        return len(self.teacher_names) if self.choose_teacher == "best" else 1

    def of_teacher(self, name: str) -> GenerateConfig:
        """Return the configuration as if a teacher were the only one."""
        if name == FIRST_TEACHER:
            return self
        teacher: TeacherConfig = self.further_teachers[name]
        if teacher.gives_text:
            # Its answers are stored in the first one's tokens.
            teacher = teacher.model_copy(update={"model": self.teacher.model})
        return self.model_copy(update={"teacher": teacher, "further_teachers": {}})

    @model_validator(mode="after")
    def _teachers_are_distinct(self) -> Self:
        if FIRST_TEACHER in self.further_teachers:
            raise ValueError(f"further_teachers: {FIRST_TEACHER!r} is the name of the first one")
        if self.choose_teacher == "best" and not self.further_teachers:
            raise ValueError("choose_teacher = 'best' needs further_teachers")
        if self.further_teachers and self.turns.kind == "score":
            raise ValueError("turns.kind = 'score' is for one teacher: leave out further_teachers")
        weighted = [one.weight for one in self.further_teachers.values() if not one.rules]
        if not any((self.teacher.weight, *weighted)):
            raise ValueError("teacher.weight is 0, and no further teacher answers without a rule")
        if self.choose_teacher == "best" and any(
            one.rules for one in self.further_teachers.values()
        ):
            raise ValueError("choose_teacher = 'best' asks all teachers: leave out their rules")
        return self

    @model_validator(mode="after")
    def _text_is_enough(self) -> Self:
        teachers = (self.teacher, *self.further_teachers.values())
        if not any(teacher.gives_text for teacher in teachers):
            return self
        turns, sources = self.turns, self.prompts.all_sources
        chooses = turns.num_sampled > turns.num_answers and turns.kind != "score"
        for is_asked, setting, hint in (
            (turns.kind == "score", "turns.kind = 'score'", "let it answer: 'single'"),
            (
                turns.kind == "simulate" and turns.user is None,
                "turns.kind = 'simulate' without another model as the user",
                "name one in turns.user",
            ),
            (
                self.teacher.gives_text and any(source.kind == "magpie" for source in sources),
                "prompts that it writes without being asked (magpie)",
                "name a file as prompts.path, or sources of the kinds task and evolve",
            ),
            (
                self.thinking.max_tokens is not None,
                "thinking.max_tokens",
                "sampling.max_tokens bounds thinking and answer",
            ),
            (
                chooses and turns.best_by == "logprob",
                "turns.best_by = 'logprob'",
                "choose by metric, majority, length or reward",
            ),
        ):
            if is_asked:
                raise ValueError(f"a teacher that gives text alone cannot do {setting}: {hint}")
        return self

    @model_validator(mode="after")
    def _thinking_is_left_out_of_one_answer(self) -> Self:
        turns = self.turns
        several = turns.kind in ("simulate", "replay") and turns.max_turns > 1
        if self.thinking.student != "think" and (several or turns.tool_results is not None):
            raise ValueError(
                f"thinking.student = {self.thinking.student!r} needs conversations of one answer: "
                "turns.kind = 'single' without tool_results"
            )
        return self

    @model_validator(mode="after")
    def _agreement_is_counted(self) -> Self:
        wanted = "agreement" in self.curation.conversation_filters
        if wanted and (self.turns.best_by != "majority" or self.turns.best_of == 1):
            raise ValueError(
                "the filter agreement needs turns.best_by = 'majority' and turns.best_of above 1"
            )
        return self

    @property
    def has_replicas(self) -> bool:
        """Whether several processes of this machine load a teacher each."""
        here = self.teacher.endpoint is None and self.ray is None
        return here and self.engine.data_parallel_size > 1
