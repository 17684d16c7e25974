"""Filters of conversations, applied one by one.

In: conversations. Out: for each the first filter that drops it with the reason, or None. A filter
drops a conversation if it rejects one of the teacher's answers. Only `duplicate_answer` needs
memory: a hash per conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from generate.curation.config import CurationConfig
from generate.curation.language import Language
from generate.curation.pii import PersonalData
from generate.curation.refusals import judge_refusal
from generate.curation.registry import make_filters
from generate.curation.repetition import MIN_TOKENS, ends_in_loop, repeated_share
from generate.curation.task_filters import TASK_FILTERS, Decode, Judge
from generate.curation.toxicity import Toxicity
from generate.sources.raw_prompt import normalize
from potstill.schema import Conversation, Message, Turn
from potstill.task.answers import Answer
from potstill.task.task import Task


@dataclass(frozen=True)
class Drop:
    """The filter that dropped a conversation, and its reason."""

    filter: str
    reason: str


class ConversationCurator:
    """Applies the configured filters to conversations.

    Args:
        decode: From the teacher's token ids to text, for the filter `confidence`.

    Raises:
        ConfigError: A filter is unknown or rejects its configuration.
    """

    def __init__(
        self, config: CurationConfig, task: Task | None = None, decode: Decode | None = None
    ) -> None:
        of_task = {name: partial(make, task, decode) for name, make in TASK_FILTERS.items()}
        known = CONVERSATION_FILTERS | of_task
        self._filters = make_filters("conversation_filters", config, known, lambda own: own.judge)

    def judge(self, conversation: Conversation) -> Drop | None:
        """Return the first filter's reason to drop a conversation; None to keep it.

        Canaries are kept: what is planted must be in the data.
        """
        if conversation.prompt.is_canary:
            return None
        for name, judge in self._filters.items():
            if (reason := judge(conversation)) is not None:
                return Drop(name, reason)
        for one in self._filters.values():
            if isinstance(one, DuplicateAnswer):
                one.remember(conversation)
        return None


class DuplicateAnswer:
    """Drops conversations with the same answers as a kept one."""

    def __init__(self) -> None:
        self._prompt_ids: dict[int, str] = {}
        """Prompts of the conversations that are kept, by the hash of their answers."""

    def __call__(self, conversation: Conversation) -> str | None:
        """Return the prompt with the same answers as a reason, or None."""
        prompt_id = self._prompt_ids.get(_hash(conversation))
        return prompt_id and f"same answers as prompt {prompt_id}"

    def remember(self, conversation: Conversation) -> None:
        """Add a conversation that is kept."""
        self._prompt_ids.setdefault(_hash(conversation), conversation.prompt.prompt_id)


def _each_answer(judge_answer: Callable[[Message], str | None]) -> Judge:
    def judge(conversation: Conversation) -> str | None:
        reasons = map(judge_answer, _answers(conversation))
        return next((reason for reason in reasons if reason is not None), None)

    return judge


def _each_turn(judge_turn: Callable[[Turn, list[int]], str | None]) -> Judge:
    def judge(conversation: Conversation) -> str | None:
        for turn in conversation.turns:
            ids = conversation.token_ids[turn.start : turn.start + turn.num_tokens].tolist()
            if (reason := judge_turn(turn, ids)) is not None:
                return reason
        return None

    return judge


def _refusing(conversation: Conversation) -> str | None:
    known = conversation.prompt.known
    if known is not None and judge_refusal(Answer.model_validate_json(known).text):
        return None  # The known answer is a refusal.
    return _texts(judge_refusal)(conversation)


def _answers(conversation: Conversation) -> Iterator[Message]:
    return (message for message in conversation.completion if message.role == "assistant")


def _hash(conversation: Conversation) -> int:
    return hash("\n".join(normalize(answer.content) for answer in _answers(conversation)))


def _texts(judge_text: Callable[[str], str | None]) -> Judge:
    return _each_answer(lambda answer: judge_text(answer.content))


def _empty(_config: CurationConfig) -> Judge:
    def judge(answer: Message) -> str | None:
        says_something = answer.content.strip() or answer.tool_calls
        return None if says_something else "an answer without text"

    return _each_answer(judge)


def _looping(config: CurationConfig) -> Judge:
    def judge(turn: Turn, ids: list[int]) -> str | None:
        said = ids[:-1] if turn.finish_reason == "stop" else ids
        if len(said) < MIN_TOKENS:
            return None
        if ends_in_loop(said):
            return "an answer ends in a loop"
        share = repeated_share(said)
        if share > config.max_repeated_share:
            return f"{share:.0%} of an answer's tokens are in repeated runs"
        return None

    return _each_turn(judge)


def _length(config: CurationConfig) -> Judge:
    def judge(turn: Turn, _ids: list[int]) -> str | None:
        if turn.num_tokens < config.min_answer_tokens:
            return f"an answer of {turn.num_tokens} tokens, minimum {config.min_answer_tokens}"
        if config.max_answer_tokens is not None and turn.num_tokens > config.max_answer_tokens:
            return f"an answer of {turn.num_tokens} tokens, maximum {config.max_answer_tokens}"
        return None

    return _each_turn(judge)


def _truncated(_config: CurationConfig) -> Judge:
    def judge(turn: Turn, _ids: list[int]) -> str | None:
        if turn.finish_reason == "length":
            return f"an answer truncated after {turn.num_tokens} tokens"
        return None

    return _each_turn(judge)


CONVERSATION_FILTERS: dict[str, Callable[[CurationConfig], Judge]] = {
    "empty": _empty,
    "looping": _looping,
    "language": lambda config: _texts(Language(config).judge_text),
    "length": _length,
    "truncated": _truncated,
    "refusal": lambda _config: _refusing,
    "personal_data": lambda config: _texts(PersonalData(config).judge_text),
    "toxicity": lambda config: _texts(Toxicity(config).judge_text),
    "duplicate_answer": lambda _config: DuplicateAnswer(),
}
"""Factories of conversation filters, by name."""
