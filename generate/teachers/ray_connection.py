"""The connection to a Ray cluster, and what it has room for.

In: the cluster's configuration. Out: Ray's module, connected, and the terms a copy of the teacher
is started on. Knows nothing of requests.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from generate.teachers.engine_config import EngineConfig
from generate.teachers.ray_config import RayConfig
from potstill.errors import TeacherError


class RayConnection:
    """A connection to a cluster; ends with `close` where it was begun here.

    Raises:
        TeacherError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, config: RayConfig, engine: EngineConfig) -> None:
        self.ray = _import_ray()
        self._begun_here = not self.ray.is_initialized()
        if self._begun_here:
            _connect(self.ray, config.address)
        self.actor_options = self._actor_options(config, engine)
        """What Ray takes to place one copy."""
        self.num_replicas: int = config.num_replicas or self._room()
        """Copies to start."""

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        if self._begun_here:
            self.ray.shutdown()

    def _actor_options(self, config: RayConfig, engine: EngineConfig) -> dict[str, Any]:
        num_gpus = config.gpus_per_replica
        if num_gpus is None:
            num_gpus = engine.tensor_parallel_size if self._num_gpus() else 0
        return {
            "num_cpus": config.cpus_per_replica,
            "num_gpus": num_gpus,
            "scheduling_strategy": "SPREAD",
            "concurrency_groups": {"feed": 1},
            # The front end starts lost copies again, since it knows what they held.
            "max_restarts": 0,
        }

    def _room(self) -> int:
        num_gpus = self.actor_options["num_gpus"]
        if num_gpus:
            # At least one, for clusters that grow when something waits.
            return max(1, self._num_gpus() // num_gpus)
        return sum(node["Alive"] for node in self.ray.nodes())

    def _num_gpus(self) -> int:
        return int(self.ray.cluster_resources().get("GPU", 0))


def _import_ray() -> Any:  # noqa: ANN401  (an optional module)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise TeacherError(
            "Ray is not installed",
            found=error,
            hint="pip install 'potstill[ray]', or leave out [generate.ray]",
        ) from error


def _connect(ray: Any, address: str | None) -> None:  # noqa: ANN401
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise TeacherError(
            "the Ray cluster does not answer",
            where=address or os.environ.get("RAY_ADDRESS") or "this machine",
            found=(str(error) or type(error).__name__).splitlines()[0],
            hint="check `ray status` there, and generate.ray.address",
        ) from error
