"""The teacher at work: vLLM in this process, requests in, completions out as they finish.

In: token ids and sampling parameters. Out: token ids with raw log-probabilities.
The only module that imports vLLM; knows nothing of prompts, files or runs.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from potstill.errors import TeacherError
from potstill.files import sha256_bytes
from potstill.progress import announced
from potstill.schema import FinishReason, SamplingParams, TokenLogprobs

ENVIRONMENT = {
    # One process: a killed run leaves no engine behind.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

MAX_BATCHED_TOKENS = 4096
SECONDS_TO_LOAD, SECONDS_TO_COMPILE = 20, 80
"""As seen with SmolLM2-135M on two CPU cores; what was compiled is kept for the next time."""


@dataclass(frozen=True)
class SampleRequest:
    """One completion to draw."""

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams


@dataclass(frozen=True)
class Sample:
    """One completion drawn; `logprobs` is None when none were asked for."""

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: TokenLogprobs | None
    finish_reason: FinishReason


def derive_seed(seed: int, name: str) -> int:
    """Return a seed of 31 bits for one request, from the stage's seed and the request's name."""
    return int(sha256_bytes(f"{seed} {name}".encode())[:8], 16) >> 1


class TeacherEngine:
    """A loaded teacher.

    Args:
        model: Checkpoint directory or hub name.
        dtype: vLLM's name of the precision.
        max_model_len: Longest prompt plus completion, in tokens.
        top_logprobs: Most log-probabilities a request may ask for.
        max_num_seqs: Completions sampled at once.
        kv_cache_bytes: Memory of the key-value cache; 0 leaves the choice to vLLM.
        enforce_eager: Skip compilation.
        tensor_parallel_size: GPUs one copy is spread over.
        seed: Seed of the engine; requests carry their own.

    Raises:
        TeacherError: vLLM cannot load the model.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        top_logprobs: int,
        max_num_seqs: int,
        kv_cache_bytes: int,
        enforce_eager: bool,
        tensor_parallel_size: int,
        seed: int,
    ) -> None:
        os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
        about_seconds = SECONDS_TO_LOAD if enforce_eager else SECONDS_TO_COMPILE
        with announced(f"loading the teacher {model} into vLLM", about_seconds):
            from vllm import LLM

            try:
                self._llm: Any = LLM(
                    model,
                    dtype=dtype,
                    max_model_len=max_model_len,
                    max_logprobs=top_logprobs,
                    logprobs_mode="raw_logprobs",
                    max_num_seqs=max_num_seqs,
                    kv_cache_memory_bytes=kv_cache_bytes or None,
                    enforce_eager=enforce_eager,
                    tensor_parallel_size=tensor_parallel_size,
                    use_tqdm_on_load=False,
                    # vLLM 0.32 cannot rewind a request's own random generator on a CPU, which it
                    # does after prefilling a part of a prompt: prompts are prefilled whole.
                    enable_chunked_prefill=False,
                    max_num_batched_tokens=max(MAX_BATCHED_TOKENS, max_model_len),
                    generation_config="vllm",
                    seed=seed,
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise TeacherError(
                    "vLLM cannot load the teacher",
                    where=model,
                    found=str(error).strip().splitlines()[0] if str(error) else error,
                    hint="check the checkpoint, or lower generate.engine.kv_cache_bytes when "
                    "memory is short",
                ) from error
        self.tokenizer: Any = self._llm.get_tokenizer()
        self.max_num_seqs = max_num_seqs

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end a completion, as the checkpoint's generation config names them."""
        config = self._llm.model_config.try_get_generation_config()
        named = config.get("eos_token_id", self.tokenizer.eos_token_id)
        return frozenset(named if isinstance(named, list) else [named])

    def sample(
        self, requests: Iterable[SampleRequest], *, top_logprobs: int | None
    ) -> Iterator[Sample]:
        """Draw all requests' completions; yield each as soon as it is finished.

        Requests are taken as the engine gets free, two engines' worth ahead, so they may be
        endless. Closing the iterator drops what is not finished.

        Args:
            requests: What to draw; their order is the order of admission.
            top_logprobs: Raw log-probabilities to return at each position besides the sampled
                token's; None returns none.

        Raises:
            TeacherError: A prompt does not fit the model, or the engine fails.
        """
        waiting = iter(requests)
        names: dict[str, tuple[str, str]] = {}
        engine = self._llm.llm_engine
        try:
            while True:
                room = 2 * self.max_num_seqs - len(names)
                names |= self._enqueue(list(islice(waiting, room)), top_logprobs)
                if not names:
                    return
                for output in engine.step():
                    if output.finished:
                        _, request_id = names.pop(output.request_id)
                        yield _to_sample(request_id, output, top_logprobs)
        except (ValueError, RuntimeError) as error:
            raise TeacherError("vLLM failed while sampling", found=error) from error
        finally:
            engine.abort_request([internal_id for internal_id, _ in names.values()], internal=True)

    def _enqueue(
        self, requests: Sequence[SampleRequest], top_logprobs: int | None
    ) -> dict[str, tuple[str, str]]:
        """Hand requests to vLLM; return its internal id and ours, by the id its outputs carry."""
        from vllm import SamplingParams as VllmSamplingParams

        if not requests:
            return {}
        params = [
            VllmSamplingParams(
                temperature=request.sampling.temperature,
                top_p=request.sampling.top_p,
                max_tokens=request.sampling.max_tokens,
                seed=request.sampling.seed,
                stop_token_ids=sorted(self.end_token_ids),
                logprobs=top_logprobs,
                flat_logprobs=True,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": list(request.prompt_token_ids)} for request in requests]
        internal_ids = self._llm.enqueue(prompts, params, use_tqdm=False)
        # vLLM appends a random suffix to the counter that its outputs carry.
        return {
            internal_id.partition("-")[0]: (internal_id, request.request_id)
            for internal_id, request in zip(internal_ids, requests, strict=True)
        }

    def close(self) -> None:
        """Free the model's memory."""
        del self._llm
        gc.collect()


def _to_sample(request_id: str, output: Any, top_logprobs: int | None) -> Sample:  # noqa: ANN401
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    logprobs = None
    if top_logprobs is not None:
        logprobs = _to_logprobs(completion.logprobs, top_logprobs)
    finish_reason: FinishReason = "stop" if completion.finish_reason == "stop" else "length"
    return Sample(request_id, token_ids, logprobs, finish_reason)


def _to_logprobs(flat: Any, top_logprobs: int) -> TokenLogprobs:  # noqa: ANN401
    """Split vLLM's FlatLogprobs: each position holds the sampled token, then the top k by rank."""
    starts = flat.start_indices
    tops = [slice(start + 1, start + 1 + top_logprobs) for start in starts]
    return TokenLogprobs(
        sampled_logprobs=tuple(flat.logprobs[start] for start in starts),
        top_token_ids=tuple(tuple(flat.token_ids[top]) for top in tops),
        top_logprobs=tuple(tuple(flat.logprobs[top]) for top in tops),
    )
