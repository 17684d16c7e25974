"""The `[generate.curation]` table: what is left out, and why.

Knows nothing of how a filter works.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from potstill.config import Table

PiiKind = Literal["email", "phone", "credit_card", "iban", "ssn", "ip"]


class EvaluationSetConfig(Table):
    """Questions that a student will be judged by, and must not be taught."""

    name: str = Field(min_length=1)
    """Named in the reason of every prompt dropped for it."""
    path: Path
    """JSONL or Parquet with `prompt`, `messages`, `turns`, `question` or `text` in each row and
    optionally `id`, `question_id` or `prompt_id`; any other file is read as one text a line."""


class CurationConfig(Table):
    """Which prompts are asked and which conversations are kept."""

    prompt_filters: tuple[str, ...] = (
        "length",
        "language",
        "exact_duplicate",
        "contamination",
        "near_duplicate",
    )
    """Filters of prompts, in their order; `toxicity` is left out because lists of words also hit
    innocent questions. `module:name` is a filter of your own: a function that takes this table and
    returns an object with `name` and `judge(prompt) -> reason or None`."""
    conversation_filters: tuple[str, ...] = ("empty", "looping", "language", "length")
    """Filters of finished conversations, in their order. Left out: `truncated` (two thirds of
    SmolLM2's answers reach 256 tokens, and a cut answer still teaches every token it has),
    `refusal` (whether a student should refuse is your choice), `personal_data` (teachers invent
    addresses and numbers), `toxicity`, and `duplicate_answer` (short questions share right
    answers). Your own as for prompts, with `judge(conversation)`."""

    pii: Literal["redact", "drop", "keep"] = "redact"
    """Personal data in prompts: replaced by its kind in brackets before the teacher reads it, so
    that tokens and log-probabilities stay true; or the prompt is dropped. Names of people are not
    recognized: that needs a model."""
    pii_kinds: tuple[PiiKind, ...] = ("email", "phone", "credit_card", "iban", "ssn")
    """What counts as personal data. `ip` is left out: version and chapter numbers look like it."""
    phone_region: str = Field(default="US", pattern="^([A-Z]{2})?$")
    """Country (ISO 3166) of telephone numbers written without `+` and country code; empty: such
    numbers are not recognized."""

    min_prompt_characters: int = Field(default=1, ge=0)
    """Shortest text of a prompt's user turns; 1 drops only what is empty: `hi` is a question."""
    max_prompt_characters: int | None = Field(default=None, ge=1)
    """Longest text of a prompt, all its turns together; None leaves the limit to the teacher's
    context."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes of the languages to keep, for example `["en", "de"]`; none: every language."""
    min_language_confidence: float = Field(default=0.8, gt=0.0, le=1.0)
    """A text is dropped when the detector is this sure that it is in another language. Of
    25,000 short English questions 1 is dropped at 0.8; three words are rarely enough to be sure."""
    toxic_words: tuple[str, ...] = ("english",)
    """Lists that the filter `toxicity` looks for: languages that the package glin-profanity knows,
    or paths of files with one word or phrase a line."""

    near_duplicate_threshold: float = Field(default=0.85, ge=0.5, le=1.0)
    """Jaccard similarity of two prompts' user turns (sets of 5 characters) from which the later one
    is dropped. Above 0.85 they differ by a word of courtesy; at 0.8 by a country or a name."""
    cluster_threshold: float = Field(default=0.6, ge=0.5, le=1.0)
    """Similarity from which prompts are in one cluster, and so in one split. Lower values chain
    unrelated questions together: of 25,000 real ones the largest cluster has 27 at 0.6, 493 at
    0.5."""
    evaluation_sets: tuple[EvaluationSetConfig, ...] = ()
    """Sets to keep out of the prompts; a student that has seen them is not measured by them."""
    contamination_threshold: float = Field(default=0.7, ge=0.5, le=1.0)
    """Similarity to a question of an evaluation set from which a prompt is dropped; also dropped
    is what shares 13 words in a row with one. Lower than for duplicates: a lost prompt costs
    little, a leaked one spoils a figure."""

    min_answer_tokens: int = Field(default=1, ge=1)
    """Shortest answer, end of turn included; 1 keeps all: `Yes.` is an answer."""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; None leaves the limit to `sampling.max_tokens`."""
    max_repeated_share: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of an answer's tokens inside runs that it has said before (looping); lists and code
    stay well below a half."""
