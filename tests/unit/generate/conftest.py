"""A toy tokenizer with one id per character, and a teacher whose answers a test sets.

With them whole stages run: `toys` stands for every teacher that a run finds and loads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken

from generate.config import GenerateConfig
from generate.sources.raw_prompt import RawPrompt
from generate.teachers.checkpoint import TeacherCheckpoint
from generate.teachers.protocol import Failure, Sample, SampleRequest, ScoreRequest
from potstill.distributions import TokenDistributions
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Message, Prompt
from potstill.tables import PROMPT_SCHEMA, prompt_from_row, read_conversations, read_rows
from potstill.templates import compile_template

END = 0
"""Id of the end of a turn."""
MASS = 0.75
"""Total probability of a distribution's entries."""
QUESTIONS = (
    "Why is the sky blue?",
    "Name three rivers of Asia.",
    "How do I boil an egg?",
    "What is twelve times twelve?",
    "Write a line about the sea.",
    "Who painted the Mona Lisa?",
    "Explain gravity to a child.",
    "Which planets have rings?",
    "Translate 'good morning' to French.",
    "Give me a recipe for pancakes!",
)


class ToyTokenizer:
    """Characters are ids; turns look like `<user>hello|`, tools like `[...]` in front."""

    chat_template = "toy of turns and tools"
    added_tokens_decoder = {END: AddedToken("|", special=True)}  # noqa: RUF012
    eos_token_id = END

    def apply_chat_template(self, conversation, *, tokenize, add_generation_prompt, tools=None):
        assert not tokenize
        turns = [f"<{turn['role']}>{turn['content']}|" for turn in conversation]
        shown = json.dumps(tools) if tools else ""
        return shown + "".join(turns) + "<assistant>" * add_generation_prompt

    def __call__(self, text, *, add_special_tokens, return_offsets_mapping=False):
        assert not add_special_tokens
        encoded = {"input_ids": [END if letter == "|" else ord(letter) for letter in text]}
        if return_offsets_mapping:
            encoded["offset_mapping"] = [(at, at + 1) for at in range(len(text))]
        return encoded

    def decode(self, token_ids, *, skip_special_tokens=False):
        kept = [one for one in token_ids if one != END or not skip_special_tokens]
        return "".join("|" if one == END else chr(one) for one in kept)


def ids_of(text: str) -> tuple[int, ...]:
    """Return the toy tokenizer's ids of a text."""
    return tuple(END if letter == "|" else ord(letter) for letter in text)


def make_distributions(num_tokens: int, k: int | None) -> TokenDistributions | None:
    """Rows whose k entries share MASS; None if none are requested."""
    if k is None:
        return None
    logprob = np.float32(np.log(MASS / k))
    return TokenDistributions(
        np.full(num_tokens, logprob),
        np.full(num_tokens, k),
        np.tile(np.arange(k, dtype=np.int32), num_tokens),
        np.full(num_tokens * k, logprob),
    )


class FakeTeacher:
    """A `SamplingTeacher` whose every completion is `answer(request)`: a text, or a Failure.

    A text that does not end with `|` was cut off. It finishes the requests it holds in the order
    that `order` gives them, and is killed before it would finish one more than `lives`.
    """

    end_token_ids = frozenset({END})

    def __init__(
        self,
        answer: Callable[[SampleRequest], str | Failure],
        *,
        order: Callable[[list], Sequence] = list,
        lives: int | None = None,
        max_num_seqs: int = 4,
        tokenizer: object = None,
    ) -> None:
        self.tokenizer = tokenizer or ToyTokenizer()
        self.max_num_seqs = max_num_seqs
        self.asked: list = []
        self.top_logprobs: set[int | None] = set()
        self.most_held = 0
        self.closed = False
        self._answer, self._order, self._lives = answer, order, lives

    def sample(self, next_requests, *, top_logprobs) -> Iterator[Sample | Failure]:
        return self._work(next_requests, top_logprobs, self._sampled)

    def score(self, next_requests, *, top_logprobs) -> Iterator[Sample | Failure]:
        return self._work(next_requests, top_logprobs, self._scored)

    def facts(self) -> dict:
        return {"logprobs_mode": "raw_logprobs"}

    def close(self) -> None:
        self.closed = True

    def _work(self, next_requests, top_logprobs, result) -> Iterator[Sample | Failure]:
        self.top_logprobs.add(top_logprobs)
        held: list = []
        while True:
            new = list(next_requests(self.max_num_seqs - len(held)))
            self.asked += new
            held += new
            self.most_held = max(self.most_held, len(held))
            if not held:
                return
            request = self._order(held)[0]
            held.remove(request)
            if self._lives is not None:
                if self._lives == 0:
                    raise KeyboardInterrupt
                self._lives -= 1
            yield result(request, top_logprobs)

    def _sampled(self, request: SampleRequest, top_logprobs: int | None) -> Sample | Failure:
        said = self._answer(request)
        if isinstance(said, Failure):
            return said
        token_ids = ids_of(said)[: request.sampling.max_tokens]
        reason = "stop" if token_ids[-1] == END else "length"
        return Sample(
            request.request_id, token_ids, make_distributions(len(token_ids), top_logprobs), reason
        )

    def _scored(self, request: ScoreRequest, top_logprobs: int) -> Sample | Failure:
        token_ids = tuple(request.token_ids[request.start :])
        signal = make_distributions(len(token_ids), top_logprobs)
        return Sample(request.request_id, token_ids, signal, "stop")


def answer_in_kind(request: SampleRequest) -> str:
    """Answer with the request's name; cut off where it holds an x."""
    return f"re {request.request_id}" + ("" if "x" in request.request_id else "|")


@dataclass
class Toys:
    """Every teacher that runs find and load: the toy checkpoint, and a new fake for each load."""

    checkpoint: TeacherCheckpoint
    answer: Callable[[SampleRequest], str | Failure] = answer_in_kind
    lives: int | None = None
    """Number of answers before the next teacher is killed."""
    loaded: list[FakeTeacher] = field(default_factory=list)

    def load(self, *_: object) -> FakeTeacher:
        teacher = FakeTeacher(self.answer, lives=self.lives, tokenizer=self.checkpoint.tokenizer)
        self.loaded.append(teacher)
        return teacher


def toy_checkpoint(directory: Path) -> TeacherCheckpoint:
    """Return the toy teacher in a directory with its tokenizer.json."""
    return TeacherCheckpoint(
        name="toy",
        dir=directory,
        dtype="float32",
        tokenizer=ToyTokenizer(),
        context_tokens=2048,
        vocab_size=1 << 16,
        num_parameters=7,
        fingerprint="f" * 64,
        gguf_sha256=None,
    )


@pytest.fixture
def toys(monkeypatch, tmp_path) -> Toys:
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "tokenizer.json").write_text("{}")
    toys = Toys(toy_checkpoint(directory))
    monkeypatch.setattr("generate.lazy_teacher.find_teacher", lambda _: toys.checkpoint)
    monkeypatch.setattr("generate.lazy_teacher.LazyTeacher._load", toys.load)
    return toys


@pytest.fixture
def write_questions() -> Callable[..., None]:
    """Return a function that writes a file of prompts: texts, or rows."""

    def write(path: Path, questions: Sequence[str | dict]) -> None:
        rows = [{"prompt": one} if isinstance(one, str) else one for one in questions]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


@pytest.fixture
def question_path(tmp_path, write_questions) -> Path:
    """A file of ten prompts, no two alike."""
    path = tmp_path / "questions.jsonl"
    write_questions(path, QUESTIONS)
    return path


@pytest.fixture
def configured(question_path) -> Callable[..., GenerateConfig]:
    """Return a function that makes a configuration: parts of four prompts; keywords are tables."""

    def make(**tables: object) -> GenerateConfig:
        defaults = {
            "prompts": {"path": str(question_path), "validation_share": 0.2, "test_share": 0.2},
            "sampling": {"max_tokens": 60, "top_logprobs": 4},
            "engine": {"conversations_per_part": 4},
        }
        for name, table in tables.items():
            defaults[name] = defaults[name] | table if name in defaults else table
        return GenerateConfig.model_validate(defaults)

    return make


@pytest.fixture
def stored() -> SimpleNamespace:
    """Functions that read what a run holds: `prompts`, `conversations`, `samples` as a table."""

    def prompts(run: RunDirectory) -> list[Prompt]:
        rows = read_rows(run.stage_dir("prompts") / "prompts.parquet", PROMPT_SCHEMA)
        return list(map(prompt_from_row, rows))

    def samples(run: RunDirectory) -> pa.Table:
        paths = sorted(run.stage_dir("samples").glob("part-*.parquet"))
        return pa.concat_tables(map(pq.read_table, paths))

    def conversations(run: RunDirectory) -> list[Conversation]:
        paths = sorted(run.stage_dir("conversations").glob("t*-*.parquet"))
        paths += sorted(run.stage_dir("conversations").glob("validation-*.parquet"))
        return [conversation for path in paths for conversation in read_conversations(path)]

    return SimpleNamespace(prompts=prompts, samples=samples, conversations=conversations)


@pytest.fixture
def toy_tokenizer() -> ToyTokenizer:
    return ToyTokenizer()


@pytest.fixture
def with_template(toy_tokenizer):
    """Return a function that gives the toy tokenizer a chat template of the real kind."""

    def make(source):
        def render(conversation, *, tokenize, **names):
            assert not tokenize
            return template.render(messages=conversation, **names)

        template = compile_template(source)
        toy_tokenizer.apply_chat_template = render
        toy_tokenizer.chat_template = source
        return toy_tokenizer

    return make


@pytest.fixture
def distributions() -> Callable[[int, int | None], TokenDistributions | None]:
    return make_distributions


@pytest.fixture
def fake_teacher() -> type[FakeTeacher]:
    return FakeTeacher


@pytest.fixture
def answering() -> Callable[..., FakeTeacher]:
    """Return a function that makes a teacher which answers everything."""

    def make(**options) -> FakeTeacher:
        return FakeTeacher(answer_in_kind, **options)

    return make


@pytest.fixture
def raw_prompt() -> Callable[..., RawPrompt]:
    """Return a function that makes a prompt of one turn, or of several."""

    def make(*contents: str, source: str = "made in a test", **fields) -> RawPrompt:
        roles = ["user", "assistant"] * len(contents)
        turns = zip(roles, contents, strict=False)
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        return RawPrompt(messages, source, **fields)

    return make


@pytest.fixture
def make_prompt() -> Callable[..., Prompt]:
    """Return a function that makes a prompt of an id, from the texts of its turns in order."""

    def make(prompt_id: str, *contents: str, split: str = "train", **fields) -> Prompt:
        roles = ["user", "assistant"] * len(contents)
        turns = zip(roles, contents, strict=False)
        return Prompt(
            prompt_id=prompt_id,
            cluster_id=prompt_id,
            split=split,
            messages=tuple(Message(role=role, content=content) for role, content in turns),
            source="made in a test",
            **fields,
        )

    return make


@pytest.fixture
def prompts(make_prompt) -> list[Prompt]:
    """Five prompts; the answer to the third is cut off."""
    splits = ["train", "test", "train", "validation", "train"]
    return [
        make_prompt("pqxst"[number], f"question {'?' * number}", split=split)
        for number, split in enumerate(splits)
    ]
