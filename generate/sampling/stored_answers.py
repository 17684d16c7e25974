"""Answers that the teacher gave in another run: it is not asked for them again.

In: a finished run, named by `generate.reuse`. Out: its conversations by prompt, where teacher and
settings are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from generate.sampling.dialogue import Dialogue
from generate.sampling.loop import Complete
from generate.sampling.parts import part_paths
from potstill.facts.samples import SamplesFacts
from potstill.rundir import RunDirectory
from potstill.schema import Conversation
from potstill.tables import read_conversations

logger = logging.getLogger(__name__)


@dataclass
class StoredConversation(Complete):
    """A conversation that another run has."""

    stored: Conversation

    @property
    def name(self) -> str:
        """Unique in a run."""
        return self.stored.conversation_id

    def conversation(self) -> Conversation:
        """Return the conversation."""
        return self.stored


class StoredAnswers:
    """Conversations of an earlier run, whole in memory, for prompts of this one.

    Args:
        conversations: By the prompt's id.
    """

    def __init__(self, conversations: Mapping[str, Conversation] | None = None) -> None:
        self._conversations = conversations or {}

    def find(self, asked: Dialogue, teacher_name: str) -> StoredConversation | None:
        """Return the teacher's stored conversation that begins as another one is about to.

        The known answer must be the same, too: the teacher's can be bound to it.

        Returns:
            None if there is none.
        """
        stored = self._conversations.get(asked.prompt.prompt_id)
        if stored is None or stored.teacher != teacher_name:
            return None
        before, now = stored.prompt, asked.prompt
        is_same = (
            stored.given == asked.given
            and before.tools == now.tools
            and before.known == now.known
            and before.is_reference == now.is_reference
        )
        return StoredConversation(replace(stored, prompt=now)) if is_same else None


def read_stored_answers(
    run_directory: RunDirectory,
    settings: Mapping[str, Any],
    fingerprint: str,
    prompt_ids: Collection[str],
) -> StoredAnswers:
    """Read the conversations of an earlier run.

    Args:
        run_directory: The earlier run.
        settings: This run's settings of the stage; a run with others has nothing to take.
        fingerprint: Hash of the first teacher's checkpoint.
        prompt_ids: The prompts of this run.

    Raises:
        ArtifactError: The run has no finished samples, or they are damaged.
    """
    manifest = run_directory.require("samples")
    teacher = run_directory.facts(SamplesFacts).teacher
    if manifest.config != settings or teacher.fingerprint != fingerprint:
        logger.warning(
            "no answers of %s are taken: its teacher or its settings of sampling are others",
            run_directory.root,
        )
        return StoredAnswers()
    found = {
        one.prompt.prompt_id: one
        for path in part_paths(run_directory.stage_dir("samples"))
        for one in read_conversations(path)
        if one.prompt.prompt_id in prompt_ids
    }
    logger.info("%d answers may be taken from %s", len(found), run_directory.root)
    return StoredAnswers(found)
