"""Best-of-n selection: the best `num_answers` conversations of each prompt, with their scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

from generate.config import TurnsConfig
from generate.curation.task_filters import first_answer, first_metric, score_of
from potstill.errors import TeacherError, first_line
from potstill.schema import Conversation, Message
from potstill.task.metrics.metric import Metric, safe_key
from potstill.task.task import Task

Choose = Callable[[Sequence[Conversation]], list[Conversation]]
Rank = Callable[[Sequence[Conversation]], list[Conversation]]
Score = Callable[[Conversation], float]


def make_choice(config: TurnsConfig, task: Task | None = None) -> Choose:
    """Return the selection that the configuration asks for.

    Raises:
        ConfigError: It is by a metric, and the task has none.
        TeacherError: The reward model cannot be loaded.
    """
    if config.num_sampled == config.num_answers or config.kind == "score":
        return list
    rank = _ranking(config, task)

    def choose(conversations: Sequence[Conversation]) -> list[Conversation]:
        kept = []
        for _, group in groupby(conversations, key=lambda one: one.prompt.prompt_id):
            kept += rank(list(group))[: config.num_answers]
        return kept

    return choose


def _ranking(config: TurnsConfig, task: Task | None) -> Rank:
    """Return a function that scores the conversations of one prompt and puts the best first."""
    if config.best_by == "metric":
        return partial(by_metric, first_metric(task, "generate.turns.best_by"))
    if config.best_by == "majority":
        return partial(by_majority, first_metric(task, "generate.turns.best_by"))
    score = _scores[config.best_by] if config.reward_model is None else reward(config.reward_model)

    def rank(conversations: Sequence[Conversation]) -> list[Conversation]:
        scored = [replace(one, score=score(one)) for one in conversations]
        return sorted(scored, key=lambda one: -(one.score or 0.0))

    return rank


def by_metric(metric: Metric, conversations: Sequence[Conversation]) -> list[Conversation]:
    """Rank by the metric's score of the first answer against the known one, then by probability.

    Without a known answer that the metric needs there is no score, and the probability decides.
    """
    scored = [
        replace(one, score=score.value if (score := score_of(metric, one)) else None)
        for one in conversations
    ]
    return sorted(scored, key=lambda one: (-(one.score or 0.0), -mean_logprob(one)))


def by_majority(metric: Metric, conversations: Sequence[Conversation]) -> list[Conversation]:
    """Rank by how many conversations say the same, then by probability.

    The score is the share of those that say the same among all; 0 where nothing can be read.

    Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning", section 2.
    """
    keys = [safe_key(metric, first_answer(one)) for one in conversations]
    counts: Counter[str | None] = Counter(key for key in keys if key is not None)
    logprobs = list(map(mean_logprob, conversations))
    best = {
        key: max(value for value, other in zip(logprobs, keys, strict=True) if other == key)
        for key in set(keys)
    }
    order = sorted(
        range(len(keys)), key=lambda at: (-counts[keys[at]], -best[keys[at]], -logprobs[at])
    )
    return [replace(conversations[at], score=counts[keys[at]] / len(conversations)) for at in order]


def mean_logprob(conversation: Conversation) -> float:
    """Return the teacher's mean log-probability of its sampled tokens, in nats."""
    return float(conversation.signal.sampled_logprobs_T.mean())


def length(conversation: Conversation) -> float:
    """Return the number of the teacher's tokens; truncated answers rank last."""
    num_tokens = float(len(conversation.signal.counts_T))
    finished = all(turn.finish_reason == "stop" for turn in conversation.turns)
    return num_tokens if finished else -1.0 / num_tokens


_scores: dict[str, Score] = {"logprob": mean_logprob, "length": length}


def device() -> str:
    """Return the device of the reward model: NVIDIA's GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def reward(model_name: str) -> Score:
    """Return a function that scores a conversation with a Hugging Face sequence classifier.

    The classifier reads the whole conversation in its own chat template. It is loaded after the
    teacher, and shares the first of its GPUs.

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
        model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=1)
        model.eval().to(device())
    except (OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            "the reward model cannot be loaded",
            where=directory,
            expected="a sequence classifier with one output and a chat template",
            found=first_line(error),
            hint="check generate.turns.reward_model; where the GPU's memory is short, leave it "
            "some with generate.engine.kv_cache_bytes",
        ) from error

    def score(conversation: Conversation) -> float:
        messages: list[Message] = [*conversation.given, *conversation.completion]
        text = render_text(tokenizer, messages, add_generation_prompt=False)
        with torch.inference_mode():
            ids = torch.tensor([tokenize(tokenizer, text)], device=model.device)
            return float(model(input_ids=ids).logits[0, 0])

    return score
