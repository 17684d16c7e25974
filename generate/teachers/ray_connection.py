"""The connection to a Ray cluster, and the number of replicas that fit on it.

In: the cluster's configuration. Out: Ray's module, connected, and the options of an actor.
"""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from generate.teachers.config import EngineConfig, RayConfig
from potstill.errors import TeacherError, first_line


class RayConnection:
    """A connection to a cluster; `close` ends it if it was made here.

    Raises:
        TeacherError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, config: RayConfig, engine: EngineConfig) -> None:
        self.ray = _import_ray()
        self._begun_here = not self.ray.is_initialized()
        if self._begun_here:
            _connect(self.ray, config.address)
        self._machines = [
            machine["Resources"]
            for machine in self.ray.nodes()
            # The head node of a large cluster offers no cores.
            if machine["Alive"] and machine["Resources"].get("CPU", 0) >= 1
        ]
        has_gpu = any(machine.get("GPU") for machine in self._machines)
        num_gpus = config.gpus_per_replica
        if num_gpus is None:
            num_gpus = engine.tensor_parallel_size if has_gpu else 0
        num_cpus = config.cpus_per_replica or (
            1 if num_gpus else self._share(config.num_replicas or len(self._machines))
        )
        self.actor_options = _actor_options(num_cpus, num_gpus)
        """Ray's options for one replica."""
        self.num_replicas: int = config.num_replicas or self._room(num_cpus, num_gpus)
        """Number of replicas to start."""

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._begun_here:
            self.ray.shutdown()

    def _share(self, num_replicas: int) -> int:
        """Return the cores per replica with which all replicas fit on the smallest machine."""
        if not self._machines:
            return 1
        num_cpus = min(int(machine["CPU"]) for machine in self._machines)
        return max(1, num_cpus // math.ceil(num_replicas / len(self._machines)))

    def _room(self, num_cpus: int, num_gpus: int) -> int:
        """Return how many replicas fit on the machines, each on a single machine."""
        room = 0
        for machine in self._machines:
            copies = int(machine["CPU"]) // num_cpus
            if num_gpus:
                copies = min(copies, int(machine.get("GPU", 0)) // num_gpus)
            room += copies
        # At least one, for clusters that scale up on demand.
        return max(1, room)


def _actor_options(num_cpus: int, num_gpus: int) -> dict[str, Any]:
    """Return Ray's options for one replica, which sees only its own GPUs.

    Without a placement group vLLM starts its own processes on the GPUs that it sees
    (`vllm.config.parallel` 0.32), so one actor takes them all. Not run on more than one GPU.
    """
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "scheduling_strategy": "SPREAD",
        "concurrency_groups": {"feed": 1, "collect": 1},
        # The front end restarts lost replicas, because it has their requests.
        "max_restarts": 0,
    }


def _import_ray() -> Any:  # noqa: ANN401  (an optional module)
    try:
        import ray
    except ImportError as error:
        raise TeacherError(
            "Ray is not installed",
            found=error,
            hint="pip install 'potstill[ray]', or leave out [generate.ray]",
        ) from error
    return ray


def _connect(ray: Any, address: str | None) -> None:  # noqa: ANN401
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            "the Ray cluster does not respond",
            where=address or os.environ.get("RAY_ADDRESS") or "this machine",
            found=first_line(error),
            hint="check `ray status` there, and generate.ray.address",
        ) from error
