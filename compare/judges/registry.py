"""Judges from their configuration.

In: a judge's table and `JudgeResources`. Out: judges that fulfill the protocol. Votes cannot be
requested; `votes` reads them from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare.answers.cache import JsonCache
from compare.answers.client import Endpoint, find_endpoint
from compare.config import CompareConfig
from compare.judge_config import (
    AnyJudgeConfig,
    CriteriaJudgeConfig,
    LikelihoodJudgeConfig,
    LlmJudgeConfig,
    ModelJudgeConfig,
)
from compare.judges.check import CheckJudge
from compare.judges.criteria import CriteriaJudge
from compare.judges.likelihood import LikelihoodJudge
from compare.judges.llm import LlmJudge
from compare.judges.metric import MetricJudge
from compare.judges.protocol import Judge
from compare.judges.reference import ReferenceJudge
from potstill.errors import ConfigError
from potstill.files import sha256_file


@dataclass(frozen=True)
class JudgeResources:
    """The settings, models and files that judges use."""

    config: CompareConfig
    cache: JsonCache
    teacher: Endpoint | None = None
    """Where the teacher is served; None when no judge needs it."""
    teacher_gguf: Path | None = None


def build_judge(config: AnyJudgeConfig, resources: JudgeResources) -> Judge:
    """Return the judge of a table.

    Raises:
        ConfigError: Something that it needs is missing.
        BackendError: Its server does not list its models.
    """
    return BUILDERS[config.kind](config, resources)


def asks_teacher(config: AnyJudgeConfig) -> bool:
    """Return whether a judge needs the teacher to be served."""
    return isinstance(config, ModelJudgeConfig) and config.base_url is None


def _llm(config: LlmJudgeConfig, resources: JudgeResources) -> Judge:
    endpoint = _endpoint(config, resources)
    return LlmJudge(config, endpoint, resources.cache, resources.config.max_concurrency)


def _criteria(config: CriteriaJudgeConfig, resources: JudgeResources) -> Judge:
    endpoint = _endpoint(config, resources)
    return CriteriaJudge(config, endpoint, resources.cache, resources.config.max_concurrency)


def _endpoint(config: ModelJudgeConfig, resources: JudgeResources) -> Endpoint:
    if config.base_url is not None:
        return find_endpoint(config.base_url, config, resources.config)
    if resources.teacher is None:
        raise ConfigError("the teacher is not served", where=f"judge {config.name}")
    return resources.teacher


def _likelihood(config: LikelihoodJudgeConfig, resources: JudgeResources) -> Judge:
    path = config.gguf_path or resources.teacher_gguf
    if path is None or not path.is_file():
        raise ConfigError(
            "a judge by likelihood needs the teacher's GGUF file",
            where=f"judge {config.name}",
            expected="gguf_path, or a run with a file of the teacher",
            found=path or "neither",
        )
    return LikelihoodJudge(
        config, path, sha256_file(path), resources.cache, resources.config.num_threads
    )


BUILDERS: dict[str, Callable[[Any, JudgeResources], Judge]] = {
    "llm": _llm,
    "criteria": _criteria,
    "reference": lambda config, _: ReferenceJudge(config),
    "check": lambda config, _: CheckJudge(config),
    "likelihood": _likelihood,
    "metric": lambda config, _: MetricJudge(config),
}
