"""Several processes that sample parts of one run, on one machine or on machines that share a disk.

In: the configuration and this process's shard. Out: the shard's parts; the last process to end
finishes the stage. Each has its own replica of the teacher.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from generate.config import GenerateConfig
from generate.lazy_teacher import LazyTeacher
from generate.prompts.stage import make_prompts
from generate.sampling.parts import Shard, finished_parts, part_paths
from generate.sampling.stage import make_parts, num_parts, open_samples
from potstill.errors import ConfigError, PotstillError, TeacherError
from potstill.processes import end_with_parent
from potstill.processor import usable_cpus
from potstill.progress import set_up_logging, track
from potstill.rundir import RunDirectory, StageSession

POLL_SECONDS = 1.0
THREADS_VARIABLE = "OMP_NUM_THREADS"
"""vLLM 0.32 reads its own VLLM_CPU_OMP_THREADS_BIND in worker processes only."""
GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"


def run_shard(config: GenerateConfig, run_directory: RunDirectory, text: str) -> bool:
    """Sample one shard's parts; return whether the parts of all shards exist.

    Args:
        text: `i/n`, the i-th of n shards.

    Raises:
        ConfigError: The text has another form.
        ArtifactError: Another process works on the same shard.
        PotstillError: As the stage itself.
    """
    shard, teacher = Shard.parse(text), LazyTeacher(config)
    try:
        with run_directory.locked(shared=True):
            with run_directory.locked("-prompts", wait=True):
                make_prompts(config, teacher, run_directory)
                session = open_samples(config, run_directory)
            own = f"-shard-{shard.index + 1}-of-{shard.count}"
            with run_directory.locked(own):
                if not session.finished:
                    make_parts(config, teacher, run_directory, session, shard)
    finally:
        teacher.close()
    return bool(session.finished) or (
        len(part_paths(session.dir)) == num_parts(config, run_directory)
    )


def make_parts_in_replicas(
    config: GenerateConfig, run_directory: RunDirectory, session: StageSession
) -> None:
    """Sample all parts with `data_parallel_size` processes, each with a replica of the teacher.

    On GPUs each process sees its own `tensor_parallel_size` devices, on a CPU its share of cores.

    Raises:
        ConfigError: There are too few GPUs.
        TeacherError: A process failed; parts that others finished are kept.
    """
    count, total = config.engine.data_parallel_size, num_parts(config, run_directory)
    found = len(finished_parts(session.dir))
    if found == total:
        return
    session.scratch_dir.mkdir(exist_ok=True)
    with ExitStack() as stack, track(f"sampling with {count} teachers", total, "parts") as progress:
        progress.resume_from(found)
        workers = [
            stack.enter_context(_Replica(config, run_directory, session, Shard(index, count)))
            for index in range(count)
        ]
        while any(worker.running() for worker in workers):
            time.sleep(POLL_SECONDS)
            now = len(part_paths(session.dir))
            progress.advance(now - found)
            found = now


class _Replica:
    """A process that samples one shard; leaving the context ends it."""

    def __init__(
        self,
        config: GenerateConfig,
        run_directory: RunDirectory,
        session: StageSession,
        shard: Shard,
    ) -> None:
        self._config = config.model_dump_json().encode()
        self._command = [sys.executable, "-m", "generate.sampling.shards"]
        self._command += [str(run_directory.root), str(shard)]
        self._environment = os.environ | devices(config, shard.index)
        self._log_path = session.scratch_dir / f"replica-{shard.index + 1}.log"

    def __enter__(self) -> _Replica:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                preexec_fn=end_with_parent(),
            )
        if self._process.stdin is not None:
            self._process.stdin.write(self._config)
            self._process.stdin.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def running(self) -> bool:
        """Return whether the process is still running.

        Raises:
            TeacherError: The process failed.
        """
        code = self._process.poll()
        if code:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = (line for line in lines if line.startswith("error:"))
            raise TeacherError(
                "a replica of the teacher failed",
                where=self._log_path,
                found=next(errors, f"exit code {code}"),
                hint="fix the cause, then run the same command again; finished parts are kept",
            )
        return code is None


def devices(config: GenerateConfig, index: int) -> dict[str, str]:
    """Return a replica's environment: its own GPUs, or its share of threads on a CPU.

    Raises:
        ConfigError: There are GPUs, but too few for all replicas.
    """
    size = config.engine.tensor_parallel_size
    if visible := _visible_gpus():
        if len(visible) < size * config.engine.data_parallel_size:
            raise ConfigError(
                "too few GPUs for all replicas of the teacher",
                where="generate.engine.data_parallel_size",
                expected=f"{config.engine.data_parallel_size} times {size} GPUs",
                found=len(visible),
            )
        return {GPUS_VARIABLE: ",".join(visible[index * size : (index + 1) * size])}
    count = config.engine.data_parallel_size
    share = range(index, len(usable_cpus()), count)
    return {THREADS_VARIABLE: str(max(1, len(share)))}


def _visible_gpus() -> list[str]:
    named = os.environ.get(GPUS_VARIABLE)
    if named is not None:
        return [one for one in named.split(",") if one.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _work(root: str, shard: str) -> None:
    """Sample one shard in a process of `make_parts_in_replicas`, which holds the run's lock."""
    set_up_logging()
    config = GenerateConfig.model_validate_json(sys.stdin.read())
    run_directory = RunDirectory(Path(root))
    teacher = LazyTeacher(config)
    try:
        session = open_samples(config, run_directory)
        make_parts(config, teacher, run_directory, session, Shard.parse(shard))
    finally:
        teacher.close()


if __name__ == "__main__":
    try:
        _work(*sys.argv[1:])
    except PotstillError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (the log of the replica)
        sys.exit(error.exit_code)
