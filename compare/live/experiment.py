"""The pairs of a live experiment, judged by the judges of `potstill compare`.

In: the [compare] table, a running server. Out: judgments, stored there; the verdict, which the
server computes from all of them and which is valid at every look.

A judge first passes an assay with the controls of a comparison: the teacher's answers to live
prompts, damaged or not, and two further answers of the teacher to each.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from compare.answers.answers import AnswerBook, Role, Sampling, Wanted
from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint, find_endpoint
from compare.config import CompareConfig, SideConfig
from compare.judge_config import TEACHER_JUDGE, JudgeConfig
from compare.judges.assay import Judged, work
from compare.judges.controls import Control, build_controls
from compare.judges.panel import beside, settled
from compare.judges.protocol import Judge, Judgment, Pair
from compare.judges.reader import NO_VERDICT
from compare.judges.registry import JudgeResources, build_judge
from compare.live.server import LiveExperiment, LiveVerdict, Unjudged, verdict_in
from compare.verdict.checks import Health
from compare.verdict.findings import VOTES
from compare.verdict.health import health_of, is_sound_so_far
from potstill.api_keys import served_key_variable
from potstill.errors import ConfigError
from potstill.rundir import RunDirectory
from potstill.terminal import echo, show
from potstill.verdict.outcome import Outcome, Plan

logger = logging.getLogger(__name__)

PAIRS_AT_ONCE = 50
"""Least number of pairs whose judgments are stored together, with all pairs of the last user: an
interrupted run loses no more."""


def run(
    config: CompareConfig,
    run_directory: RunDirectory,
    base_url: str,
    name: str | None,
    *,
    quiet_seconds: float,
    as_json: bool,
) -> Outcome:
    """Let each judge judge the pairs it has not seen; print the results, return the outcome.

    Args:
        run_directory: Where readings and assays of judges are cached.
        name: The experiment; None takes the only one.
        quiet_seconds: Time without a message after which a conversation is judged, as a whole.

    Raises:
        ConfigError: No judge can judge live pairs, or several experiments and no name.
        BackendError: The server or a judge fails.
    """
    experiment = LiveExperiment(base_url, name, config.request_timeout_seconds)
    judges = [one for one in config.judges or (TEACHER_JUDGE,) if one.kind == "llm"]
    if not judges:
        raise ConfigError(
            "no judge can judge live pairs",
            where="compare.judges",
            expected='one of kind "llm": live pairs have no known answers, and the server counts '
            "votes itself",
        )
    cache = JsonCache(run_directory.live_dir)
    for table in judges:
        unjudged = experiment.unjudged(table.name, quiet_seconds)
        if unjudged.pairs:
            resources = _resources(config, cache, base_url, unjudged.teacher_model)
            judge = build_judge(table, resources)
            _LiveJudge(config, experiment, table, judge, resources).judge(unjudged)
    results = experiment.results()
    verdict = verdict_in(results)
    if as_json:
        echo(json.dumps(results, indent=2))
    else:
        for sentence in _sentences(results, verdict):
            show(sentence, soft_wrap=True)
    return Outcome.INCONCLUSIVE if verdict is None else verdict.outcome


def _sentences(results: Mapping[str, Any], verdict: LiveVerdict | None) -> Iterator[str]:
    yield _verdict_sentence(results, verdict)
    if verdict is not None and verdict.alone is Outcome.PASS:
        yield (
            "Judge not verified on real pairs: it alone would say PASS. PASS needs people's blind "
            'votes, by judge = "votes" of the experiment.'
        )
    if verdict is not None and any(verdict.failed.values()):
        failed = ", ".join(f"{side} {number}" for side, number in verdict.failed.items())
        yield f"Judged pairs lost because a model did not answer: {failed}."
    if verdict is not None and verdict.is_withheld:
        yield (
            "PASS is withheld: the teacher failed to answer too often to compare with. Fix it, or "
            'set failed_pairs = "leave_out".'
        )
    if verdict is not None and verdict.recent.get("win_rate") is not None:
        recent = f"The newest {verdict.recent['users']:g} users: {verdict.recent['win_rate']:.3f}."
        yield f"PASS is withdrawn. {recent}" if verdict.is_withdrawn else recent
    if (ratio := results["sample_ratio"])["is_mismatch"]:
        yield (
            f"The split is broken: users are not shared as the weights say (p = "
            f"{ratio['p_value']:.2g}). Comparisons of variants, such as of their ratings, are "
            "invalid."
        )
    if (ratings := results["ratings"]) is not None:
        found, users = ratings["difference"], ratings["users"]
        yield (
            f"Difference of user ratings, student - teacher: {found:+.3f}, "
            f"{ratings['lower']:+.3f} to {ratings['upper']:+.3f} at all looks together "
            f"({users['student']} and {users['teacher']} users). Ratings decide nothing."
        )


def _verdict_sentence(results: Mapping[str, Any], verdict: LiveVerdict | None) -> str:
    name, state = results["name"], results["state"]
    if verdict is None or verdict.win_rate is None:
        outcome = Outcome.INCONCLUSIVE if verdict is None else verdict.outcome
        waiting = results["shadow"]["pairs"]
        return f"{outcome}: {name} ({state}) has {waiting} pairs, none of them judged."
    return (
        f"{verdict.outcome}: {name} ({state}), {verdict.pairs} judged pairs, "
        f"win rate {verdict.win_rate:.3f}, {verdict.lower:.3f} to {verdict.upper:.3f} (each bound "
        f"holds at all looks together with probability {1 - verdict.alpha:g}); margin "
        f"{verdict.margin:g}, alpha {verdict.alpha:g}. In the conversations of clients that "
        f"{verdict.conversations_of or 'either variant'} answered. Judge: {verdict.judge}"
        f"{'' if verdict.judge == VOTES else '; not verified by votes of people'}."
    )


class _LiveJudge:
    """One judge of one experiment."""

    def __init__(
        self,
        config: CompareConfig,
        experiment: LiveExperiment,
        table: JudgeConfig,
        judge: Judge,
        resources: JudgeResources,
    ) -> None:
        self._config, self._experiment, self._cache = config, experiment, resources.cache
        self._table, self._judge, self._teacher = table, judge, resources.teacher

    def judge(self, unjudged: Unjudged) -> None:
        plan = Plan(margin=unjudged.margin, alpha=unjudged.alpha)
        health = self._health(unjudged.pairs, plan)
        if health is None:
            return
        if not health.is_valid:
            logger.warning("judge %s failed its assay: %s", self._judge.name, health.reason)
            self._experiment.store(self._judge.name, [], is_valid=False)
            return
        for pairs in whole_users(unjudged.pairs, PAIRS_AT_ONCE):
            self._experiment.store(self._judge.name, self._scores(pairs), is_valid=True)

    def _scores(self, pairs: Sequence[Pair]) -> list[tuple[str, float]]:
        """Return the scores of pairs by their ids.

        A pair to which the judge replied without a verdict is lost for the student. Where a request
        failed, all pairs of the user stay unjudged until next time.
        """
        open_pairs = [pair for pair in pairs if settled(pair) is None]
        said = iter(self._judge.judge(open_pairs, "live pairs"))
        judged = [(pair, settled(pair) or next(said)) for pair in pairs]
        later = {pair.question.cluster_id for pair, one in judged if _has_failed(one)}
        return [
            (pair.question.prompt_id, one.score or 0.0)
            for pair, one in judged
            if pair.question.cluster_id not in later
        ]

    def _health(self, pairs: Sequence[Pair], plan: Plan) -> Health | None:
        """Return the result of the judge's assay; None with too few pairs for one."""
        key = self._key()
        stored = self._cache.get(key)
        if stored is None:
            wanted = self._config.assay.num_prompts
            answered = [
                pair for pair in pairs if not (pair.student_refused or pair.teacher_refused)
            ]
            if len(answered) < wanted:
                logger.warning(
                    "the assay of judge %s needs %d answered pairs, of which there are %d",
                    self._judge.name, wanted, len(answered),
                )  # fmt: skip
                return None
            judged = work(
                self._judge,
                (),
                self._controls(answered[:wanted]),
                cluster_of=lambda pair: pair.question.cluster_id,
                is_sound=partial(is_sound_so_far, plan=plan),
                stop_early=self._config.assay.stop_early,
                seed=self._config.seed,
            )
            stored = judged.model_dump(mode="json")
            self._cache.put(key, stored)
        return health_of(Judged.model_validate(stored), plan)

    def _controls(self, pairs: Sequence[Pair]) -> list[Control]:
        """Return the controls, after the teacher has answered their prompts again.

        How a client's answer was sampled is unknown, so both answers of the A/A control are new.
        """
        config = self._config
        endpoints: dict[Role, Endpoint] = {}
        if config.sampling_temperature > 0 and self._teacher is not None:
            endpoints["teacher"] = self._teacher
        if (known_worse := config.assay.known_worse) is not None:
            endpoints["known_worse"] = find_endpoint(known_worse.base_url, known_worse, config)
        samples: list[tuple[Role, int]] = [("teacher", 0), ("teacher", 1), ("known_worse", 0)]
        book = AnswerBook(
            self._cache,
            [
                Wanted(role, pair.question, sample)
                for pair in pairs
                for role, sample in samples
                if role in endpoints
            ],
            Sampling(config.sampling_temperature, config.max_tokens, config.seed),
            {role: endpoint.identity for role, endpoint in endpoints.items()},
            {role: endpoint.model for role, endpoint in endpoints.items()},
        )
        book.fill(endpoints, config.max_concurrency)
        given = {
            (one.role, one.sample, one.prompt_id): one
            for one in book.answers()
            if not one.is_refused
        }
        others, worse = [], []
        for pair in pairs:
            first, second, third = (given.get((*key, pair.question.prompt_id)) for key in samples)
            if first and second:
                ends = first.finish_reason == "stop"
                anew = replace(pair, teacher=first.answer, teacher_finished=ends)
                others.append(beside(anew, second))
            if third:
                worse.append(beside(pair, third))
        return build_controls(pairs, seed=config.seed, others=others, known_worse=worse)

    def _key(self) -> str:
        """Return a cache key of all that a judge's assay depends on."""
        config = self._config
        tables = [one.model_dump(mode="json") for one in (self._table, config.assay)]
        drawn = [config.sampling_temperature, config.max_tokens, config.seed]
        content = [*tables, self._judge.model, self._experiment.name, *drawn]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"tested-{digest[:32]}"


def whole_users(pairs: Sequence[Pair], least: int) -> Iterator[list[Pair]]:
    """Yield all pairs in batches of at least so many, none of which divides a user."""
    users: dict[str, list[Pair]] = {}
    for pair in pairs:
        users.setdefault(pair.question.cluster_id, []).append(pair)
    batch: list[Pair] = []
    for of_user in users.values():
        batch += of_user
        if len(batch) >= least:
            yield batch
            batch = []
    if batch:
        yield batch


def _has_failed(judgment: Judgment) -> bool:
    return any(vote.winner is None and vote.reason != NO_VERDICT for vote in judgment.votes)


def _resources(
    config: CompareConfig, cache: JsonCache, base_url: str, teacher_model: str
) -> JudgeResources:
    teacher = SideConfig(
        base_url=base_url, model=teacher_model, api_key_variable=served_key_variable()
    )
    return JudgeResources(config, cache, find_endpoint(base_url, teacher, config))
