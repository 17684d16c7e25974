"""What is in traces: how many, how long, in which languages, with which tools, how often wrong.

In: requests, one after another. Out: counts and the largest clusters of similar questions. Texts
are kept for the clusters only, of a bounded number of requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from generate.curation.clusters import cluster, user_turns
from generate.curation.config import CurationConfig
from generate.curation.language import Detector
from generate.curation.pii import PersonalData
from generate.imports.reading import Request, Unreadable
from generate.sources.mix import KnownPrompts
from generate.sources.raw_prompt import RawPrompt
from potstill.task.answers import Answer, Item
from potstill.task.items import known_answer
from potstill.task.metrics.metric import Metric, safe_score
from potstill.task.task import Task

MOST_CLUSTERED = 20_000
"""Requests whose questions are compared: a bound of time and memory."""
NUM_CLUSTERS = 10
"""Clusters that are shown."""
NUM_EXAMPLES = 3
"""Questions that are shown of each."""
SIMILAR = 0.5
"""Jaccard similarity of questions in one cluster."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cluster:
    """Similar questions."""

    count: int
    examples: tuple[str, ...]


@dataclass
class Inspection:
    """Counts of requests, which `inspected` adds one by one."""

    task: Task | None = None
    num_requests: int = 0
    num_unreadable: int = 0
    num_duplicates: int = 0
    """Requests whose messages an earlier one has, without regard to case and punctuation."""
    num_personal: int = 0
    """Requests with personal data in a question or an answer."""
    num_known: int = 0
    """Requests whose right answer their row says."""
    sources: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    """Calls in answers and in earlier turns, by the tool's name."""
    choices: Counter[int] = field(default_factory=Counter)
    """Requests by number of answers."""
    turns: Counter[int] = field(default_factory=Counter)
    """Requests by number of messages of the user."""
    question_lengths: Counter[int] = field(default_factory=Counter)
    """In characters, of all messages before the answer."""
    answer_lengths: Counter[int] = field(default_factory=Counter)
    scored: Counter[str] = field(default_factory=Counter)
    """Answers that a metric of the task could judge, by its name."""
    failed: Counter[str] = field(default_factory=Counter)
    """Those of them with a score below 1."""

    def __post_init__(self) -> None:
        self._known = KnownPrompts()
        self._detector = Detector()
        self._personal_data = PersonalData(CurationConfig())
        self._metrics = self.task.make_metrics() if self.task else []
        self._clustered: list[RawPrompt] = []

    def add(self, request: Request) -> None:
        """Count a request."""
        prompt = RawPrompt(request.messages, str(request.kept.get("source")), tools=request.tools)
        self.num_requests += 1
        if not self._known.add(prompt):
            self.num_duplicates += 1
        elif len(self._clustered) < MOST_CLUSTERED:
            self._clustered.append(prompt)
        self.sources[prompt.source] += 1
        self.models[request.model or UNKNOWN] += 1
        if request.error is not None:
            self.errors[request.error[:80]] += 1
        self.choices[len(request.answers)] += 1
        questions = user_turns(request.messages)
        self.turns[len(questions)] += 1
        self.languages[self._detector.language("\n".join(questions)) or UNKNOWN] += 1
        self.question_lengths[sum(len(one.content) for one in request.messages)] += 1
        self.answer_lengths.update(len(one.content) for one in request.answers)
        self._add_personal([*questions, *(one.content for one in request.answers)])
        for message in (*request.messages, *request.answers):
            self.tools.update(str(call["function"]["name"]) for call in message.calls)
        self._judge(request)

    def clusters(self) -> list[Cluster]:
        """Return the largest clusters of similar questions, of those that are not duplicates."""
        ids = cluster(self._clustered, SIMILAR)
        members: dict[str, list[str]] = {}
        for prompt in self._clustered:
            question = next(iter(user_turns(prompt.messages)), "")
            members.setdefault(ids[prompt.prompt_id], []).append(question)
        largest = sorted(members.values(), key=len, reverse=True)[:NUM_CLUSTERS]
        return [Cluster(len(one), tuple(one[:NUM_EXAMPLES])) for one in largest]

    def _add_personal(self, texts: Iterable[str]) -> None:
        kinds = {span.kind for text in texts for span in self._personal_data.find(text)}
        self.personal.update(kinds)
        self.num_personal += bool(kinds)

    def _judge(self, request: Request) -> None:
        known = known_answer(request.kept.get("answer"), has_tools=request.tools is not None)
        self.num_known += known is not None
        item = Item(messages=request.messages, known=known)
        for metric in self._metrics:
            if metric.needs_known and known is None:
                continue
            for message in request.answers:
                self.scored[metric.name] += 1
                self.failed[metric.name] += _fails(metric, Answer.from_message(message), item)


def inspected(
    found: Iterable[Request | Unreadable], inspection: Inspection
) -> Iterator[Request | Unreadable]:
    """Yield what was found, and add it to an inspection."""
    for one in found:
        if isinstance(one, Request):
            inspection.add(one)
        else:
            inspection.num_unreadable += 1
        yield one


def _fails(metric: Metric, answer: Answer, item: Item) -> bool:
    return safe_score(metric, answer, item).value < 1.0
