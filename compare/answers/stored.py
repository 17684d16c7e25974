"""The teacher's answers to a task's references, from the run's conversations.

In: the test split of a run with a task. Out: answers as an endpoint would have returned them. The
generate stage asked for them at temperature 0, with the task's instructions and examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from compare.answers.questions import Question
from potstill.facts.conversations import ConversationsFacts
from potstill.schema import Conversation
from potstill.tables import conversation_paths, read_conversations


def stored_answers(
    conversations_dir: Path, facts: ConversationsFacts, questions: Sequence[Question]
) -> dict[str, dict[str, Any]]:
    """Return the teacher's answers by prompt id; of questions that it did not answer, none.

    Raises:
        ArtifactError: A table is damaged.
    """
    asked = {question.prompt_id for question in questions}
    paths = conversation_paths(conversations_dir, "test")
    stored = chain.from_iterable(map(read_conversations, paths))
    return {
        one.prompt.prompt_id: _answer(one, facts)
        for one in stored
        if one.prompt.is_reference and one.prompt.prompt_id in asked
    }


def _answer(conversation: Conversation, facts: ConversationsFacts) -> dict[str, Any]:
    turn, message = conversation.turns[0], conversation.completion[0]
    prompt_tokens = facts.teacher_prompt_tokens if facts.prompt_distilled else None
    return {
        "answer": message.content,
        "tool_calls": message.tool_calls,
        "finish_reason": turn.finish_reason,
        "prompt_tokens": round(prompt_tokens or turn.start),
        "completion_tokens": turn.num_tokens,
        "seconds": None,
    }
