"""Inputs of a task that the teacher writes after examples.

In: a teacher, the task and the table of a source. Out: distinct `RawPrompt`s with known answers
where the answer was drawn, and what was dropped.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from generate.sources.attempts import Writing, Written, write_until_enough
from generate.sources.balance import Balance
from generate.sources.config import SourceConfig
from generate.sources.raw_prompt import DroppedPrompt, RawPrompt
from generate.sources.task.checks import Checks, unread
from generate.sources.task.drawing import Drawing
from generate.sources.task.noise import KINDS, add_noise, draw_kind
from generate.sources.task.passages import Passage, compose
from generate.sources.task.refill import nearness, refilled
from generate.sources.task.requests import (
    Manner,
    list_message,
    listed_text,
    request_messages,
    user_texts,
    written_turns,
)
from generate.sources.task.wanted import Wanted
from generate.teachers.protocol import SamplingTeacher, derive_seed
from potstill.chat import render_prompt
from potstill.errors import ConfigError
from potstill.schema import Message, SamplingParams
from potstill.task.answers import Item
from potstill.task.task import EXAMPLES_PLACE, Task

logger = logging.getLogger(__name__)

SOURCE = "task"
LABEL = "the teacher writes inputs of the task"
SAME_CATEGORY_SHARE = 0.6
"""Share of the shots that have the wanted label or tool, where there are as many."""
NUM_SHOT_SETS = 4
"""Sets of shots for each label or tool, so that the engine reads most of a request once."""
NUM_DONORS = 16
"""Records drawn for an input's next values, of which the nearest is taken."""
MAX_ROUNDS_PER_REFILL = 3
MAX_COMPOSED_PER_INPUT = 4
"""Compositions of passages tried for an input: some contradict themselves."""
LENGTH_SPREAD = 0.35
"""How far a length may be from an example's, as a share of it."""
CONTEXT = "The assistant's own instructions are: <<{instructions}>>"


class _Writer:
    """What each attempt asks for: drawn from the seed, its number and its category."""

    def __init__(self, task: Task, config: SourceConfig, count: int, seed: int) -> None:
        self._task, self._config, self._seed = task, config, seed
        self._drawing = Drawing(task, config)
        self._refilling = Drawing(task, config.for_refills)
        self._checks = Checks(task.examples, self._drawing.categories, config.check)
        self._written: dict[str, tuple[int, Wanted, list[str]]] = {}
        self._copied = {RawPrompt(item.messages, "").key for item in task.examples}
        self.balance = Balance(self._drawing.weights, count, seed)

    def messages(self, number: int) -> tuple[Message, ...]:
        """Return the request of an attempt."""
        wanted = self._wanted(number)
        draw = self._random("manner", number)
        manner = self._manner(wanted, number, draw)
        if same := self._listable(wanted):
            draw = self._random(f"list {wanted.category}", number % NUM_SHOT_SETS)
            listed = _sample(same, self._config.num_shots, draw)
            if "personas" not in self._config.model_fields_set:
                manner = replace(manner, persona="")
            return list_message(self._context(), listed, wanted, manner)
        shots = self._shots(wanted, number % NUM_SHOT_SETS)
        return request_messages(self._context(), shots, wanted, manner)

    def to_prompt(self, number: int, text: str) -> RawPrompt | DroppedPrompt | None:
        """Return the input in a teacher's answer, or why it cannot be used."""
        wanted = self._wanted(number)
        is_listed = bool(self._listable(wanted))
        turns = [listed_text(text)] if is_listed else written_turns(text, wanted)
        if turns is None:
            one = self._prompt(wanted.before, [text], wanted)
            return DroppedPrompt(one, "off_task", f"not {len(wanted.turns)} numbered lines")
        wanted = self._stated(wanted, turns)
        prompt = self._checked(wanted, turns, number, "errors")
        if isinstance(prompt, DroppedPrompt):
            return prompt
        if prompt.key in self._copied:
            return DroppedPrompt(prompt, "repeated", "the same as an example")
        self._written[prompt.key] = number, wanted, turns
        return prompt

    def _stated(self, wanted: Wanted, turns: Sequence[str]) -> Wanted:
        """Return what an input states, without the fields of its record that it may leave out."""
        if not self._config.may_omit or wanted.record is None:
            return wanted
        omitted = {name for name, _ in unread(wanted, turns)} & set(self._config.may_omit)
        kept = {name: value for name, value in wanted.record.items() if name not in omitted}
        return wanted.with_record(kept)

    def again(self, prompt: RawPrompt, copy: int) -> RawPrompt | DroppedPrompt | None:
        """Return a written input with other values; None where too few can be replaced."""
        number, wanted, turns = self._written[prompt.key]
        draw = self._random(f"refill {copy}", number)
        donors = [
            self._refilling.draw(self.balance.category(number), draw) for _ in range(NUM_DONORS)
        ]
        donor = max(donors, key=lambda one: nearness(wanted, one))
        other = refilled(wanted, "\n".join(turns), donor)
        if other is None:
            return None
        return self._checked(other[0], [other[1]], number, f"errors {copy}")

    def passages(self, prompts: Sequence[RawPrompt]) -> dict[str, list[Passage]]:
        """Return what was written, by the part of a record that it is for."""
        found: dict[str, list[Passage]] = {name: [] for name in self._config.parts}
        for prompt in prompts:
            number, wanted, turns = self._written[prompt.key]
            found[self.balance.category(number)].append(Passage(wanted, "\n".join(turns)))
        return found

    def composed(
        self, number: int, passages: Mapping[str, Sequence[Passage]]
    ) -> RawPrompt | DroppedPrompt:
        """Return an input that is made of passages, or why it cannot be used."""
        draw = self._random("compose", number)
        donor = self._refilling.draw("", draw)
        record, text = compose(passages, self._config.parts, donor, draw)
        wanted = self._refilling.stating(record, donor)
        return self._checked(wanted, [text], number, "errors composed")

    def _checked(
        self, wanted: Wanted, turns: Sequence[str], number: int, purpose: str
    ) -> RawPrompt | DroppedPrompt:
        """Return an input with its noise, or why it cannot be used."""
        refused = self._checks.judge(wanted, turns)
        if refused is not None:
            return DroppedPrompt(self._prompt(wanted.before, turns, wanted), *refused)
        return self._noisy(wanted, turns, number, purpose)

    def _noisy(self, wanted: Wanted, turns: Sequence[str], number: int, purpose: str) -> RawPrompt:
        kept = [str(value) for _, value in wanted.said if str(value) not in wanted.labels]
        draw = self._random(purpose, number)
        noisy = [add_noise(turn, self._noise(number), kept, draw) for turn in turns]
        return self._prompt(wanted.before, noisy, wanted)

    def _wanted(self, number: int) -> Wanted:
        draw = self._random("answer", number)
        return self._drawing.draw(self.balance.category(number), draw)

    def _context(self) -> str:
        if self._config.request or not self._task.instructions:
            return self._config.request
        instructions = self._task.instructions.replace(EXAMPLES_PLACE, "").strip()
        return CONTEXT.format(instructions=instructions)

    def _noise(self, number: int) -> str:
        kinds = self._config.noise or {"none": 1.0}
        return draw_kind(kinds, self._random("noise", number))

    def _manner(self, wanted: Wanted, number: int, draw: random.Random) -> Manner:
        config, noise = self._config, self._noise(number)
        return Manner(
            persona=draw.choice(config.personas) if config.personas else "",
            length=draw.choice(config.lengths) if config.lengths else self._length(wanted, draw),
            style="" if noise in KINDS else noise,
        )

    def _length(self, wanted: Wanted, draw: random.Random) -> str:
        """Return a length near that of an example with as many turns."""
        alike = [
            texts
            for item in self._task.examples
            if len(texts := user_texts(item)) == len(wanted.turns)
        ]
        if not alike:
            return ""
        num_words = len(" ".join(draw.choice(alike)).split())
        return f"about {max(2, round(num_words * (1 + LENGTH_SPREAD * draw.uniform(-1, 1))))} words"

    def _listable(self, wanted: Wanted) -> list[Item]:
        """Return the examples for a list that the teacher continues; none where it cannot."""
        if not wanted.is_bare or not self._config.num_shots:
            return []
        same = self._drawing.examples(wanted.category or "")
        return [item for item in same if len(user_texts(item)) == 1]

    def _shots(self, wanted: Wanted, number: int) -> list[tuple[Wanted, Item]]:
        count = self._config.num_shots
        same = self._drawing.examples(wanted.category or "") if wanted.category else []
        one_turn = len(wanted.turns) == 1
        draw = self._random(f"shots {wanted.category} {one_turn}", number)
        fitting = [one for one in self._task.examples if (len(user_texts(one)) == 1) == one_turn]
        near = _sample(
            [one for one in same if one in fitting], round(SAME_CATEGORY_SHARE * count), draw
        )
        rest = [one for one in fitting if one not in near]
        chosen = [*_sample(rest, count - len(near), draw), *near]
        return [(self._drawing.read(item), item) for item in chosen]

    def _prompt(self, before: Sequence[Message], turns: Sequence[str], wanted: Wanted) -> RawPrompt:
        messages = list(before)
        for turn, text in zip(wanted.turns, turns, strict=False):
            messages += [Message(role="user", content=text), *turn.after]
        name = self._config.name or SOURCE
        return RawPrompt(
            messages=tuple(messages),
            source=f"{name}:{wanted.category}" if wanted.category else name,
            license=self._config.license,
            known=None if wanted.known is None else wanted.known.model_dump_json(),
        )

    def _random(self, purpose: str, number: int) -> random.Random:
        return random.Random(derive_seed(self._seed, f"{purpose} {number}"))


def write_inputs(
    teacher: SamplingTeacher,
    config: SourceConfig,
    task: Task | None,
    count: int,
    sampling: SamplingParams,
    log_path: Path,
    known: Container[RawPrompt] = frozenset(),
) -> Written:
    """Let the teacher write `count` distinct inputs of a task, none equal to an example.

    Labels and tools keep their shares: a round of attempts asks for what the earlier ones lack.
    With `refills` the teacher writes a part, and the others are those with other values. With
    `parts` it writes passages, of which the inputs are made.

    Args:
        config: A source of kind "task".
        sampling: Sampling parameters; `seed` determines the attempts' seeds and what is drawn.
        log_path: JSONL file of all attempts, including those of an earlier process.
        known: Prompts of other sources, which are not written again.

    Raises:
        ConfigError: There is no task, or nothing can be drawn from it.
        TeacherError: Too few attempts end in a usable input.
        ArtifactError: The log cannot be written.
    """
    if task is None:
        raise ConfigError(
            "a source of prompts needs a task",
            where="generate.prompts.sources, kind task",
            expected="a table [task] with examples",
        )
    num_written = config.num_to_write(count)
    writer = _Writer(task, config, num_written, sampling.seed)

    def prompt_token_ids(number: int) -> list[int]:
        return render_prompt(teacher.tokenizer, writer.messages(number))

    writing = Writing(
        LABEL,
        prompt_token_ids,
        writer.to_prompt,
        sampling,
        known,
        plan=writer.balance,
        messages=writer.messages,
    )
    written = write_until_enough(teacher, writing, num_written, log_path)
    if config.parts:
        return _compose(writer, written, count, known)
    return _refill(writer, written, count, config.refills, known)


def _compose(writer: _Writer, written: Written, count: int, known: Container[RawPrompt]) -> Written:
    """Make `count` inputs of passages, or as many as can be made."""
    passages = writer.passages(written.prompts)
    attempts = (
        writer.composed(number, passages) for number in range(MAX_COMPOSED_PER_INPUT * count)
    )
    return _filled_up(Written([], written.dropped), attempts, count, known)


def _refill(
    writer: _Writer, written: Written, count: int, refills: int, known: Container[RawPrompt]
) -> Written:
    """Add inputs with other values until there are `count`, or nothing more can be made."""
    attempts = (
        writer.again(prompt, copy)
        for copy in range(MAX_ROUNDS_PER_REFILL * refills)
        for prompt in written.prompts
    )
    return _filled_up(written, attempts, count, known)


def _filled_up(
    written: Written,
    attempts: Iterable[RawPrompt | DroppedPrompt | None],
    count: int,
    known: Container[RawPrompt],
) -> Written:
    """Add what attempts without the teacher give, until there are `count` inputs."""
    by_key = {prompt.key: prompt for prompt in written.prompts}
    dropped = list(written.dropped)
    for made in attempts:
        if len(by_key) >= count:
            break
        if isinstance(made, DroppedPrompt):
            dropped.append(made)
        elif made is not None and made not in known:
            by_key.setdefault(made.key, made)
    if len(by_key) < count:
        logger.warning("%d inputs instead of %d: too few can be made", len(by_key), count)
    return Written(list(by_key.values()), dropped)


def _sample(items: Sequence[Item], count: int, draw: random.Random) -> list[Item]:
    return draw.sample(items, min(max(count, 0), len(items)))
