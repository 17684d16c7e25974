"""Follows the served version of a run's student while requests are answered.

In: the run's `versions.json`, which an update or a rollback replaces. Out: other models behind the
same names. A version that cannot be loaded is reported, and the one that is served stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from potstill.errors import ConfigError, PotstillError
from potstill.files import file_version
from serve.adapters import with_adapters_of_runs
from serve.backends.local.backend import LocalBackend
from serve.backends.local.swappable import SwappableBackend
from serve.chat.task import ServedTask
from serve.config import ServeConfig
from serve.loading import recipes_of
from serve.models import Models

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the file is looked at."""


class Load(Protocol):
    """Loads models; see `load_models`."""

    def __call__(
        self,
        config: ServeConfig,
        paths: Mapping[str, Path],
        *,
        tasks: Mapping[str, ServedTask],
        own_adapters: Mapping[str, Path],
        only: Collection[str],
    ) -> dict[str, LocalBackend]:
        """Return backends by name, not started."""
        ...


class Follower:
    """Replaces models when the served version changes.

    Args:
        config: What was configured.
        served: The models that are served.
        follow: Returns those that are to be served once the versions have changed.
        load: Loads them.
        backends: The served models by name.
    """

    def __init__(
        self,
        config: ServeConfig,
        served: Models,
        follow: Callable[[], Models],
        load: Load,
        backends: Mapping[str, SwappableBackend],
    ) -> None:
        assert served.versions_path is not None
        self._config, self._served, self._models, self._load = config, served, follow, load
        self._path, self._backends = served.versions_path, backends
        self._seen = served.versions_seen
        self._retiring: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the file until cancelled."""
        # Children that are started meanwhile end with their thread: it lives as long as the server.
        pool = ThreadPoolExecutor(1, thread_name_prefix="version")
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                found = file_version(self._path)
                if found != self._seen:
                    self._seen = found
                    await self._follow(pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _follow(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        try:
            models, loaded = await loop.run_in_executor(pool, self._change)
            for backend in loaded.values():
                await backend.start()
        except PotstillError as error:
            logger.error("the served version stays: %s", error)
        except Exception as error:
            logger.error("the served version stays: %s", type(error).__name__)
        else:
            self._take(models, loaded)

    def _change(self) -> tuple[Models, dict[str, LocalBackend]]:
        """Return the version's models, and those of them that are not served yet, loaded."""
        models = self._models()
        config, tasks = with_adapters_of_runs(self._config, models.paths)
        served_config, _ = with_adapters_of_runs(self._config, self._served.paths)
        before = recipes_of(served_config, self._served.paths, self._served.adapters)
        recipes = recipes_of(config, models.paths, models.adapters)
        if missing := before.keys() - recipes.keys():
            raise ConfigError(
                "a model that is served has no file in the version",
                expected=", ".join(sorted(before)),
                found=f"none for {', '.join(sorted(missing))}",
            )
        only = [name for name, one in recipes.items() if name in before and before[name] != one]
        loaded = self._load(
            config,
            models.paths,
            tasks={**tasks, **models.tasks},
            own_adapters=models.adapters,
            only=only,
        )
        return models, loaded

    def _take(self, models: Models, loaded: Mapping[str, LocalBackend]) -> None:
        """Let further requests go to the new models, and stop the former ones in time."""
        former = [
            (
                self._backends[name],
                self._backends[name].replace(
                    backend, models.version if name in models.students else None
                ),
            )
            for name, backend in loaded.items()
        ]
        self._served, self._seen = models, models.versions_seen
        logger.info("version %s is served now", models.version)
        task = asyncio.create_task(_retire(former))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _retire(former: list[tuple[SwappableBackend, LocalBackend]]) -> None:
    # Several names may share an engine: it stops when none of them needs it.
    await asyncio.gather(*(backend.until_idle(one) for backend, one in former))
    await asyncio.gather(*(backend.retire(one) for backend, one in former))
