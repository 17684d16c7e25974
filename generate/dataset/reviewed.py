"""People's decisions applied to conversations.

In: conversations of the training split as they were sampled, decisions. Out: the same with edited
answers in place of sampled ones, and why some are dropped. Each token of an edited answer counts as
certain, as those of known answers do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from generate.config import GenerateConfig
from generate.curation.conversation_filters import Drop
from generate.curation.reviews import Decision, read_decisions, row_id
from generate.lazy_teacher import LazyTeacher
from generate.sampling.scoring import find_answers
from generate.sampling.settings import ConversationSettings
from generate.sampling.stage import asked_tokenizer
from potstill.distributions import TokenDistributions
from potstill.errors import ConfigError, TeacherError
from potstill.facts.samples import SamplesFacts
from potstill.files import sha256_bytes
from potstill.rundir import RunDirectory
from potstill.schema import Conversation, Message, Prompt
from potstill.tables import conversations_to_table
from potstill.task.answers import Answer
from potstill.task.categories import Categories
from potstill.task.metrics.label import Label
from potstill.task.task import Task

FILTER = "review"
"""Name of what people dropped, among the filters."""


def decisions_of(config: GenerateConfig, run_directory: RunDirectory) -> dict[str, Decision]:
    """Return the decisions that count in a run: its own, before those of other runs.

    Raises:
        ConfigError: A configured file is missing.
        ArtifactError: A file cannot be read.
    """
    for path in config.curation.reviews:
        if not path.is_file():
            raise ConfigError(
                "there is no such file of decisions",
                where=f"generate.curation.reviews: {path}",
                expected="a file that potstill review has written, such as runs/mine/review.jsonl",
            )
    return read_decisions((*config.curation.reviews, run_directory.review_path))


def review_settings(decisions: Mapping[str, Decision]) -> dict[str, str]:
    """Return a hash of a run's decisions, as a setting of the stage; nothing without any."""
    content = "\n".join(decisions[row].model_dump_json() for row in sorted(decisions))
    return {"reviews": sha256_bytes(content.encode())} if decisions else {}


def find_reviewed(
    config: GenerateConfig,
    teacher: LazyTeacher,
    task: Task | None,
    decisions: Mapping[str, Decision],
    samples: SamplesFacts,
) -> Reviewed | None:
    """Return what applies a run's decisions; None without any."""
    if not decisions:
        return None
    tokenizer = asked_tokenizer(config, teacher.checkpoint.tokenizer)
    settings = ConversationSettings(config, tokenizer, teacher.max_model_len, task=task)
    return Reviewed(decisions, settings, teacher.checkpoint.end_token_ids, samples.vocab_size)


class Reviewed:
    """Applies decisions to conversations.

    Args:
        settings: The first teacher's; its tokenizer writes edited answers.
        end_token_ids: What ends an answer.

    Attributes:
        counts: Conversations that a decision applied to, by its kind.
    """

    def __init__(
        self,
        decisions: Mapping[str, Decision],
        settings: ConversationSettings,
        end_token_ids: Collection[int],
        vocab_size: int,
    ) -> None:
        self._decisions, self._settings, self._end = decisions, settings, end_token_ids
        self._vocab_size = vocab_size
        self._references = _by_prompt(decisions, lambda one: one.use == "references")
        self._labels = _by_prompt(decisions, lambda one: one.action == "label")
        self._label = Categories(settings.task or Task()).label
        self._kept: set[str] = set()
        self.counts: Counter[str] = Counter()

    def rewrite(
        self,
        rows: pa.Table,
        conversations: Sequence[Conversation],
        drops: Sequence[Drop | None],
    ) -> tuple[pa.Table, list[Conversation], list[Drop | None]]:
        """Return rows, their conversations and why each is dropped; others' bytes stay.

        Args:
            drops: Why a conversation is dropped already; None for those that are not.
        """
        applied = [self.apply(one) for one in conversations]
        made = [one for one, _ in applied]
        changed = [
            index
            for index, (new, old) in enumerate(zip(made, conversations, strict=True))
            if new is not old
        ]
        if changed:
            new = conversations_to_table([made[index] for index in changed], self._vocab_size)
            places = list(range(rows.num_rows))
            for number, index in enumerate(changed, start=rows.num_rows):
                places[index] = number
            new = new.select(rows.schema.names).cast(rows.schema)
            rows = pa.concat_tables([rows, new]).take(places)
        return rows, made, [drop or own for drop, (_, own) in zip(drops, applied, strict=True)]

    def apply(self, conversation: Conversation) -> tuple[Conversation, Drop | None]:
        """Return a conversation as people want it, and why it is dropped."""
        prompt = conversation.prompt
        if prompt.split != "train" or prompt.is_reference:
            return conversation, None
        if (kept := self._references.get(prompt.prompt_id)) is not None:
            return conversation, Drop(FILTER, f"a reference now ({kept.signature})")
        own = self._decisions.get(row_id(prompt.prompt_id, conversation.completion))
        decision = own or self._labels.get(prompt.prompt_id)
        if decision is None:
            return conversation, None
        self.counts[decision.action] += 1
        if decision.action == "reject":
            return conversation, _drop("rejected", decision)
        return self._corrected(conversation, decision)

    def is_kept(self, conversation: Conversation) -> bool:
        """Return whether a person has accepted or corrected it, so that no filter drops it."""
        return _id(conversation) in self._kept

    def _corrected(
        self, conversation: Conversation, decision: Decision
    ) -> tuple[Conversation, Drop | None]:
        wanted = decision.known
        if decision.action == "label":
            wanted, problem = self._labeled(conversation, decision)
            if problem is not None:
                return conversation, problem
        if decision.known is not None:
            known = Answer.from_message(decision.known).model_dump_json()
            prompt = conversation.prompt.model_copy(update={"known": known})
            conversation = replace(conversation, prompt=prompt)
        if wanted is not None and not _is_said(wanted, conversation):
            try:
                conversation = self._with_answer(conversation, wanted)
            except TeacherError as error:
                return conversation, _drop(f"{error.what}, as it was edited", decision)
        self._kept.add(_id(conversation))
        return conversation, None

    def _labeled(
        self, conversation: Conversation, decision: Decision
    ) -> tuple[Message | None, Drop | None]:
        """Return the answer that a label asks for, or why the conversation is dropped.

        Where the label is a part of an answer, the rest cannot be made up: an answer with another
        label is dropped.
        """
        label = decision.known
        if label is None or self._label is None:
            return None, None
        if self._label.field is None and len(conversation.completion) == 1:
            return label, None
        metric = Label(self._label)
        found = metric.read(conversation.completion[0].content)
        if found == metric.read_known(label.content):
            return None, None
        return None, _drop(f"labeled {label.content}, the answer says {found}", decision)

    def _with_answer(self, conversation: Conversation, wanted: Message) -> Conversation:
        """Return a conversation that ends in another answer.

        Raises:
            TeacherError: It cannot be rendered, or would end within it.
        """
        *earlier, old = conversation.completion
        # The thinking stands before the answer, edited or not.
        message = wanted.model_copy(update={"reasoning_content": old.reasoning_content})
        if any(control in message.content for control in self._settings.controls):
            raise TeacherError("the answer has the text of a control token")
        completion = (*earlier, message)
        tokens = self._tokens(conversation.prompt, (*conversation.given, *completion))
        *turns, last = conversation.turns
        num_before = sum(turn.num_tokens for turn in turns)
        before = [conversation.signal.slice(0, num_before)] if turns else []
        turn = last.model_copy(
            update={"num_tokens": len(tokens), "finish_reason": "stop", "seed": 0}
        )
        return replace(
            conversation,
            completion=completion,
            token_ids=np.concatenate([conversation.token_ids[: last.start], tokens]),
            turns=(*turns, turn),
            signal=TokenDistributions.concatenate([*before, TokenDistributions.certain(tokens)]),
            score=None,
            teacher=None,
        )

    def _tokens(self, prompt: Prompt, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Return the tokens of the last answer."""
        whole = prompt.model_copy(update={"messages": tuple(messages)})
        found = find_answers(self._settings, whole, self._end)
        start, length = found.turns[-1].start, found.turns[-1].num_tokens
        return np.asarray(found.token_ids[start : start + length], dtype=np.int32)


def _by_prompt(
    decisions: Mapping[str, Decision], wanted: Callable[[Decision], bool]
) -> dict[str, Decision]:
    return {one.prompt_id: one for one in decisions.values() if wanted(one)}


def _drop(what: str, decision: Decision) -> Drop:
    note = f": {decision.note}" if decision.note else ""
    return Drop(FILTER, f"{what} ({decision.signature}){note}")


def _id(conversation: Conversation) -> str:
    return row_id(conversation.prompt.prompt_id, conversation.completion)


def _is_said(wanted: Message, conversation: Conversation) -> bool:
    last = conversation.completion[-1]
    return (last.content, last.tool_calls) == (wanted.content, wanted.tool_calls)
