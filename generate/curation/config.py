"""The `[generate.curation]` table: filters of prompts and conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config import Table

AppliedNoise = Literal["none", "lowercase", "capitals", "typos", "speech"]
"""Kinds of `generate.sources.task.noise`."""
PiiKind = Literal["email", "phone", "credit_card", "iban", "ssn", "ip"]


class EvaluationSetConfig(Table):
    """Questions of an evaluation, which must not be in the training data."""

    name: str = Field(min_length=1)
    """Name of the set in the reasons of dropped prompts."""
    path: Path
    """JSONL or Parquet with `prompt`, `messages`, `turns`, `question` or `text` in each row and
    optionally `id`, `question_id` or `prompt_id`; any other file is read as one text per line."""


class CurationConfig(Table):
    """Filters of prompts and conversations."""

    prompt_filters: tuple[str, ...] = (
        "length",
        "language",
        "exact_duplicate",
        "contamination",
        "near_duplicate",
    )
    """Filters of prompts, in order; `toxicity` is off by default because word lists also match
    innocent questions. `module:name` is a filter of your own: a function that takes this table and
    returns an object with `name` and `judge(prompt) -> reason or None`."""
    conversation_filters: tuple[str, ...] = ("empty", "looping", "language", "length")
    """Filters of finished conversations, in order. Off by default: `truncated` (two thirds of
    SmolLM2's answers reach 256 tokens, and every token of a truncated answer is still a valid
    example), `refusal` (whether a student should refuse is your choice; answers that the source
    `decline` or another known answer gives are kept), `personal_data` (teachers invent addresses
    and numbers), `toxicity`, and `duplicate_answer` (short questions share correct answers). With a
    task: `schema` (the answer fits `task.answer_schema`, or without one the first
    metric can read it), `known` (it scores `min_score` where the answer is known), `agreement`
    (`min_agreement` of the answers to a prompt say the same) and `confidence` (the teacher gives
    what the first metric reads at least `min_confidence`). Filters of your own as for prompts, with
    `judge(conversation)`."""

    pii: Literal["redact", "drop", "keep"] = "redact"
    """Personal data in prompts: replaced by its kind in brackets before the teacher reads it, so
    that log-probabilities belong to the stored tokens; or the prompt is dropped. Names of people
    are not detected, which would need a model."""
    pii_kinds: tuple[PiiKind, ...] = ("email", "phone", "credit_card", "iban", "ssn")
    """Kinds of personal data. Without `ip`, because version and chapter numbers look like it."""
    phone_region: str = Field(default="US", pattern="^([A-Z]{2})?$")
    """Country (ISO 3166) of telephone numbers without `+` and country code. Empty: such numbers are
    not detected."""

    min_prompt_characters: int = Field(default=1, ge=0)
    """Shortest text of a prompt's user turns; 1 drops only empty prompts."""
    max_prompt_characters: int | None = Field(default=None, ge=1)
    """Longest text of a prompt, all turns together. None: no limit but the teacher's context."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages to keep, for example `["en", "de"]`. Empty: all languages."""
    min_language_confidence: float = Field(default=0.8, gt=0.0, le=1.0)
    """Confidence of the detector from which a text in another language is dropped. At 0.8, 1 of
    25,000 short English questions is dropped; three words rarely reach it."""
    toxic_words: tuple[str, ...] = ("english",)
    """Word lists of the filter `toxicity`: languages of the package glin-profanity, or paths of
    files with one word or phrase per line."""

    near_duplicate_threshold: float = Field(default=0.85, ge=0.5, le=1.0)
    """Jaccard similarity of two prompts' user turns (shingles of 5 characters) from which the later
    prompt is dropped. Above 0.85 they differ by a polite word; at 0.8 by a country or a name."""
    cluster_threshold: float = Field(default=0.6, ge=0.5, le=1.0)
    """Similarity from which prompts are in one cluster, and so in one split. Lower values chain
    unrelated questions: the largest cluster of 25,000 real ones has 27 at 0.6, and 493 at 0.5."""
    evaluation_sets: tuple[EvaluationSetConfig, ...] = ()
    """Evaluation sets to keep out of the prompts."""
    contamination_threshold: float = Field(default=0.7, ge=0.5, le=1.0)
    """Similarity to a question of an evaluation set from which a prompt is dropped, as are prompts
    with 13 consecutive words of one. Lower than for duplicates: a lost prompt costs little, a
    leaked one invalidates a result."""

    min_answer_tokens: int = Field(default=1, ge=1)
    """Shortest answer in tokens, including the end of turn; 1 keeps all."""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens. None: no limit but `sampling.max_tokens`."""
    min_score: float = Field(default=1.0, ge=0.0, le=1.0)
    """Least score of an answer by the task's first metric against the known answer (`known`); 1
    keeps what is right in all parts."""
    min_agreement: float = Field(default=0.5, ge=0.0, le=1.0)
    """Least share of the answers to a prompt that say what the kept one says (`agreement`), with
    `turns.best_by = "majority"`."""
    min_confidence: float = Field(default=0.7, ge=0.0, le=1.0)
    """Least probability, under the teacher, of the tokens that spell what the task's first metric
    reads in the answer, such as its label (`confidence`). What it is unsure of it often gets
    wrong: of 937 answers of examples/bank-triage 82% had the right team, of the 70% that it was
    surest of 89%."""
    max_repeated_share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Largest share of an answer's tokens in repeated runs (looping); lists and code stay well
    below a half."""
    reviews: tuple[Path, ...] = ()
    """Files of people's decisions on answers, such as `runs/first/review.jsonl`; what `potstill
    review` stored for this run is read as well, and counts before them."""

    student_noise: dict[AppliedNoise, Annotated[float, Field(ge=0.0)]] = Field(default={})
    """Relative frequency of each kind of noise in what the student reads of a task's training
    conversations, such as `{ none = 3, typos = 1, capitals = 1 }`; the teacher answers the messages
    as they are. Words of a known answer get no typos. Empty: none."""

    @model_validator(mode="after")
    def _some_noise(self) -> Self:
        if self.student_noise and not any(self.student_noise.values()):
            raise ValueError("student_noise has no kind with a frequency above 0")
        return self
