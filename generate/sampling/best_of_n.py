"""Best-of-n selection: the best `num_answers` conversations of each prompt, with their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from generate.config import TurnsConfig
from potstill.errors import TeacherError
from potstill.schema import Conversation, Message

Choose = Callable[[Sequence[Conversation]], list[Conversation]]
Score = Callable[[Conversation], float]


def make_choice(config: TurnsConfig) -> Choose:
    """Return the selection that the configuration asks for.

    Raises:
        TeacherError: The reward model cannot be loaded.
    """
    if config.num_sampled == config.num_answers or config.kind == "score":
        return list
    score = _scores[config.best_by] if config.reward_model is None else reward(config.reward_model)

    def choose(conversations: Sequence[Conversation]) -> list[Conversation]:
        kept = []
        for _, group in groupby(conversations, key=lambda one: one.prompt.prompt_id):
            scored = [replace(one, score=score(one)) for one in group]
            kept += sorted(scored, key=lambda one: -(one.score or 0.0))[: config.num_answers]
        return kept

    return choose


def mean_logprob(conversation: Conversation) -> float:
    """Return the teacher's mean log-probability of its sampled tokens, in nats."""
    return float(conversation.signal.sampled_logprobs_T.mean())


def length(conversation: Conversation) -> float:
    """Return the number of the teacher's tokens; truncated answers rank last."""
    num_tokens = float(len(conversation.signal.counts_T))
    finished = all(turn.finish_reason == "stop" for turn in conversation.turns)
    return num_tokens if finished else -1.0 / num_tokens


_scores: dict[str, Score] = {"logprob": mean_logprob, "length": length}


def reward(model_name: str) -> Score:
    """Return a function that scores a conversation with a Hugging Face sequence classifier.

    The classifier reads the whole conversation in its own chat template.

    Raises:
        TeacherError: The model cannot be loaded, or is not a reward model.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from potstill.chat import render_text, tokenize
    from potstill.checkpoints import find_checkpoint

    directory = find_checkpoint(model_name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            "the reward model cannot be loaded",
            where=directory,
            expected="a sequence classifier with one output and a chat template",
            found=str(error).splitlines()[0],
            hint="check generate.turns.reward_model",
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)

    def score(conversation: Conversation) -> float:
        messages: list[Message] = [*conversation.given, *conversation.completion]
        text = render_text(tokenizer, messages, add_generation_prompt=False)
        with torch.inference_mode():
            ids = torch.tensor([tokenize(tokenizer, text)], device=device)
            return float(model(input_ids=ids).logits[0, 0])

    return score
