"""The serving stage: the GGUF files of a run, or other ones, behind OpenAI's API.

In: a finished gguf stage, or files. Out: an endpoint, until a signal stops it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from potstill.api_keys import API_KEY_VARIABLE
from potstill.errors import ConfigError
from potstill.facts.gguf import GgufFacts
from potstill.facts.shared import Role
from potstill.manifest import Manifest
from potstill.rundir import RunDirectory
from potstill.task.stage import read_task
from potstill.task.task import Task
from serve.adapters import own_adapters, with_adapters_of_runs
from serve.api.app import AppLimits, create_app
from serve.api.middleware import LOOPBACK_HOSTS
from serve.backends.protocol import ChatBackend, Observer, Watcher
from serve.chat.task import ServedTask
from serve.config import ServeConfig
from serve.exchange_log import ExchangeLog
from serve.experiment import routes as live_traffic
from serve.experiment.answer_log import AnswerLog
from serve.experiment.construction import cascades_over, check_names, experiments_over
from serve.experiment.routes import LiveTraffic
from serve.files import named_files
from serve.keys import Keyring, load_keys
from serve.listening import bound_socket, serve
from serve.loading import load_models
from serve.metrics import Metrics
from serve.playground import routes as playground
from serve.storage.config import StorageConfig
from serve.storage.storage import Storage, opened

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """The models in this process, and what belongs to them."""

    paths: Mapping[str, Path]
    """Files by the model's name."""
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    """Checkpoints for vLLM in child processes, by the model's name."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """The adapters without which files are not complete, by the model's name."""
    task: Task | None = None
    tasks: Mapping[str, ServedTask] = field(default_factory=dict)
    """The task of each model that has it, by name."""
    traffic_path: Path | None = None
    """Where live traffic is stored if no database is named."""


def run(config: ServeConfig, run_directory: RunDirectory) -> Manifest:
    """Serve the run's models until SIGINT or SIGTERM; requests in flight are completed first.

    Returns:
        The manifest of the gguf stage that was served.

    Raises:
        ArtifactError: The gguf stage is missing or damaged, or a file is not a model.
        BackendUnavailableError: The address is taken.
        BackendError: A model has failed so often that it is not started again.
        ConfigError: A model is unknown, the address is open to others and there is no key, the
            keys cannot be read, a server's key is not set, the record cannot be written, or an
            experiment's or a cascade's model is not served, or an adapter belongs to another base.
    """
    manifest = run_directory.require("gguf")
    facts = run_directory.facts(GgufFacts)
    gguf_dir = run_directory.stage_dir("gguf")
    paths = model_paths(config, facts, gguf_dir)
    checkpoints: dict[str, Path] = {}
    if config.engine == "vllm" and "student" in paths and "student" not in config.paths:
        run_directory.require("student")
        checkpoints["student"] = run_directory.stage_dir("student")
        del paths["student"]
    task = read_task(run_directory) if config.task else None
    models = Models(
        paths,
        checkpoints,
        own_adapters(config, facts, gguf_dir, paths),
        task,
        _served_tasks(task, config, facts),
        run_directory.traffic_path,
    )
    _run(config, models)
    return manifest


def run_files(config: ServeConfig, given: Sequence[Path]) -> None:
    """Serve GGUF files that belong to no run, each under its file's name; raises as `run` does.

    Args:
        given: Files, and directories that contain some.
    """
    if config.engine == "vllm":
        raise ConfigError(
            "vLLM serves the checkpoint of a run's student",
            where="serve.engine",
            expected="a run",
            found=", ".join(map(str, given)),
            hint="leave out serve.engine, or serve it with `vllm serve` and name it in "
            "serve.upstreams",
        )
    files = named_files(given)
    paths = _chosen(config, files, files) | config.paths
    if "context_tokens" not in config.model_fields_set:
        config = config.model_copy(update={"context_tokens": 0})
    _run(config, Models(paths))


def _run(config: ServeConfig, served: Models) -> None:
    config, tasks = with_adapters_of_runs(config, served.paths)
    models = [*served.checkpoints, *served.paths, *config.adapters, *config.upstreams]
    check_names(config.cascades, config.experiments, models)
    names = [*models, *config.cascades, *config.experiments]
    keyring = load_keys(config.keys_path, os.environ.get(API_KEY_VARIABLE))
    _require_key(config.host, keyring)
    _check_fallback(config.fallback_model, names)
    tasks |= served.tasks
    with (
        bound_socket(config) as listener,
        _open_storage(config, served.traffic_path) as storage,
        _open_telemetry(config) as watcher,
    ):
        record = _open_record(config.record_path)
        metrics = Metrics()
        several = keyring is not None and len(keyring) > 1
        backends: dict[str, ChatBackend] = {
            **load_models(config, served.paths, metrics, tasks, served.adapters, has_owners=several)
        }
        for name, upstream in config.upstreams.items():
            # Here, because most servers have none, and its client takes long to import.
            from serve.backends.upstream import UpstreamBackend

            backends[name] = UpstreamBackend(name, upstream, metrics, task=tasks.get(name))
        for name, checkpoint_dir in served.checkpoints.items():
            from serve.backends.vllm import VllmBackend  # for the same reason

            backends[name] = VllmBackend(
                name,
                checkpoint_dir,
                config.vllm,
                metrics,
                context_tokens=config.context_tokens,
                max_parallel=config.max_parallel,
                sampling=config.sampling,
                task=tasks.get(name),
            )
        backends |= cascades_over(config.cascades, backends)
        observers: list[Observer] = [record] if record else []
        routers = [live_traffic.cascades, *([playground.router] if config.playground else [])]
        live = None
        if storage is not None:
            live = LiveTraffic(
                storage, experiments_over(config.experiments, backends, storage, metrics)
            )
            backends |= live.experiments
            observers.append(AnswerLog(storage))
            routers.append(live_traffic.router)
        app = create_app(
            backends,
            keyring=keyring,
            routers=routers,
            open_paths=playground.OPEN_PATHS if config.playground else (),
            observers=observers,
            watcher=watcher,
            metrics=metrics,
            fallback_model=config.fallback_model,
            limits=_app_limits(config, keyring),
            task=served.task,
            find_more=live.dealer.find if live else lambda _name: None,
        )
        app.state.live = live
        serve(app, listener, config, names=names)


def model_paths(config: ServeConfig, facts: GgufFacts, gguf_dir: Path) -> dict[str, Path]:
    """Find the file behind every model name, in the order of the configuration.

    Raises:
        ConfigError: A name is neither an alias nor a file of the gguf stage.
    """
    files = {file.name: gguf_dir / file.file for file in facts.files}
    aliases = {"student": files[facts.recommended]}
    if facts.teacher_files:
        aliases["teacher"] = files[facts.teacher_files[0].name]
    paths = _chosen(config, aliases | files, aliases) | config.paths
    return {name: path for name, path in paths.items() if name not in config.upstreams}


def _chosen(
    config: ServeConfig, known: Mapping[str, Path], defaults: Iterable[str]
) -> dict[str, Path]:
    for name in config.models:
        if name not in known:
            raise ConfigError(
                f"there is no model {name!r} here",
                where="serve.models",
                expected=" | ".join(known),
                hint="serve.paths serves a file from elsewhere",
            )
    return {name: known[name] for name in config.models or defaults}


def _app_limits(config: ServeConfig, keyring: Keyring | None) -> AppLimits:
    # A web page that reaches the server by DNS rebinding has no key.
    hosts = {"*"} if keyring else {*LOOPBACK_HOSTS, config.host, *config.allowed_hosts}
    return AppLimits(
        max_body_bytes=config.max_body_bytes,
        body_timeout_seconds=config.body_timeout_seconds,
        request_timeout_seconds=config.request_timeout_seconds,
        allowed_hosts=hosts,
        cors_origins=config.cors_origins,
    )


def _served_tasks(
    task: Task | None, config: ServeConfig, facts: GgufFacts
) -> dict[str, ServedTask]:
    """Return the task of each model of the run, by name; files from elsewhere have none."""
    if task is None:
        return {}
    roles: dict[str, Role] = {"student": "student", "teacher": "teacher"}
    roles |= {file.name: file.role for file in facts.files}
    served = {
        role: ServedTask(task, role, enforces_schema=config.task_schema)
        for role in set(roles.values())
    }
    return {name: served[role] for name, role in roles.items() if name not in config.paths}


def _check_fallback(name: str | None, names: Collection[str]) -> None:
    if name is not None and name not in names:
        raise ConfigError(
            f"there is no model {name!r} to fall back to",
            where="serve.fallback_model",
            expected=" | ".join(names),
        )


def _require_key(host: str, keyring: Keyring | None) -> None:
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback and keyring is None:
        raise ConfigError(
            "an address that others can reach needs an API key",
            where="serve.host",
            found=host,
            hint=f"set {API_KEY_VARIABLE} or serve.keys_path, or serve on 127.0.0.1",
        )


def _open_record(path: Path | None) -> ExchangeLog | None:
    if path is None:
        return None
    record = ExchangeLog(path.expanduser())
    logger.warning("requests and answers are recorded in %s", path)
    return record


@contextmanager
def _open_telemetry(config: ServeConfig) -> Iterator[Watcher | None]:
    if config.otlp_endpoint is None:
        yield None
        return
    from serve.telemetry import Telemetry  # here, because most servers have none

    telemetry = Telemetry(config.otlp_endpoint, has_content=config.otlp_content)
    if config.otlp_content:
        logger.warning("requests and answers are sent to %s", config.otlp_endpoint)
    with closing(telemetry):
        yield telemetry


@contextmanager
def _open_storage(config: ServeConfig, path: Path | None) -> Iterator[Storage | None]:
    """Open the storage, if the configuration needs one."""
    settings = config.storage or (StorageConfig() if config.experiments else None)
    if settings is None:
        yield None
        return
    if path is None and settings.url is None:
        raise ConfigError(
            "without a run, live traffic needs a database",
            where="serve.storage.url",
            expected="a URL, such as sqlite:///traffic.sqlite",
        )
    with opened(settings, path or Path()) as storage:
        yield storage
