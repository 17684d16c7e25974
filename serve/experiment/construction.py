"""Builds cascades and experiments over the served models."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from potstill.errors import ConfigError
from serve.backends.protocol import ChatBackend
from serve.experiment.backend import Experiment
from serve.experiment.cascade import Cascade
from serve.experiment.config import CascadeConfig, ExperimentConfig
from serve.experiment.metrics import ExperimentMetrics, ExperimentStates
from serve.metrics import Metrics
from serve.storage.storage import Storage


def check_names(
    cascades: Mapping[str, CascadeConfig],
    experiments: Mapping[str, ExperimentConfig],
    models: Collection[str],
) -> None:
    """Check names before anything is loaded.

    Raises:
        ConfigError: A model is not served, or a name is used twice.
    """
    known = [*models]
    for name, cascade in cascades.items():
        _check(f"serve.cascades.{name}", name, (cascade.student, cascade.teacher), models, known)
        known.append(name)
    # A cascade may be a variant of an experiment.
    answering = [*known]
    for name, one in experiments.items():
        variants = tuple(map(one.model_of, one.variants))
        _check(f"serve.experiments.{name}", name, variants, answering, known)
        known.append(name)


def cascades_over(
    tables: Mapping[str, CascadeConfig], backends: Mapping[str, ChatBackend]
) -> dict[str, Cascade]:
    """Return the cascades by name."""
    return {
        name: Cascade(name, table, backends[table.student], backends[table.teacher])
        for name, table in tables.items()
    }


def experiments_over(
    tables: Mapping[str, ExperimentConfig],
    backends: Mapping[str, ChatBackend],
    storage: Storage,
    metrics: Metrics,
) -> dict[str, Experiment]:
    """Return the experiments by name; their metrics are added to the server's."""
    counts = ExperimentMetrics(metrics.experiments)
    experiments = {
        name: Experiment(
            name,
            table,
            {variant: backends[table.model_of(variant)] for variant in table.variants},
            storage,
            counts,
        )
        for name, table in tables.items()
    }
    metrics.experiments.register(ExperimentStates(experiments))
    return experiments


def _check(
    where: str,
    name: str,
    wanted: Collection[str],
    answering: Collection[str],
    taken: Collection[str],
) -> None:
    if name in taken:
        raise ConfigError(
            f"the name {name!r} is used twice", where=where, hint="choose another name"
        )
    for model in wanted:
        if model not in answering:
            raise ConfigError(
                f"the model {model!r} is not served", where=where, expected=" | ".join(answering)
            )
