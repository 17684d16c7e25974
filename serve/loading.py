"""Local backends from GGUF files: weights are loaded once, with an engine for each combination.

Names that stand for the same file, draft and adapter share an engine.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp

from potstill.errors import ConfigError
from potstill.files import sha256_file
from potstill.processor import memory_bytes
from serve.backends.local.backend import LocalBackend, LocalModel
from serve.chat.prompt import ChatPrompt
from serve.chat.task import ServedTask
from serve.config import ServeConfig
from serve.engine.context import physical_cores
from serve.engine.model import GgufModel
from serve.engine.request import EngineLimits
from serve.engine.thread import EngineThread
from serve.engine.trial import try_in_child
from serve.metrics import Metrics

logger = logging.getLogger(__name__)

MEMORY_SHARE, LEAST_OWN = 8, 2048
"""What part of the memory keys and values may take where the model's own context is served, and how
much of it is served in any case, in tokens."""
Q8_0_SHARE = 8.5 / 16
"""Size of a value in Q8_0, 32 of which have a scale in 16 bits, as a share of 16 bits."""


@dataclass(frozen=True)
class Recipe:
    """The files of an engine."""

    path: Path
    draft: Recipe | None = None
    adapter: Path | None = None
    scale: float = 1.0


def load_models(
    config: ServeConfig,
    paths: Mapping[str, Path],
    metrics: Metrics,
    tasks: Mapping[str, ServedTask] | None = None,
    own_adapters: Mapping[str, Path] | None = None,
    *,
    has_owners: object = False,
    only: Collection[str] | None = None,
) -> dict[str, LocalBackend]:
    """Load the models that the configuration names.

    Args:
        only: The names to load; None: all.
        tasks: The task of each model that has one, by name.
        own_adapters: The adapters without which files of `paths` are not complete, by name.
        has_owners: True where requests come from several keys, none of which may take all; it may
            change.

    Raises:
        ArtifactError: A file is missing or not a model, crashes whoever loads it, or has no chat
            template.
        ConfigError: `serve.sampling` cannot be used, or a draft's or an adapter's model is not
            served, or does not fit.
    """
    # Adapters share the file of their base, which may be large.
    weights, sha256 = cache(GgufModel), cache(sha256_file)

    @cache
    def adapted(path: Path, adapter: Path, scale: float) -> GgufModel:
        return weights(path).adapted(adapter, scale)

    def load(recipe: Recipe) -> GgufModel:
        if recipe.adapter is None:
            return weights(recipe.path)
        return adapted(recipe.path, recipe.adapter, recipe.scale)

    loaded: dict[Recipe, LocalModel] = {}
    recipes = recipes_of(config, paths, own_adapters or {})
    if only is not None:
        recipes = {name: recipe for name, recipe in recipes.items() if name in only}
    parts = [*recipes.values(), *(one.draft for one in recipes.values() if one.draft)]
    try_in_child((one.path, one.adapter) for one in parts)
    for name, recipe in recipes.items():
        if recipe not in loaded:
            logger.info("loading %s …", name)
            draft = load(recipe.draft) if recipe.draft else None
            loaded[recipe] = _local_model(config, recipe, load(recipe), draft, sha256, has_owners)
    # Only now: a model that cannot be loaded must not leave others among the metrics.
    return {
        name: LocalBackend(
            name,
            loaded[recipe],
            metrics,
            defaults=config.sampling,
            task=(tasks or {}).get(name),
            public_prompts=config.public_prompts,
        )
        for name, recipe in recipes.items()
    }


def recipes_of(
    config: ServeConfig, paths: Mapping[str, Path], own_adapters: Mapping[str, Path]
) -> dict[str, Recipe]:
    """Return the files of each name's engine; equal ones share it.

    Raises:
        ConfigError: A draft's or an adapter's model is not served.
    """
    files = {
        name: Recipe(path.resolve(), adapter=own_adapters.get(name)) for name, path in paths.items()
    }

    def file_of(name: str, where: str) -> Recipe:
        if name not in files:
            raise ConfigError(
                f"there is no model {name!r}", where=where, expected=" | ".join(files)
            )
        return files[name]

    recipes = dict(files)
    for name, draft in config.drafts.items():
        drafted = file_of(name, "serve.drafts")
        recipes[name] = replace(drafted, draft=file_of(draft, f"serve.drafts.{name}"))
    for name, adapter in config.adapters.items():
        base = file_of(adapter.base, f"serve.adapters.{name}.base")
        path = adapter.path.resolve()
        recipes[name] = replace(base, adapter=path, scale=adapter.scale)
    return recipes


def _local_model(
    config: ServeConfig,
    recipe: Recipe,
    model: GgufModel,
    draft: GgufModel | None,
    sha256: Callable[[Path], str],
    has_owners: object,
) -> LocalModel:
    threads = config.threads or physical_cores()
    limits = EngineLimits(
        context_tokens=_context_tokens(config, model),
        max_parallel=config.max_parallel,
        max_batch_tokens=config.max_batch_tokens,
        max_queue=config.max_queue,
        has_owners=has_owners,
        reproducible=config.reproducible and config.kv_cache is None,
        kv_cache=config.kv_cache,
    )
    return LocalModel(
        model=model,
        engine=EngineThread(model, limits, threads=threads, draft=draft),
        prompt=ChatPrompt(model),
        fingerprint=_fingerprint(recipe, threads, sha256),
        created=int(recipe.path.stat().st_mtime),
    )


def _context_tokens(config: ServeConfig, model: GgufModel) -> int:
    own = model.training_context_tokens
    if config.context_tokens:
        return min(config.context_tokens, own)
    most_bytes = memory_bytes() // MEMORY_SHARE
    num_bytes = model.kv_bytes_per_token * (Q8_0_SHARE if config.kv_cache else 1.0)
    return min(own, max(LEAST_OWN, int(most_bytes / (config.max_parallel * num_bytes))))


def _fingerprint(recipe: Recipe, threads: int, sha256: Callable[[Path], str]) -> str:
    """Hash what the numbers depend on: weights, llama.cpp's version and build, threads."""
    parts: list[Any] = [sha256(recipe.path), llama_cpp.__version__, threads]
    if llama_cpp.llama_supports_gpu_offload():
        parts.append("GPU")
    if recipe.adapter:
        parts += [sha256(recipe.adapter), recipe.scale]
    return "fp_" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
