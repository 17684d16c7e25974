"""The serving stage: the GGUF files of a run, or other ones, behind OpenAI's API.

In: a finished gguf stage, or files. Out: an endpoint, until a signal stops it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from potstill.api_keys import API_KEY_VARIABLE
from potstill.errors import ConfigError
from potstill.manifest import Manifest
from potstill.rundir import RunDirectory
from serve.adapters import with_adapters_of_runs
from serve.api.app import AppLimits, create_app
from serve.api.middleware import LOOPBACK_HOSTS
from serve.backends.local.swappable import SwappableBackend
from serve.backends.protocol import ChatBackend, Observer, Watcher
from serve.config import ServeConfig
from serve.exchange_log import ExchangeLog
from serve.experiment import routes as live_traffic
from serve.experiment.answer_log import store_answer
from serve.experiment.construction import cascades_over, check_names, experiments_over
from serve.experiment.routes import LiveTraffic
from serve.files import named_files
from serve.following import Follower
from serve.keys import Keyring, SeveralKeys, load_keys
from serve.listening import bound_socket, serve
from serve.loading import load_models
from serve.metrics import Metrics
from serve.models import Models, chosen, models_of
from serve.playground import routes as playground
from serve.storage.config import StorageConfig
from serve.storage.storage import Storage, opened

logger = logging.getLogger(__name__)


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
    models = models_of(config, run_directory, is_verified=True)
    # vLLM takes the GPU's memory: a second student beside the first has none left.
    is_followed = config.versions and config.engine == "llama.cpp"
    _run(config, models, partial(models_of, config, run_directory) if is_followed else None)
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
    paths = chosen(config, files, files) | config.paths
    if "context_tokens" not in config.model_fields_set:
        config = config.model_copy(update={"context_tokens": 0})
    _run(config, Models(paths))


def _run(given: ServeConfig, served: Models, follow: Callable[[], Models] | None = None) -> None:
    """Serve models.

    Args:
        follow: Returns the models that are to be served once the run's versions have changed; None:
            these are served to the end.
    """
    config, tasks = with_adapters_of_runs(given, served.paths)
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
        several = SeveralKeys(keyring)
        swappable = {
            name: SwappableBackend(local, served.version if name in served.students else None)
            for name, local in load_models(
                config, served.paths, metrics, tasks, served.adapters, has_owners=several
            ).items()
        }
        follower = None
        if follow is not None:
            load = partial(load_models, metrics=metrics, has_owners=several)
            follower = Follower(given, served, follow, load, swappable)
        backends: dict[str, ChatBackend] = {**swappable}
        for name, upstream in config.upstreams.items():
            # Here, because most servers have none, and its client takes long to import.
            from serve.backends.upstream import UpstreamBackend

            backends[name] = UpstreamBackend(
                name,
                upstream,
                metrics,
                task=tasks.get(name),
                max_queue=config.max_queue,
                has_owners=several,
            )
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
                max_queue=config.max_queue,
                has_owners=several,
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
            observers.append(partial(store_answer, storage))
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
            beside=follower.run if follower else None,
        )
        app.state.live = live
        serve(app, listener, config, names=names)


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
