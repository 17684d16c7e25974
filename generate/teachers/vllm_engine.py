"""The teacher in this process: vLLM, with completions returned as they finish.

In: token ids and sampling parameters. Out: token ids with raw log-probabilities. Settings that only
a CPU needs depend on `on_cpu`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from generate.teachers import raw_logprobs
from generate.teachers.config import EngineConfig
from generate.teachers.cpu_sampling import install
from generate.teachers.flat_logprobs import to_distributions
from generate.teachers.protocol import (
    Failure,
    Requests,
    Sample,
    SampleRequest,
    ScoreRequest,
    ScoreRequests,
)
from potstill.errors import PotstillError, TeacherError, first_line
from potstill.progress import announced

ENVIRONMENT = {
    # One process, so that no engine outlives a killed run.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

CPU_BATCHED_TOKENS = 4096
"""On a CPU larger batches are no faster."""
SECONDS_TO_LOAD, SECONDS_TO_COMPILE = 20, 80
"""Measured with SmolLM2-135M on two CPU cores; compiled code is cached for later runs."""
LOGPROBS_MODE = "raw_logprobs"
"""Before temperature and top-p: the model's own distribution."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameter numbers of glibc's malloc.h."""
MMAP_THRESHOLD_BYTES, KEPT_BYTES = 32 << 20, 1 << 30
"""The largest threshold that glibc accepts, and the most freed memory that it keeps."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.32 supports."""

Request = TypeVar("Request")
Convert = Callable[[str, Any], Sample | Failure]


@dataclass(frozen=True)
class EngineSpec:
    """The model to load, and the limits of its requests."""

    model: str
    """Checkpoint directory."""
    dtype: str
    """Precision, as vLLM names it."""
    max_model_len: int
    """Longest prompt plus completion, in tokens."""
    max_logprobs: int
    """Most log-probabilities per position of a request."""
    seed: int
    """Seed of the engine; requests have their own."""
    lora_path: Path | None = None
    """An adapter on top of the checkpoint."""


class VllmTeacher:
    """A loaded teacher.

    Raises:
        TeacherError: vLLM cannot load the model.
    """

    def __init__(self, spec: EngineSpec, engine: EngineConfig) -> None:
        os.environ.update({key: os.environ.get(key, value) for key, value in ENVIRONMENT.items()})
        self.max_num_seqs = engine.max_num_seqs
        about_seconds = SECONDS_TO_LOAD if engine.enforce_eager else SECONDS_TO_COMPILE
        with announced(f"loading the teacher {spec.model} into vLLM", about_seconds):
            self._llm = _load(spec, engine)
        self._lora = _lora_request(spec)
        self._keeps_raw_logprobs = False
        self.tokenizer: Any = self._llm.get_tokenizer()

    @cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Token ids that end a completion, as the checkpoint's generation config names them."""
        config = self._llm.model_config.try_get_generation_config()
        named = config.get("eos_token_id", self.tokenizer.eos_token_id)
        return frozenset(named if isinstance(named, list) else [named])

    def sample(
        self, next_requests: Requests, *, top_logprobs: int | None
    ) -> Iterator[Sample | Failure]:
        """Draw completions; yield each as soon as it is finished.

        At most twice `max_num_seqs` requests are taken ahead, so the source may be endless. Closing
        the iterator drops unfinished requests. See `SamplingTeacher.sample`.

        Raises:
            TeacherError: A prompt does not fit the model, or the engine fails.
        """
        from vllm import SamplingParams

        def enqueue(room: int) -> dict[str, tuple[str, str]]:
            requests = next_requests(room)
            params = [
                SamplingParams(
                    temperature=request.sampling.temperature,
                    top_p=request.sampling.top_p,
                    max_tokens=request.sampling.max_tokens,
                    seed=request.sampling.seed,
                    stop_token_ids=sorted(self.end_token_ids),
                    logprobs=top_logprobs,
                    flat_logprobs=True,
                    detokenize=False,
                    structured_outputs=self._bound_by(request),
                )
                for request in requests
            ]
            return self._enqueue(
                [request.request_id for request in requests],
                [request.prompt_token_ids for request in requests],
                params,
            )

        def convert(request_id: str, output: Any) -> Sample | Failure:  # noqa: ANN401
            completion = output.outputs[0]
            if completion.finish_reason not in ("stop", "length"):
                return Failure(request_id, f"vLLM ended it with {completion.finish_reason}")
            signal = None
            if top_logprobs is not None:
                signal = to_distributions(completion.logprobs, top_logprobs)
            token_ids = tuple(completion.token_ids)
            return Sample(request_id, token_ids, signal, completion.finish_reason)

        yield from self._run(enqueue, convert)

    def _bound_by(self, request: SampleRequest) -> Any:  # noqa: ANN401  (vLLM's parameters)
        if not request.is_bound:
            return None
        from vllm.sampling_params import StructuredOutputsParams

        if not self._keeps_raw_logprobs:
            self._llm.collective_rpc(raw_logprobs.install)
            self._keeps_raw_logprobs = True
        if request.labels:
            return StructuredOutputsParams(choice=list(request.labels))
        return StructuredOutputsParams(json=request.schema)

    def score(
        self, next_requests: ScoreRequests, *, top_logprobs: int
    ) -> Iterator[Sample | Failure]:
        """Return the distributions that predict the tokens of given texts.

        A text must leave room for one token in the model's context. See `SamplingTeacher.score`.

        Raises:
            TeacherError: A text does not fit the model, or the engine fails.
        """
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=top_logprobs,
            flat_logprobs=True,
            detokenize=False,
        )
        asked: dict[str, ScoreRequest] = {}

        def enqueue(room: int) -> dict[str, tuple[str, str]]:
            requests = next_requests(room)
            asked.update({request.request_id: request for request in requests})
            ids = [request.request_id for request in requests]
            texts = [request.token_ids for request in requests]
            return self._enqueue(ids, texts, [params.clone() for _ in requests])

        def convert(request_id: str, output: Any) -> Sample:  # noqa: ANN401
            request = asked.pop(request_id)
            signal = to_distributions(output.prompt_logprobs, top_logprobs, request.start)
            token_ids = tuple(request.token_ids[request.start :])
            ended = token_ids[-1] in self.end_token_ids
            return Sample(request_id, token_ids, signal, "stop" if ended else "length")

        yield from self._run(enqueue, convert)

    def _run(
        self, enqueue: Callable[[int], dict[str, tuple[str, str]]], convert: Convert
    ) -> Iterator[Sample | Failure]:
        names: dict[str, tuple[str, str]] = {}
        engine = self._llm.llm_engine
        try:
            while True:
                names |= enqueue(2 * self.max_num_seqs - len(names))
                if not names:
                    return
                for output in engine.step():
                    if output.finished:
                        _, request_id = names.pop(output.request_id)
                        yield convert(request_id, output)
        except PotstillError:
            raise
        except (ValueError, RuntimeError) as error:
            raise TeacherError("vLLM failed while sampling", found=error) from error
        finally:
            engine.abort_request([internal_id for internal_id, _ in names.values()], internal=True)

    def _enqueue(
        self, request_ids: Sequence[str], texts: Sequence[Sequence[int]], params: Sequence[Any]
    ) -> dict[str, tuple[str, str]]:
        """Pass requests to vLLM; return its internal ids and ours, by the id of its outputs."""
        if not request_ids:
            return {}
        prompts = [{"prompt_token_ids": list(token_ids)} for token_ids in texts]
        internal_ids = self._llm.enqueue(prompts, params, use_tqdm=False, lora_request=self._lora)
        # An internal id is the counter that outputs carry, with a random suffix.
        return {
            internal_id.partition("-")[0]: (internal_id, request_id)
            for internal_id, request_id in zip(internal_ids, request_ids, strict=True)
        }

    def facts(self) -> dict[str, Any]:
        """Return the facts for the manifest."""
        return {"logprobs_mode": LOGPROBS_MODE}

    def close(self) -> None:
        """Free the model's memory."""
        del self._llm
        gc.collect()


def _load(spec: EngineSpec, engine: EngineConfig) -> Any:  # noqa: ANN401
    import torch
    from vllm import LLM
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if on_cpu:
        _keep_freed_memory()
    arguments = engine_arguments(spec, engine, on_cpu=on_cpu)
    set_num_threads = torch.set_num_threads
    try:
        if on_cpu and _has_recurrent_layers(arguments):
            # With prefix caching, vLLM 0.32 wants chunked prefill for these.
            arguments["enable_prefix_caching"] = False
        llm = LLM(**arguments)
    except (OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            "vLLM cannot load the teacher",
            where=spec.model,
            found=_reason(error),
            hint="check the checkpoint, or lower generate.engine.kv_cache_bytes when "
            "memory is short",
        ) from error
    finally:
        # On a CPU vLLM 0.32 replaces it by a function that does nothing, for the whole process.
        torch.set_num_threads = set_num_threads
    if on_cpu and engine.fast_cpu_sampling:
        llm.collective_rpc(install)
    return llm


def _has_recurrent_layers(arguments: dict[str, Any]) -> bool:
    from vllm.engine.arg_utils import EngineArgs

    return bool(EngineArgs(**arguments).create_model_config().is_hybrid)


def _reason(error: Exception) -> str:
    """Return the first line of an error that says why."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return first_line(error)


def engine_arguments(spec: EngineSpec, engine: EngineConfig, *, on_cpu: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's `LLM`.

    Raises:
        TeacherError: The LoRA adapter cannot be read.
    """
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "max_logprobs": spec.max_logprobs,
        "logprobs_mode": LOGPROBS_MODE,
        "max_num_seqs": engine.max_num_seqs,
        "kv_cache_memory_bytes": engine.kv_cache_bytes or None,
        "enforce_eager": engine.enforce_eager,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "use_tqdm_on_load": False,
        "generation_config": "vllm",
        "seed": spec.seed,
    }
    if on_cpu:
        # vLLM 0.32 cannot rewind a request's random generator on a CPU, which it does after
        # prefilling a part of a prompt: prompts are prefilled whole.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(CPU_BATCHED_TOKENS, spec.max_model_len)
    if spec.lora_path is not None:
        arguments |= _lora_arguments(spec.lora_path)
    return arguments


def _keep_freed_memory() -> None:
    """Make glibc's malloc reuse freed memory instead of returning it to the system.

    On a CPU each step allocates and frees the log-probabilities of the whole vocabulary, tens of
    megabytes. Other C libraries have no such options and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _lora_request(spec: EngineSpec) -> Any:  # noqa: ANN401
    if spec.lora_path is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("teacher", 1, str(spec.lora_path))


def _lora_arguments(lora_path: Path) -> dict[str, Any]:
    config_path = lora_path / "adapter_config.json"
    try:
        adapter = json.loads(config_path.read_text(encoding="utf-8"))
        rank = next(size for size in LORA_RANKS if size >= int(adapter["r"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise TeacherError(
            "the teacher's LoRA adapter cannot be read",
            where=config_path,
            expected=f"PEFT's adapter_config.json with a rank r of at most {LORA_RANKS[-1]}",
            found=str(error) or type(error).__name__,
            hint="check generate.teacher.lora",
        ) from error
    modules = adapter.get("target_modules")
    if not isinstance(modules, list) or any("." in name for name in modules):
        modules = None
    # Without names vLLM 0.32 also wraps the output head, which then cannot score several texts at
    # once on a CPU.
    return {"enable_lora": True, "max_lora_rank": rank, "lora_target_modules": modules}
