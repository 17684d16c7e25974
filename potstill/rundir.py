"""The run directory: every path of a run, and the life of a stage in it.

In: the run's directory. Out: paths, and `StageSession`s that end in a manifest or leave their
partial work to be resumed. No other module builds paths inside a run.

A stage's files are written into `<stage>.partial/`. When they are complete the manifest is written
into it and the directory is renamed to `<stage>/`: a directory under its final name is complete.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from potstill import former_names
from potstill.errors import ArtifactError, ManifestMismatchError
from potstill.facts.base import STAGE_NAMES, Facts, StageName
from potstill.files import (
    HINTS,
    disk_errors,
    remove_unfinished,
    sync_path,
    write_text_atomically,
)
from potstill.manifest import (
    MANIFEST_NAME,
    Input,
    Manifest,
    build_manifest,
    config_sha256,
    manifest_sha256,
    read_manifest,
    verify_manifest,
    write_manifest,
)

logger = logging.getLogger(__name__)

FactsT = TypeVar("FactsT", bound=Facts)

REQUEST_NAME = "request.json"
SCRATCH_NAME = "scratch"
ABSENT = "(absent)"


class RunDirectory:
    """All paths of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def config_path(self) -> Path:
        """The run's resolved configuration."""
        return self.root / "config.toml"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: what every stage measured while it worked."""
        return self.root / "metrics.jsonl"

    @property
    def step_path(self) -> Path:
        """What the process that works on the run does now; absent where none does."""
        return self.root / "step.json"

    @property
    def estimate_path(self) -> Path:
        """The seconds that each stage was estimated to take, before the run began."""
        return self.root / "estimate.json"

    @property
    def review_path(self) -> Path:
        """People's decisions on the run's answers, one a line; nothing removes them."""
        return self.root / "review.jsonl"

    @property
    def tensorboard_dir(self) -> Path:
        """TensorBoard's directory, if training reports to it."""
        return self.root / "tensorboard"

    @property
    def traffic_path(self) -> Path:
        """Live traffic, unless it is stored in another database."""
        return self.root / "traffic.sqlite"

    @property
    def live_dir(self) -> Path:
        """Cached judgments of live traffic."""
        return self.root / "live"

    @property
    def versions_path(self) -> Path:
        """The versions of the served student, and which one is served; absent before an update."""
        return self.root / "versions.json"

    @property
    def answers_dir(self) -> Path:
        """Answers and readings that a further comparison takes, as people have labeled them."""
        return self.root / "answers"

    def stage_dir(self, stage: StageName) -> Path:
        """Directory of a finished stage."""
        return self.root / stage

    def pinned(self, stage: StageName) -> str:
        """Return what identifies a stage's content, wherever the run is; files are not verified.

        Raises:
            ArtifactError: The stage is not finished, or its manifest is damaged.
        """
        read_manifest(self.stage_dir(stage))
        return manifest_sha256(self.stage_dir(stage))

    def partial_dir(self, stage: StageName) -> Path:
        """Directory a stage works in before it is finished."""
        return self.root / f"{stage}.partial"

    def replaced_dir(self, stage: StageName) -> Path:
        """Directory that keeps a stage's former result until the new one is finished."""
        return self.root / f"{stage}.replaced"

    def require_run(self) -> None:
        """Check that there is a run: a configuration, or a stage that is finished or begun.

        Raises:
            ArtifactError: There is none.
        """
        dirs = (find(stage) for stage in STAGE_NAMES for find in (self.stage_dir, self.partial_dir))
        if not any(path.exists() for path in (self.config_path, *dirs)):
            raise ArtifactError(
                "there is no run in this directory",
                where=self.root,
                expected=f"a directory with config.toml or one of {', '.join(STAGE_NAMES)}",
                hint=f"potstill run makes one; {HINTS[FileNotFoundError]}",
            )

    def is_finished(self, stage: StageName) -> bool:
        """Whether the stage has a result under its final name."""
        return (self.stage_dir(stage) / MANIFEST_NAME).is_file()

    def require(self, stage: StageName) -> Manifest:
        """Verify a finished stage and return its manifest.

        Raises:
            ArtifactError: It is missing or damaged.
        """
        return verify_manifest(self.stage_dir(stage))

    def facts(self, kind: type[FactsT]) -> FactsT:
        """Return a finished stage's facts; its files are not verified.

        Raises:
            ArtifactError: The stage is not finished, or this potstill cannot read its facts.
        """
        directory = self.stage_dir(kind.stage)
        facts = read_manifest(directory).facts
        if not isinstance(facts, kind):
            raise ArtifactError(
                f"the {kind.stage} stage has no facts",
                where=directory / MANIFEST_NAME,
                expected=kind.__name__,
                hint=f"make the {kind.stage} stage again with --force",
            )
        return facts

    def set_aside(self, stage: StageName) -> None:
        """Make the stage run again; its former result stays until the new one is finished."""
        with disk_errors("setting a stage aside", self.root):
            _remove(self.partial_dir(stage))
            if self.stage_dir(stage).exists():
                _remove(self.replaced_dir(stage))
                self.stage_dir(stage).rename(self.replaced_dir(stage))

    @contextmanager
    def locked(self, name: str = "", *, shared: bool = False, wait: bool = False) -> Iterator[None]:
        """Hold the run for this process.

        Args:
            name: What to lock: "" for the run, or the name of one of several shares of the work.
            shared: Allow other processes to hold it shared too.
            wait: Wait for a process that holds it instead of raising.

        Raises:
            ArtifactError: Another process works on the run.
        """
        with disk_errors("creating the run directory", self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / f".lock{name}", os.O_RDWR | os.O_CREAT)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            raise ArtifactError(
                "another potstill process is working on this run",
                where=self.root,
                hint="wait for it to end, or name another run directory",
            ) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def open_stage(
        self,
        stage: StageName,
        config: Mapping[str, Any],
        inputs: tuple[StageName, ...] = (),
        *,
        replace: bool = False,
    ) -> StageSession:
        """Begin or resume a stage, or find it finished.

        Args:
            config: The stage's configuration as JSON values.
            inputs: The stages it reads; each is verified first.
            replace: Make the stage again when its configuration has changed, instead of refusing;
                for a stage that takes seconds.

        Raises:
            ArtifactError: An input is missing or damaged.
            ManifestMismatchError: There is a result or partial work of another configuration.
        """
        pinned = []
        for name in inputs:
            self.require(name)
            pinned.append(Input(path=name, manifest_sha256=manifest_sha256(self.stage_dir(name))))
        session = StageSession(self, stage, dict(config), tuple(pinned), replace=replace)
        with disk_errors("opening a stage", self.partial_dir(stage)):
            session.open()
        return session


class StageSession:
    """One stage in progress: finished already, or with a partial directory to fill.

    Attributes:
        finished: The manifest if there is nothing left to do, else None.
        dir: Where to write; it still holds the work of an interrupted run.
        scratch_dir: For files that are needed only until the stage is finished.
    """

    def __init__(
        self,
        run: RunDirectory,
        stage: StageName,
        config: dict[str, Any],
        inputs: tuple[Input, ...],
        *,
        replace: bool,
    ) -> None:
        self.stage = stage
        self.dir = run.partial_dir(stage)
        self.scratch_dir = self.dir / SCRATCH_NAME
        self.finished: Manifest | None = None
        self._run = run
        self._config = config
        self._inputs = inputs
        self._replace = replace
        self._started = time.monotonic()

    def open(self) -> None:
        """Detect whether the stage is finished, partial or new."""
        if self._run.is_finished(self.stage):
            directory = self._run.stage_dir(self.stage)
            manifest = verify_manifest(directory)
            if self._is_asked_for(manifest.config, manifest.inputs, directory):
                self.finished = manifest
                _remove(self._run.replaced_dir(self.stage))
                return
            self._run.set_aside(self.stage)
        if (self.dir / MANIFEST_NAME).is_file():
            manifest = verify_manifest(self.dir)
            if self._is_asked_for(manifest.config, manifest.inputs, self.dir):
                self.finished = self._move_into_place(manifest)
                return
        self._resume_or_begin()

    def finish(
        self,
        *,
        rows: Mapping[str, int] | None = None,
        facts: Facts | None = None,
        stats: Mapping[str, float] | None = None,
    ) -> Manifest:
        """Describe the files, write the manifest last, and give the directory its final name.

        Args:
            rows: Number of table rows by file name.
            facts: What later stages may rely on.
            stats: What it cost; `seconds` of this process's share are added.
        """
        with disk_errors("finishing a stage", self.dir):
            remove_unfinished(self.dir)
            manifest = build_manifest(
                self.stage,
                self.dir,
                self._config,
                self._inputs,
                exclude=(REQUEST_NAME, SCRATCH_NAME),
                rows=rows,
                facts=facts,
                stats={"seconds": round(time.monotonic() - self._started, 1), **(stats or {})},
            )
            for output in manifest.outputs:
                sync_path(self.dir / output.path)
            write_manifest(manifest, self.dir)
            return self._move_into_place(manifest)

    def _resume_or_begin(self) -> None:
        request = {
            "config": self._config,
            "inputs": [pinned.model_dump() for pinned in self._inputs],
        }
        request_path = self.dir / REQUEST_NAME
        if request_path.is_file():
            config, inputs = _read_request(request_path)
            if self._is_asked_for(config, tuple(Input(**pinned) for pinned in inputs), self.dir):
                logger.info("%s: resumed where it was interrupted", self.stage)
                return
        _remove(self.dir)
        self.dir.mkdir(parents=True)
        write_text_atomically(request_path, json.dumps(request, indent=2) + "\n")

    def _is_asked_for(
        self, config: Mapping[str, Any], inputs: tuple[Input, ...], where: Path
    ) -> bool:
        """Return whether the existing work can be kept; otherwise it is made again.

        Raises:
            ManifestMismatchError: It was made with another configuration.
        """
        if config_sha256(config) != config_sha256(self._config):
            key, was, now = next(_differences(config, self._config, self.stage))
            if not self._replace:
                raise ManifestMismatchError(
                    f"the {self.stage} stage was made with another configuration",
                    where=where,
                    expected=f"{key} = {now!r} (configured now)",
                    found=f"{key} = {was!r}",
                    hint="--force makes it again and replaces it; or name another run directory",
                )
            logger.info("%s: made again, because %s has changed", self.stage, key)
            return False
        if inputs != self._inputs:
            logger.info("%s: made again, because an input has changed", self.stage)
        return inputs == self._inputs

    def _move_into_place(self, manifest: Manifest) -> Manifest:
        (self.dir / REQUEST_NAME).unlink(missing_ok=True)
        _remove(self.scratch_dir)
        final = self._run.stage_dir(self.stage)
        if final.exists():
            _remove(self._run.replaced_dir(self.stage))
            final.rename(self._run.replaced_dir(self.stage))
        self.dir.rename(final)
        sync_path(self._run.root)
        _remove(self._run.replaced_dir(self.stage))
        return manifest


def _read_request(path: Path) -> tuple[dict[str, Any], Any]:
    try:
        found = former_names.in_artifact(json.loads(path.read_text(encoding="utf-8")))
        return dict(found["config"]), found["inputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            "the request of an interrupted stage cannot be read",
            where=path,
            expected="JSON with config and inputs",
            found=error,
            hint="--force makes the stage again",
        ) from error


def _differences(
    was: Mapping[str, Any], now: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*was, *now}):
        old, new = was.get(key, ABSENT), now.get(key, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}.{key}")
        elif old != new:
            yield f"{prefix}.{key}", old, new


def _remove(directory: Path) -> None:
    if directory.exists():
        (directory / REQUEST_NAME).unlink(missing_ok=True)  # What a kill leaves is not resumed.
        shutil.rmtree(directory)
