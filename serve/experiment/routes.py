"""Routes of feedback, votes, experiments and cascades.

A response that says "stored" is sent after the commit. Where keys are in use, any key may rate
answers; results and the kill switch need an administrator's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import Connection, insert, select

from potstill import former_names
from serve.api.request_log import REQUEST_ID
from serve.api.routes.schema import FAILURES
from serve.api.state import caller_of, serving_of
from serve.experiment.backend import Experiment
from serve.experiment.cascade import Cascade
from serve.experiment.dealing import Dealer
from serve.experiment.results import results_of
from serve.experiment.wire import (
    Accepted,
    CascadeList,
    DealRequest,
    DealView,
    ExperimentList,
    ExperimentView,
    FeedbackRequest,
    JudgmentsRequest,
    PairList,
    PairView,
    State,
    VoteRequest,
    VoteView,
)
from serve.keys import Key
from serve.storage import tables
from serve.storage.queries import BlindVote, blind_votes, unjudged_pairs
from serve.storage.records import StoredAnswer, StoredPair
from serve.storage.storage import COMMIT_PATIENCE_SECONDS, Storage, dialect_insert, insert_new
from serve.wire.shared import JsonObject

logger = logging.getLogger(__name__)

MOST_PAIRS = 10_000
JUDGMENTS_SECONDS = 60.0
"""How long a batch of judgments may take to be stored."""
SCORES = {"a": 1.0, "tie": 0.5, "b": 0.0}

router = APIRouter(tags=["experiments"], responses=FAILURES)
"""Included if there is a storage."""
cascades = APIRouter(tags=["experiments"], responses=FAILURES)
"""Always included."""


@dataclass(frozen=True)
class LiveTraffic:
    """The storage and experiments of an application, as its `state.live`."""

    storage: Storage
    experiments: Mapping[str, Experiment]
    dealer: Dealer = field(default_factory=Dealer)

    async def answer(self, answer_id: str) -> StoredAnswer:
        """Return a stored complete answer, or respond with 404."""
        answer = await self.storage.answer(answer_id)
        if answer is None:
            raise HTTPException(404, "there is no complete answer with this id")
        return answer

    def note_act(self, key: str, act: str) -> None:
        """Log what an administrator does, and store it as soon as the database takes it."""
        logger.warning("administrator %r: %s", key, act)
        row = {"created": time.time(), "key": key, "act": act, "request_id": REQUEST_ID.get()}
        writing = insert(tables.acts).values(row)
        self.storage.submit(lambda connection: connection.execute(writing), is_kept=True)


def live_of(http: Request) -> LiveTraffic:
    """Return the application's storage and experiments."""
    live: LiveTraffic = http.app.state.live
    return live


def experiment_of(name: str, http: Request) -> Experiment:
    """Return an experiment if the caller may see it, or respond with 403 or 404."""
    key: Key | None = getattr(http.state, "key", None)
    if key is not None and not key.is_admin:
        raise HTTPException(403, "this needs an administrator's key")
    live = live_of(http)
    if name not in live.experiments:
        known = " | ".join(live.experiments) or "none"
        raise HTTPException(404, f"there is no experiment with this name; known: {known}")
    # Not `http.url`, which is made of the Host header.
    path = str(http.scope["path"])
    if path != f"/v1/experiments/{name}":
        live.note_act("" if key is None else key.name, f"{http.method} {path}")
    return live.experiments[name]


RequestTraffic = Annotated[LiveTraffic, Depends(live_of)]
RequestExperiment = Annotated[Experiment, Depends(experiment_of)]


@router.post("/v1/feedback")
async def give_feedback(body: FeedbackRequest, http: Request, live: RequestTraffic) -> Accepted:
    """Rate an answer; a later rating replaces an earlier one."""
    answer = await live.answer(body.response_id)
    row = {"response_id": answer.id, "created": time.time(), "score": body.value}
    owner = caller_of(http).owner

    def work(connection: Connection) -> None:
        # Not in the event loop: a pattern may take seconds.
        row["comment"] = live.storage.redacted(body.comment, owner)
        insertion = dialect_insert(connection, tables.feedback).values(row)
        # Ratings count in the order in which they were first given.
        latest = {name: row[name] for name in ("score", "comment")}
        connection.execute(
            insertion.on_conflict_do_update(index_elements=["response_id"], set_=latest)
        )

    await live.storage.write(work)
    return {"stored": True}


@router.post("/v1/deals")
async def deal(body: DealRequest, http: Request, live: RequestTraffic) -> DealView:
    """Give two models names under which each answers once, in random order, for a blind vote."""
    models = [serving_of(http).find(name) for name in body.models]
    return {"models": live.dealer.deal(models, caller_of(http).owner)}


@router.post("/v1/votes")
async def vote(body: VoteRequest, http: Request, live: RequestTraffic) -> VoteView:
    """Vote on which of two answers to the same messages is better.

    A blind vote is on two answers of names that were dealt to the same key; it returns the models.
    It counts where both were asked for under the server's own settings.
    """
    voter = caller_of(http).owner
    first, second = [await live.answer(one) for one in body.response_ids]
    if first.prompt != second.prompt or first.id == second.id:
        raise HTTPException(400, "these are not two answers to the same messages")
    settings = []
    if body.blind:
        settings = live.dealer.take(body.response_ids, voter)
    else:
        live.dealer.count_vote(voter)
    live.dealer.end(body.response_ids)
    counts = body.blind and not settings
    row = {
        "created": time.time(),
        "first_id": first.id,
        "second_id": second.id,
        "score": SCORES[body.preference],
        "is_blind": counts,
    }
    voter_hash = live.storage.hashed("voter", voter)

    def work(connection: Connection) -> None:
        same = [tables.votes.c[name] == value for name, value in row.items()]
        if connection.scalar(select(tables.votes.c.number).where(*same)):
            return  # it was committed, and the connection lost before that was known
        number = connection.scalar(
            insert(tables.votes).values(row).returning(tables.votes.c.number)
        )
        connection.execute(insert(tables.voters), {"vote": number, "voter": voter_hash})

    await live.storage.write(work)
    models = [first.model, second.model]
    return {"stored": True, "models": models, "counts": counts, "settings": settings}


@router.get("/v1/experiments")
async def list_experiments(http: Request, live: RequestTraffic) -> ExperimentList:
    """List the experiments that the caller may use."""
    allowed = serving_of(http).backends
    return {"data": [name for name in live.experiments if name in allowed]}


@router.get("/v1/experiments/{name}")
async def show_experiment(experiment: RequestExperiment) -> ExperimentView:
    """Return an experiment's current results, which stay valid however often they are read."""
    return await results_of(experiment)


@router.post("/v1/experiments/{name}/kill")
async def kill(experiment: RequestExperiment) -> ExperimentView:
    """Let the teacher answer all requests until the experiment is resumed, even after restarts."""
    return await _entered(experiment, "killed")


@router.post("/v1/experiments/{name}/resume")
async def resume(experiment: RequestExperiment) -> ExperimentView:
    """Assign users to variants again, with fresh guardrails."""
    return await _entered(experiment, "running")


async def _entered(experiment: Experiment, state: State) -> ExperimentView:
    """Change the state, which holds at once; a storage that hangs is waited for only a moment."""
    future = asyncio.wrap_future(experiment.enter(state, "an administrator requested it"))
    await asyncio.wait([future], timeout=COMMIT_PATIENCE_SECONDS)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await results_of(experiment)


@router.get("/v1/experiments/{name}/pairs", response_model=PairList)
async def list_pairs(
    experiment: RequestExperiment,
    live: RequestTraffic,
    judge: str,
    quiet_seconds: Annotated[float, Query(ge=0)] = 0.0,
    limit: Annotated[int, Query(ge=1, le=MOST_PAIRS)] = 1000,
) -> Response:
    """List pairs of answers that a judge has not judged: as many as are sent together.

    Conversations with activity in the last `quiet_seconds` are left for later.
    """
    config = experiment.config

    def work(connection: Connection) -> str:
        pairs = unjudged_pairs(
            connection,
            experiment.name,
            judge,
            own_side=config.own_side,
            other_side=config.teacher if config.own_side == config.student else config.student,
            with_failed=config.failed_pairs == "lose",
            quiet_since=time.time() - quiet_seconds,
            limit=limit,
        )
        # One by one, beside the event loop: all of them take a second, and nothing else would run.
        return ",".join(json.dumps(_pair(experiment, pair)) for pair in pairs)

    head = json.dumps(
        {
            "teacher_model": config.model_of(config.teacher),
            "margin": config.margin,
            "alpha": config.alpha,
        }
    )
    content = f'{head.removesuffix("}")}, "data": [{await live.storage.read(work)}]}}'
    return Response(content, media_type="application/json")


@router.post(former_names.JUDGMENTS_PATH, include_in_schema=False)
@router.post("/v1/experiments/{name}/judgments")
async def judge(
    experiment: RequestExperiment, live: RequestTraffic, body: JudgmentsRequest
) -> ExperimentView:
    """Store a judge's judgments; an earlier judgment of a pair stays."""

    def work(connection: Connection) -> None:
        head = {"experiment": experiment.name, "judge": body.judge}
        batch = {**head, "is_valid": body.is_valid, "created": time.time()}
        insertion = insert(tables.batches).values(batch).returning(tables.batches.c.number)
        number = connection.scalar(insertion)
        for one in body.judgments:
            row = {**head, "batch": number, "pair_id": one.pair_id, "score": one.score}
            connection.execute(insert_new(connection, tables.judgments, row))

    await live.storage.write(work, JUDGMENTS_SECONDS)
    return await results_of(experiment)


@router.get("/v1/experiments/{name}/votes", response_class=Response)
async def list_votes(experiment: RequestExperiment, live: RequestTraffic) -> Response:
    """List people's blind votes with their texts as JSONL, which `potstill compare` reads."""
    return StreamingResponse(_vote_lines(experiment, live), media_type="application/jsonl")


async def _vote_lines(experiment: Experiment, live: LiveTraffic) -> AsyncIterator[str]:
    """Yield the lines of a few votes at a time."""
    last = 0

    def work(connection: Connection) -> tuple[int, str]:
        votes = blind_votes(connection, experiment.sides, experiment.began, texts_after=last)
        lines = [_vote_line(experiment, one) for one in votes if one.messages and one.first.text]
        content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return (votes[-1].number if votes else 0), content

    while True:
        last, content = await live.storage.read(work)
        if not last:
            return
        yield content


@cascades.get("/v1/cascades")
async def list_cascades(http: Request) -> CascadeList:
    """List the cascades, with their shares of answers by the teacher."""
    backends = serving_of(http).backends.values()
    return {"data": [one.view for one in backends if isinstance(one, Cascade)]}


def _vote_line(experiment: Experiment, vote: BlindVote) -> JsonObject:
    roles = dict(zip(experiment.sides, ("student", "teacher"), strict=True))
    sides = {"left": vote.first, "right": vote.second}
    return {
        "messages": json.loads(vote.messages or "[]"),
        **{
            side: {"role": roles[one.model], "model": one.model, "answer": one.text or ""}
            for side, one in sides.items()
        },
        "vote": {1.0: "left", 0.0: "right"}.get(vote.score, "tie"),
        # No names are stored: each vote counts as one voter.
        "voter": str(vote.number),
        "created": datetime.fromtimestamp(vote.created, UTC).isoformat(),
    }


def _pair(experiment: Experiment, pair: StoredPair) -> PairView:
    student, teacher = experiment.config.student, experiment.config.teacher
    return {
        "pair_id": pair.id,
        "conversation": pair.conversation,
        "user": pair.user,
        "messages": json.loads(pair.messages),
        "student": pair.answers[student],
        "teacher": pair.answers[teacher],
        "student_finished": pair.finish_reasons[student] != "length",
        "teacher_finished": pair.finish_reasons[teacher] != "length",
        "student_failed": pair.failed == student,
        "teacher_failed": pair.failed == teacher,
    }
