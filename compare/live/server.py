"""An experiment of a running `potstill serve`, over HTTP.

In: an address, an experiment's name. Out: pairs to judge, results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from compare.answers.client import backend_errors, open_client
from compare.answers.questions import Question, slices_of
from compare.judges.protocol import Pair
from potstill.api_keys import read_api_key, served_key_variable
from potstill.errors import ConfigError
from potstill.schema import Message, Value
from potstill.verdict.outcome import Outcome

SOURCE = "live"
MOST_PAIRS = 10_000
"""Most pairs of one request; the next call returns the others."""


class LiveVerdict(Value):
    """The server's verdict on all judged pairs."""

    outcome: Outcome
    alone: Outcome | None = None
    """What a judge other than people would say; its PASS alone is INCONCLUSIVE."""
    judge: str | None = None
    """None from an earlier server."""
    win_rate: float | None
    lower: float
    upper: float
    margin: float
    alpha: float
    pairs: int
    failed: dict[str, int]
    """Pairs lost because a model did not answer, by "student" and "teacher"."""
    is_withheld: bool
    """Whether a PASS is withheld because the teacher failed to answer too often."""
    is_withdrawn: bool = False
    """Whether a PASS is withdrawn because the newest users contradict it."""
    recent: dict[str, float | None] = Field(default_factory=dict)
    """Number and win rate of the newest users."""
    conversations_of: str | None = None
    """The variant in whose clients' conversations both are compared."""
    voters: int | None = None
    """Number of keys that voted, where votes decide."""


class Unjudged(Value):
    """Pairs without a judgment of one judge."""

    pairs: tuple[Pair, ...]
    teacher_model: str
    margin: float
    alpha: float


class LiveExperiment:
    """One experiment of a server.

    Args:
        base_url: The server's address including the version.
        name: None takes the only experiment.

    Raises:
        ConfigError: There is none, or there are several and none is named.
        BackendError: The server cannot be reached, or rejects the key.
    """

    def __init__(self, base_url: str, name: str | None, timeout_seconds: float) -> None:
        self._base_url, self._timeout_seconds = base_url, timeout_seconds
        self._key = read_api_key(served_key_variable())
        self.name = name or self._only()

    def results(self) -> dict[str, Any]:
        """Return the results as the server's JSON."""
        return self._get(f"/experiments/{self.name}", {})

    def unjudged(self, judge: str, quiet_seconds: float) -> Unjudged:
        """Return the pairs that a judge has not judged, the oldest first.

        Args:
            quiet_seconds: Time without a message after which a conversation is judged.
        """
        query = {"judge": judge, "quiet_seconds": quiet_seconds, "limit": MOST_PAIRS}
        found = self._get(f"/experiments/{self.name}/pairs", query)
        return Unjudged(
            pairs=tuple(_pair(row) for row in found["data"]),
            teacher_model=found["teacher_model"],
            margin=found["margin"],
            alpha=found["alpha"],
        )

    def store(self, judge: str, scores: Sequence[tuple[str, float]], *, is_valid: bool) -> None:
        """Store a judge's scores of pairs, by their ids, and whether it passed its assay."""
        body = {
            "judge": judge,
            "is_valid": is_valid,
            "judgments": [{"pair_id": pair_id, "score": score} for pair_id, score in scores],
        }
        with backend_errors(self._base_url), self._client() as client:
            client.post(f"/experiments/{self.name}/judgments", cast_to=object, body=body)

    def _only(self) -> str:
        names = self._get("/experiments", {})["data"]
        if len(names) != 1:
            raise ConfigError(
                "a server without exactly one experiment needs an experiment's name",
                where=self._base_url,
                expected=f"{self._base_url}#NAME",
                found=", ".join(names) or "no experiment",
            )
        return str(names[0])

    def _get(self, path: str, query: Mapping[str, object]) -> dict[str, Any]:
        with backend_errors(self._base_url), self._client() as client:
            found: Any = client.get(path, cast_to=object, options={"params": query})
        return dict(found)

    def _client(self) -> Any:  # noqa: ANN401  (mypy does not see through its overloads)
        return open_client(self._base_url, self._timeout_seconds, self._key)


def verdict_in(results: Mapping[str, Any]) -> LiveVerdict | None:
    """Return the verdict among an experiment's results; None before the first judged pair."""
    found = results["verdict"]
    return None if found is None else LiveVerdict.model_validate(found)


def _pair(row: Mapping[str, Any]) -> Pair:
    messages = tuple(Message(role=one["role"], content=one["content"]) for one in row["messages"])
    question = Question(
        prompt_id=row["pair_id"],
        conversation_id=row["conversation"],
        # An earlier server names no user.
        cluster_id=row.get("user", row["conversation"]),
        source=SOURCE,
        messages=messages,
        slices=slices_of(messages, SOURCE),
    )
    return Pair(
        question=question,
        sample=0,
        student=row["student"],
        teacher=row["teacher"],
        student_finished=row["student_finished"],
        teacher_finished=row["teacher_finished"],
        student_refused=row["student_failed"],
        teacher_refused=row["teacher_failed"],
    )
