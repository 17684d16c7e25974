"""Measurements of the served models: speed, and fidelity as the server computes it.

In: a run's files behind `potstill serve`, or models elsewhere; prompts and held-out conversations.
Out: `Served`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

import openai

from compare.answers.answers import Answer, Role
from compare.answers.client import Endpoint, backend_errors, open_client
from compare.answers.questions import Question
from compare.answers.requests import Ask, as_given
from compare.answers.serving import FileSide, Serving, Sides
from compare.measurement.run_files import RunFiles
from compare.measurement.speed import Speed, Timed, measure_speed
from potstill.errors import BackendError
from potstill.progress import track
from potstill.schema import Conversation, Value

SIDES: tuple[Role, ...] = ("student", "teacher")
REFUSALS = (openai.BadRequestError, openai.NotFoundError, openai.UnprocessableEntityError)


class Served(Value):
    """Measurements of what is served."""

    speed: dict[str, Speed]
    """By file name; for a model on another server by its role, if it could be measured."""
    elsewhere: tuple[Role, ...]
    """Sides that are not a file of the run."""
    nats_per_token: float | None
    """Mean negative log-probability of the teacher's tokens, as the student's server returns it;
    None where it returns none, or the student has another tokenizer."""


def measure_served(
    run: RunFiles | None,
    sides: Sides,
    asks: Mapping[Role, Ask],
    serving: Serving,
    prompts: Sequence[Question],
    max_tokens: int,
) -> Served:
    """Time files and models elsewhere, one request at a time, on servers with empty prompt caches.

    Raises:
        BackendError: The server of the run's files fails.
    """
    elsewhere = {role: side for role in SIDES if isinstance(side := sides.get(role), Endpoint)}
    speed: dict[str, Speed] = {}
    nats = None
    with ExitStack() as stack:
        student = sides["student"]
        if run is not None:
            files = {file.name: file for file in run.gguf.files}
            base_url = stack.enter_context(
                serving.open_endpoint(
                    dict.fromkeys(files), serving.context_tokens, 1, serving.log_path
                )
            )
            client = stack.enter_context(
                open_client(base_url, serving.config.request_timeout_seconds)
            )
            speed = measure_speed(
                {
                    name: Timed(
                        client,
                        serving.endpoint(FileSide(name, run.sha256(file)), base_url),
                        ask=asks.get(file.role, as_given),
                        known_rate=file.decode_tokens_per_second if asks else None,
                    )
                    for name, file in files.items()
                },
                prompts,
                max_tokens,
            )
            if isinstance(student, FileSide):
                student = serving.endpoint(student, base_url)
            if isinstance(student, Endpoint) and not run.student.own_tokenizer:
                nats = served_nats_per_token(student, run.held_out)
    for role, side in elsewhere.items():
        with (
            suppress(BackendError),  # A server that streams no usage can still be compared.
            open_client(side.base_url, side.timeout_seconds, side.api_key) as client,
        ):
            timed = Timed(client, side, ask=asks.get(role, as_given))
            speed |= measure_speed({role: timed}, prompts, max_tokens)
    return Served(speed=speed, elsewhere=tuple(elsewhere), nats_per_token=nats)


def served_nats_per_token(endpoint: Endpoint, held_out: Sequence[Conversation]) -> float | None:
    """Return the mean negative log-probability of the teacher's tokens, as a server returns it.

    The tokens of a whole conversation are the prompt of a completion that echoes it.

    Returns:
        None: The server does not return log-probabilities of prompts.

    Raises:
        BackendError: The endpoint fails.
    """
    total, num_tokens = 0.0, 0
    with (
        track("measuring the served student", len(held_out), "conversations") as progress,
        open_client(endpoint.base_url, endpoint.timeout_seconds, endpoint.api_key) as client,
    ):
        for conversation in held_out:
            logprobs = _echoed(client, endpoint.model, conversation.token_ids.tolist())
            if logprobs is None:
                return None
            predicted = [logprobs[position] for position in conversation.positions_T]
            total -= sum(predicted)
            num_tokens += len(predicted)
            progress.advance()
    return total / num_tokens


def _echoed(client: openai.OpenAI, model: str, token_ids: list[int]) -> list[float] | None:
    with backend_errors(model):
        try:
            completion = client.completions.create(
                model=model, prompt=token_ids, max_tokens=1, echo=True, logprobs=0, temperature=0.0
            )
        except REFUSALS:
            return None
    told = completion.choices[0].logprobs if completion.choices else None
    logprobs = (told and told.token_logprobs) or []
    return logprobs if len(logprobs) >= len(token_ids) else None


def prompts_read_otherwise(
    run: RunFiles | None,
    sides: Sides,
    questions: Sequence[Question],
    answers: Sequence[Answer],
) -> list[str]:
    """Report which files of the run read prompts as other tokens than the teacher did.

    The most common reason for a good student's bad answers is a server with another chat template
    than training.
    """
    expected = {
        one.prompt_id: len(one.prompt_token_ids) for one in questions if one.prompt_token_ids
    }
    notes = []
    for role in SIDES:
        side = sides[role]
        has_own_tokens = role == "student" and run is not None and run.student.own_tokenizer
        if not isinstance(side, FileSide) or has_own_tokens:
            continue
        same = [
            answer.prompt_tokens == expected[answer.prompt_id]
            for answer in answers
            if answer.role == role and answer.prompt_id in expected and not answer.is_refused
        ]
        if not all(same):
            notes.append(
                f"{side.name} read {same.count(False)} of {len(same)} prompts as another number of "
                "tokens than the teacher did when conversations were made: its chat template "
                "differs."
            )
    return notes
